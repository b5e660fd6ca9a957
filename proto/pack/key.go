package pack

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// KeyOf is a behaviour's name in every store, the same on every host: the first bytes of
// SHA-256 over kind, subject and object, each length-prefixed. Whoever reads what a host or a
// node says of a behaviour makes the key again: the words and the key come from the same mouth.
func KeyOf(kind byte, subject, object string) [KeySize]byte {
	buf := make([]byte, 0, 256)
	buf = binary.BigEndian.AppendUint32(buf, 1)
	buf = append(buf, kind)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(subject))) //nolint:gosec // at most MaxName
	buf = append(buf, subject...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(object))) //nolint:gosec // at most MaxName
	buf = append(buf, object...)
	sum := sha256.Sum256(buf)
	return [KeySize]byte(sum[:KeySize])
}

// Is says whether a key is the behaviour's.
func Is(key []byte, b *sensorv1.PackBehaviour) bool {
	return string(key) == string(keyOf(b))
}

func keyOf(b *sensorv1.PackBehaviour) []byte {
	key := KeyOf(byte(b.GetKind()), string(b.GetSubject()), string(b.GetObject())) //nolint:gosec // kinds are few
	return key[:]
}
