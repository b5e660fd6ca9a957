// Package audit is the hash chain of the audit record: one function that the
// coordinators' state machine and an auditor's offline check both call, so that
// they cannot disagree about the bytes.
//
// Invariant: entry n carries the hash of entry n-1, and its own hash covers all
// of its other fields; changing, removing or inserting an entry breaks every
// hash after it.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// domain keeps these hashes apart from every other SHA-256 in the system.
const domain = "vedette-audit-v1\x00"

// ErrBroken is what Verify wraps when the chain does not hold.
var ErrBroken = errors.New("audit chain is broken")

// Genesis is the previous hash of entry 1: 32 zero bytes.
func Genesis() []byte { return make([]byte, sha256.Size) }

// Hash computes the hash of an entry from all its fields but Hash itself:
//
//	SHA-256( "vedette-audit-v1\0"
//	  || index as 8 bytes big-endian || time as 8 bytes big-endian
//	  || for each of actor, action, subject, detail, previous:
//	     its length in bytes as 4 bytes big-endian || its bytes )
//
// The lengths make the encoding unambiguous: no byte can move from one field
// to the next without changing the hash.
func Hash(e *operatorv1.AuditEntry) []byte {
	b := make([]byte, 0, 256)
	b = append(b, domain...)
	b = binary.BigEndian.AppendUint64(b, e.GetIndex())
	b = binary.BigEndian.AppendUint64(b, uint64(e.GetTime()))
	for _, field := range []string{e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(), string(e.GetPrevious())} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
		b = append(b, field...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// Verify checks that entries continue the chain after the entry with index
// after and hash previous (0 and Genesis for the beginning), and returns the
// hash to continue with. The first entry that does not fit is named.
func Verify(after uint64, previous []byte, entries []*operatorv1.AuditEntry) ([]byte, error) {
	for _, e := range entries {
		after++
		if e.GetIndex() != after {
			return nil, fmt.Errorf("%w: entry %d is missing, found %d", ErrBroken, after, e.GetIndex())
		}
		if !bytes.Equal(e.GetPrevious(), previous) {
			return nil, fmt.Errorf("%w: entry %d does not follow entry %d", ErrBroken, after, after-1)
		}
		if !bytes.Equal(Hash(e), e.GetHash()) {
			return nil, fmt.Errorf("%w: entry %d was changed", ErrBroken, after)
		}
		previous = e.GetHash()
	}
	return previous, nil
}
