package backup_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/seal"
)

var manifest = backup.Manifest{Format: 1, ClusterID: "c-test", Node: "n1", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1", Index: 42, Term: 3,
	Rows: map[string]uint64{"hosts": 7}, Authority: "A", Operators: "O", AuthorityKey: "K"}

func made(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, manifest)
	if err != nil {
		t.Fatal(err)
	}
	for len(content) > 0 { // pieces that are no multiple of a chunk
		n := min(len(content), 70_001)
		if _, err := w.Write(content[:n]); err != nil {
			t.Fatal(err)
		}
		content = content[n:]
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func sealed(t testing.TB, plain []byte, recipients []string, passphrase string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := seal.Encrypt(&out, recipients, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// read opens and reads all of it.
func read(file []byte, keys seal.Keys) (backup.Manifest, []byte, error) {
	r, _, err := backup.Open(bytes.NewReader(file), keys)
	if err != nil {
		return backup.Manifest{}, nil, err
	}
	content, err := io.ReadAll(r)
	return r.Manifest(), content, err
}

// Ensure what is written is read, plain or encrypted, of any size.
func TestRoundTrip(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys := seal.Keys{Identities: "# created by a tool\n" + key.String() + "\n"}
	for _, size := range []int{0, 1, 1 << 20, 3<<20 + 17} {
		content := noise(size)
		plain := made(t, content)
		for name, file := range map[string][]byte{"plain": plain, "encrypted": sealed(t, plain, []string{key.Recipient().String()}, "")} {
			m, got, err := read(file, keys)
			if err != nil || !bytes.Equal(got, content) || !reflect.DeepEqual(m, manifest) {
				t.Errorf("%s, %d bytes: got %d bytes, %+v, %v", name, size, len(got), m, err)
			}
		}
	}
	file := sealed(t, made(t, noise(100)), nil, "correct horse")
	if _, _, err := read(file, seal.Keys{Passphrase: "correct horse"}); err != nil {
		t.Errorf("passphrase: %v", err)
	}
	for name, tt := range map[string]struct {
		keys seal.Keys
		want error
	}{
		"wrong passphrase": {seal.Keys{Passphrase: "wrong horse"}, seal.ErrKey},
		"nothing":          {seal.Keys{}, seal.ErrEncrypted},
		"key for a phrase": {keys, seal.ErrKey},
	} {
		if _, _, err := read(file, tt.keys); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, _, err := read(file, seal.Keys{Identities: "AGE-SECRET-KEY-1SECRETS"}); err == nil || strings.Contains(err.Error(), "SECRETS") {
		t.Errorf("a broken key: got %v, want an error that does not show it", err)
	}
	for _, bad := range []struct {
		to     []string
		phrase string
	}{{}, {to: []string{"age1nonsense"}}, {to: []string{key.Recipient().String()}, phrase: "x"}} {
		if _, err := seal.Encrypt(io.Discard, bad.to, bad.phrase); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// Ensure no torn and no changed file is taken for a whole one, wherever it happened.
func TestDamaged(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys := seal.Keys{Identities: key.String()}
	plain := made(t, noise(200))
	for name, file := range map[string][]byte{"plain": plain, "encrypted": sealed(t, plain, []string{key.Recipient().String()}, "")} {
		for at := range file {
			if _, _, err := read(file[:at], keys); err == nil {
				t.Fatalf("%s: cut off at %d of %d it is taken for whole", name, at, len(file))
			}
			changed := bytes.Clone(file)
			changed[at] ^= 1 << (at % 8)
			if _, _, err := read(changed, keys); err == nil {
				t.Fatalf("%s: changed at %d of %d it is taken for whole", name, at, len(file))
			}
		}
		if _, _, err := read(append(bytes.Clone(file), 0), keys); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: something behind its end: got %v", name, err)
		}
	}
	for text, want := range map[string]error{"": backup.ErrNot, "VDTBKUP": backup.ErrNot, "hello, world, this is a text": backup.ErrNot,
		"VDTBKUP2............": backup.ErrNewer, "VDTBKUP1\x00\x00\x00\x0e{\"format\": 9 }": backup.ErrNewer, "VDTBKUP1\x00\x00": backup.ErrDamaged,
		"VDTBKUP1\xff\xff\xff\xff": backup.ErrDamaged, "VDTBKUP1\x00\x00\x00\x02{}": backup.ErrDamaged, "VDTBKUP1\x00\x00\x00\x02[]": backup.ErrDamaged} {
		if _, err := backup.Check(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
}

// A file from anywhere must cost no more than its own size, and never be taken for
// whole when it does not have its checksum.
func FuzzOpen(f *testing.F) {
	whole := made(f, noise(300))
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte("VDTBKUP1\x00\x00\x00\x02{}"))
	f.Add([]byte("age-encryption.org/v1\n-> scrypt AAAA 18\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		m, content, err := read(file, seal.Keys{})
		if err == nil && (len(content) > len(file) || m.Format != 1) {
			t.Errorf("%d bytes of %d, %+v", len(content), len(file), m)
		}
	})
}
