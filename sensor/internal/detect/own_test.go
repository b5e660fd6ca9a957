package detect

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure the rules on packet sockets know who opens them all day, and who never does.
func TestBuiltinSockets(t *testing.T) {
	for _, tt := range []struct {
		parent, image string
		socket        event.Socket
		remote        bool
		want          event.Severity
	}{
		{"/usr/bin/bash", "/usr/bin/tcpdump", event.Socket{Family: event.FamilyPacket, Type: 3, Protocol: 3}, true, ""},
		{"/usr/bin/bash", "/usr/bin/ping", event.Socket{Family: event.FamilyInet, Type: 3, Protocol: 1}, false, ""},
		{"/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-networkd", event.Socket{Family: event.FamilyPacket, Type: 2}, false, ""},
		{"/usr/bin/containerd-shim-runc-v2", "/usr/bin/runc", event.Socket{Family: event.FamilyPacket, Type: 3}, false, ""},
		{"/usr/bin/bash", "/usr/local/bin/scan", event.Socket{Family: event.FamilyPacket, Type: 3}, false, event.Low},
		{"/usr/bin/bash", "/usr/local/bin/scan", event.Socket{Family: event.FamilyInet, Type: 3, Protocol: 6, Errno: 1}, false, event.Low},
		{"/usr/bin/bash", "/usr/local/bin/vm", event.Socket{Family: event.FamilyVsock, Type: 1}, false, ""},
		{"/usr/bin/bash", "/home/eve/scan", event.Socket{Family: event.FamilyPacket, Type: 3}, true, event.High},
		{"/usr/bin/bash", "/dev/shm/x", event.Socket{Family: event.FamilyXDP, Type: 3}, false, event.High},
		{"/usr/sbin/nginx", "/usr/bin/perl", event.Socket{Family: event.FamilyPacket, Type: 3, Asked: true}, false, event.High},
	} {
		h, e := newHost(), engine(t)
		p := h.process(h.process(nil, tt.parent), tt.image, tt.image)
		if tt.remote {
			p.Origin = &event.Flow{Remote: netip.MustParseAddrPort("10.0.0.9:5555")}
		}
		findings, _ := e.Evaluate(&event.Observation{Event: &tt.socket, Time: h.tick(), Process: p}, event.Verdict{})
		got := event.Severity("")
		for _, f := range findings {
			got = f.Severity
			if !strings.Contains(f.Reason, "socket") {
				t.Errorf("%s: reason %q", tt.image, f.Reason)
			}
		}
		if got != tt.want {
			t.Errorf("%s from %s, %+v: severity %q, want %q", tt.image, tt.parent, tt.socket, got, tt.want)
		}
	}
}

// Ensure an operator's rule can match a login by who, whence and through what.
func TestAuthenticationRule(t *testing.T) {
	dir := t.TempDir()
	rule := `title: Login of root from outside
id: 11111111-2222-4333-8444-555555555555
logsource: {category: authentication, product: linux}
detection:
  selection: {User: root, vedette.Via: sshd, Terminal|startswith: 'pts/'}
  filter: {SourceIp|cidr: '10.0.0.0/8'}
  condition: selection and not filter
level: high
`
	if err := os.WriteFile(filepath.Join(dir, "r.yml"), []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	e := engine(t, func(c *Config) { c.RulesDir = dir })
	if len(e.Rejected()) > 0 {
		t.Fatal(e.Rejected())
	}
	for _, tt := range []struct {
		from string
		end  bool
		want int
	}{{"192.0.2.1:4000", false, 1}, {"10.1.2.3:4000", false, 0}, {"192.0.2.1:4000", true, 0}} {
		h := newHost()
		p := h.process(h.process(nil, "/usr/sbin/sshd"), "/usr/bin/bash", "-bash")
		p.User, p.Key.Start = "eve", uint64(tt.want+1)*77+p.Key.Start // another process each time
		login := &event.Login{User: "root", Via: "sshd", Terminal: "pts/3", Source: netip.MustParseAddrPort(tt.from), End: tt.end}
		findings, _ := e.Evaluate(&event.Observation{Event: login, Time: h.tick(), Process: p}, event.Verdict{})
		if len(findings) != tt.want {
			t.Errorf("from %s, end %v: %d findings", tt.from, tt.end, len(findings))
		}
	}
}
