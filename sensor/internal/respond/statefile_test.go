package respond

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Ensure every torn or turned byte of a state file is noticed.
func TestStateFile(t *testing.T) {
	f := stateFile{filepath.Join(t.TempDir(), "isolation.lease")}
	if r, _, err := f.load(); err != nil || r.Lease != nil {
		t.Fatalf("no file: got %v, %v", r, err)
	}
	clock := &fakeClock{wall: time.Now(), boot: time.Hour, id: "b"}
	want := record{Lease: newLease(clock, time.Hour), Nonces: []usedNonce{{Nonce: []byte{1}, Until: 2}}}
	want.Lease.Phase, want.Lease.Operation = phaseApplied, "op-1"
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v; want 0600", info.Mode(), err)
	}
	got, _, err := f.load()
	if err != nil || got.Lease.Operation != "op-1" || got.Lease.BootDeadline != 2*time.Hour || len(got.Nonces) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	whole, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if _, err := decode(whole[:cut]); !errors.Is(err, errDamaged) {
			t.Fatalf("torn at %d: got %v", cut, err)
		}
	}
	for i := range whole {
		turned := append([]byte{}, whole...)
		turned[i] ^= 0x20
		if _, err := decode(turned); !errors.Is(err, errDamaged) {
			t.Fatalf("byte %d turned: got %v", i, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(f.path)); err != nil || len(entries) != 1 {
		t.Errorf("left beside the file: %v, %v", entries, err)
	}
	if err := os.WriteFile(f.path, []byte(strings.Repeat("x", maxStateBytes+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.load(); !errors.Is(err, errDamaged) {
		t.Errorf("oversized: got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	whole, err := encode(record{Lease: &lease{Phase: phaseApplied, Length: time.Hour}, Nonces: []usedNonce{{Nonce: []byte{1}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(stateMagic + " \n{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decode(raw)
		if err != nil {
			return
		}
		if r.Lease != nil && r.Lease.Length > MaxLease {
			t.Errorf("a lease of %s was accepted", r.Lease.Length)
		}
		if _, err := encode(r); err != nil {
			t.Error(err)
		}
	})
}
