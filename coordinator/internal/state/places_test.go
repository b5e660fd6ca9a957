package state_test

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure one identity that two living processes use is told, with both places, once an
// hour; and that a sensor which is restarted, its host rebooted or moved, is not.
func TestTwoPlaces(t *testing.T) {
	l := newLog(t)
	session := uint64(0)
	from := func(minutes int64, host, address string, kernel, process []byte) {
		t.Helper()
		session++
		l.want("", at(minutes, command(&raftv1.HostSession{Host: host, Node: "n1", Connected: true, Session: session, Address: address,
			KernelBoot: kernel, Instance: process})))
	}
	told := func(want int) string {
		t.Helper()
		rows, _, err := l.db.Findings(t.Context(), store.FindingFilter{}, store.Page{})
		if err != nil || len(rows) != want {
			t.Fatalf("%d findings, want %d: %v, %v", len(rows), want, rows, err)
		}
		if want == 0 {
			return ""
		}
		f := rows[0].GetFinding()
		if f.GetKind() != "two-places" || f.GetSeverity() != "high" {
			t.Errorf("it is %v", f)
		}
		h, err := l.db.Host(t.Context(), rows[0].GetHost())
		if err != nil || h.GetTwoPlaces() != f.GetId() || h.GetTwoPlacesAt() != f.GetTime() {
			t.Errorf("the host says %q at %d: %v", h.GetTwoPlaces(), h.GetTwoPlacesAt(), err)
		}
		return f.GetReason()
	}
	instance := func(n byte) []byte { return append([]byte("instance-of-host"), n)[1:] }
	// What happens to an honest host.
	l.host("h-1")
	from(0, "h-1", "10.0.0.1", kernel1, instance(1))
	from(1, "h-1", "10.0.0.1", kernel1, instance(1)) // another node
	from(2, "h-1", "10.0.0.9", kernel1, instance(1)) // it moved
	from(3, "h-1", "10.0.0.1", kernel1, instance(1)) // and back
	from(4, "h-1", "10.0.0.1", kernel1, instance(2)) // restarted
	for n := byte(3); n < 20; n++ {
		from(int64(n)+2, "h-1", "10.0.0.1", hash(string(n))[:16], instance(n)) // rebooted, often
	}
	from(30, "h-1", "10.0.0.1", kernel1, nil) // a sensor that does not tell
	from(31, "h-1", "10.0.0.1", kernel1, nil)
	told(0)
	// A thief with a copy of its key.
	l.host("h-2")
	kernel2 := hash("thief")[:16]
	from(40, "h-2", "10.0.0.1", kernel1, instance(1))
	from(41, "h-2", "192.0.2.66", kernel2, instance(66))
	told(0) // it may be the same machine, reinstalled
	from(42, "h-2", "10.0.0.1", kernel1, instance(1))
	reason := told(1)
	for _, word := range []string{"10.0.0.1", "192.0.2.66", "two machines", "host remove"} {
		if !strings.Contains(reason, word) {
			t.Errorf("%q does not say %q", reason, word)
		}
	}
	for minutes := int64(43); minutes < 100; minutes += 2 {
		from(minutes, "h-2", "192.0.2.66", kernel2, instance(66))
		from(minutes+1, "h-2", "10.0.0.1", kernel1, instance(1))
	}
	told(1) // once an hour
	from(104, "h-2", "192.0.2.66", kernel2, instance(66))
	told(2)
	// Two on one machine.
	l.host("h-3")
	from(110, "h-3", "10.0.0.3", kernel1, instance(1))
	from(111, "h-3", "10.0.0.3", kernel1, instance(2))
	from(112, "h-3", "10.0.0.3", kernel1, instance(1))
	if reason := told(3); !strings.Contains(reason, "one machine") {
		t.Errorf("it says %q", reason)
	}
}
