package audit

import (
	"encoding/hex"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func chain(n int) []*operatorv1.AuditEntry {
	var entries []*operatorv1.AuditEntry
	previous := Genesis()
	for i := 1; i <= n; i++ {
		e := &operatorv1.AuditEntry{
			Index: uint64(i), Time: int64(i) * 1e9, Actor: "operator:ada", Action: "token-create",
			Subject: "tok", Detail: "kind sensor", Previous: previous,
		}
		e.Hash = Hash(e)
		previous = e.Hash
		entries = append(entries, e)
	}
	return entries
}

// Ensure the bytes that are hashed never change: an auditor's old export must verify for ever.
func TestHashIsPinned(t *testing.T) {
	got := hex.EncodeToString(chain(2)[1].GetHash())
	const want = "f471715a8cacfdcd1484c3025db8d81ab7dd7fed5e936465cc8818b84a6bb6f1"
	if got != want {
		t.Errorf("hash of the pinned chain = %s, want %s", got, want)
	}
}

// Ensure every way of tampering is found, and named.
func TestVerify(t *testing.T) {
	tests := []struct {
		name   string
		tamper func([]*operatorv1.AuditEntry) []*operatorv1.AuditEntry
		broken bool
	}{
		{"untouched", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry { return e }, false},
		{"detail changed", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry { e[2].Detail = "kind node"; return e }, true},
		{"byte moved between fields", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry {
			e[2].Subject, e[2].Detail = "tokk", "ind sensor"
			return e
		}, true},
		{"entry removed", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry { return append(e[:2], e[3:]...) }, true},
		{"entry rehashed alone", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry {
			e[2].Actor = "operator:eve"
			e[2].Hash = Hash(e[2])
			return e
		}, true},
		{"first removed", func(e []*operatorv1.AuditEntry) []*operatorv1.AuditEntry { return e[1:] }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var entries []*operatorv1.AuditEntry
			for _, e := range chain(5) {
				entries = append(entries, proto.Clone(e).(*operatorv1.AuditEntry))
			}
			_, err := Verify(0, Genesis(), tt.tamper(entries))
			if got := errors.Is(err, ErrBroken); got != tt.broken {
				t.Errorf("broken = %v (%v), want %v", got, err, tt.broken)
			}
		})
	}
}
