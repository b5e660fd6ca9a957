package detect

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// plausible are values of fields whose text has a form.
var plausible = map[int]string{
	taxonomy.LogonID: "1000", taxonomy.SourceIP: "10.0.0.1", taxonomy.DestinationIP: "10.0.0.2", taxonomy.OriginIP: "192.0.2.1",
	taxonomy.SourcePort: "4000", taxonomy.DestinationPort: "443", taxonomy.Initiated: "true", taxonomy.Protocol: "tcp",
	taxonomy.AuditEUID: "0", taxonomy.EffectiveUID: "0", taxonomy.PreviousUID: "1000", taxonomy.Operation: "write", taxonomy.FileClass: "web",
	taxonomy.Succeeded: "false", taxonomy.Error: "EPERM", taxonomy.Marks: "gained", taxonomy.Namespaces: "mount", taxonomy.Capabilities: "sys_admin",
	taxonomy.Traits: event.TraitDeleted, taxonomy.ParentTraits: event.TraitDeleted, taxonomy.LoadedTraits: event.TraitDeleted,
	taxonomy.InSession: "true", taxonomy.Installs: "true", taxonomy.Serves: "true", taxonomy.Known: "true", taxonomy.SetID: "true",
}

// unstaged are fields that no example makes, with how they come about.
func unstaged(h *host, o *event.Observation, field int) {
	for _, p := range []*event.Process{o.Process, o.Target} {
		if p != nil {
			p.Hashed, p.SessionID, p.LoginUID = true, 1, 1000
		}
	}
	if o.Target == nil {
		o.Target = h.process(nil, "/srv/target")
		o.Target.User = "example"
	}
	if p, ok := o.Event.(*event.Privilege); ok {
		p.Operation, p.Command = event.OpPtrace, 16 // PTRACE_ATTACH
		if field == taxonomy.Namespaces {
			p.Operation, p.Arguments = event.OpUnshare, 0x00020000 // CLONE_NEWNS
		}
	}
}

// Ensure that each field which rules may name is one that this sensor's events give, and that
// what a field is said to hold is all that it does. The list is not the sensor's, and the CLI
// checks rules by it.
func TestTaxonomy(t *testing.T) {
	h := newHost()
	for _, source := range taxonomy.Schema {
		for _, name := range slices.Sorted(maps.Keys(source.Fields)) {
			n := source.Fields[name]
			closed, isClosed := source.Values[n]
			if isClosed && len(closed) == 0 {
				continue
			}
			value := "x"
			if v := plausible[n]; v != "" {
				value = v
			}
			if isClosed {
				value = closed[0]
			}
			example := sigma.Example{n: {value}}
			if n == taxonomy.AuditKey {
				example = sigma.Example{}
			}
			s := &staged{example: example}
			o, v, err := s.observation(h, source.Of)
			if source.Of == "authentication" {
				p := s.process(h)
				o, err = &event.Observation{Time: h.tick(), Process: p, Event: &event.Login{
					User: "example", Terminal: "pts/0", Via: "sshd", Source: netip.MustParseAddrPort("192.0.2.1:4000"),
				}}, nil
			}
			if err != nil {
				t.Errorf("%s %s: %v", source.Of, name, err)
				continue
			}
			unstaged(h, o, n)
			r := &record{}
			r.reset(o, v)
			got := r.Field(n)
			if len(got) == 0 {
				t.Errorf("%s%s: no event gives %s", source.Service, fmt.Sprintf(" %s", source.Of), name)
			}
			for _, v := range got {
				if isClosed && !slices.Contains(closed, v) {
					t.Errorf("%s %s: %s is %q, which the list does not have: %q", source.Service, source.Of, name, v, closed)
				}
			}
		}
		if categoryOf(nil) == source.Of {
			t.Errorf("%q is the kind of what is none", source.Of)
		}
	}
	for op := event.FileWrite; op < event.FileMapExec; op++ {
		if op == event.FileChange {
			continue
		}
		if len(fileCalls[op]) == 0 {
			t.Errorf("the list has no calls for %s", op)
		}
	}
}
