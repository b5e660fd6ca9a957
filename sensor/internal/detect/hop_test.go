package detect

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure an ssh session that comes from a new place and goes on to a new host is
// told, and that either alone is not.
func TestHop(t *testing.T) {
	const from = "10.0.0.7:51000"
	known := event.Verdict{Tracked: true, Known: true, Seen: 9}
	for _, tt := range []struct {
		name           string
		inbound, later event.Verdict
		peer           string
		want           bool
	}{
		{"new place, new host", unusual(8), unusual(8), "10.0.0.9:22", true},
		{"known place, new host", known, unusual(8), "10.0.0.9:22", false},
		{"new place, known host", unusual(8), known, "10.0.0.9:22", false},
		{"new place, no log-in", unusual(8), unusual(8), "10.0.0.9:443", false},
		{"while learning", learning, learning, "10.0.0.9:22", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, e := newHost(), engine(t)
			sshd := h.process(nil, "/usr/sbin/sshd")
			accept := h.open(sshd, event.Inbound, from)
			if findings, _ := e.Evaluate(accept, tt.inbound); len(findings) > 0 {
				t.Fatalf("the log-in alone was told: %s", findings[0].Reason)
			}
			session := h.process(sshd, "/usr/sbin/sshd")
			session.Origin, session.Anchor = accept.Flow, session.Key
			image := "/usr/bin/ssh"
			if !strings.HasSuffix(tt.peer, ":22") {
				image = "/usr/bin/curl"
			}
			client := h.process(h.process(session, "/usr/bin/bash"), image, "client", tt.peer)
			findings, _ := e.Evaluate(h.open(client, event.Outbound, tt.peer), tt.later)
			if got := len(findings) == 1; got != tt.want {
				t.Fatalf("told %v, want %v: %v", got, tt.want, findings)
			}
			if !tt.want {
				return
			}
			f := findings[0]
			if f.Techniques[0] != "T1021.004" || f.Origin == nil || f.Origin.Remote != netip.MustParseAddrPort(from) {
				t.Errorf("incomplete: %+v", f)
			}
			for _, want := range []string{"10.0.0.7, from where none came before", "goes on to another host"} {
				if !strings.Contains(f.Reason, want) {
					t.Errorf("reason %q does not say %q", f.Reason, want)
				}
			}
		})
	}
}
