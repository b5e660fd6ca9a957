package kernel

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that whatever is told of a process that was kept back comes after its introduction: it
// may have ended by the time that anybody could ask who it was.
func TestIntroductionComesBeforeWhatItDid(t *testing.T) {
	ns := newNetNS(t)
	f := openFiles(t, func(c *Config) {
		c.Scope, c.KeepKnown = Scope{Kind: ScopeNetNS, Path: ns.path}, true
	})
	ns.do(func() {
		if _, err := f.Tasks(t.Context()); err != nil {
			t.Error(err)
		}
	})
	var listener net.Listener
	var err error
	ns.do(func() { listener, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	sh := newRunner(t, ns)
	for _, does := range []struct{ what, line string }{
		{"file", "/bin/bash -c 'echo x >>" + f.tree + "/$0' %d"},
		{"rename", "/bin/bash -c 'echo x >" + f.plain + "/$0; mv " + f.plain + "/$0 " + f.tree + "' %d"},
		{"connection", fmt.Sprintf("/bin/bash -c ': </dev/tcp/127.0.0.1/%d' ", port) + "%d"},
	} {
		t.Run(does.what, func(t *testing.T) {
			before := len(f.all())
			const times = 20
			for i := range times {
				sh.run(fmt.Sprintf(does.line, i))
			}
			ran := func(events []event.Event) []*event.Exec { return execsOf(events, "bash") }
			acted := func(events []event.Event) (n int) {
				for _, e := range events {
					switch e := e.(type) {
					case *event.File:
						if strings.HasPrefix(string(e.Path), f.tree) || strings.HasPrefix(string(e.Target), f.tree) {
							n++
						}
					case *event.FlowOpen:
						if e.Dir == event.Outbound {
							n++
						}
					}
				}
				return n
			}
			// What they did too: that of the last could be told as if it belonged to what follows.
			known := ran(f.await("its starts", func(events []event.Event) bool {
				return len(ran(events[before:])) == times && acted(events[before:]) >= times
			})[before:])
			for _, e := range known {
				if err := f.Know(e.Key); err != nil {
					t.Fatal(err)
				}
			}
			// The same again, each in another file, or to who is not known by then.
			before = len(f.all())
			for i := range times {
				sh.run(fmt.Sprintf(does.line, i))
			}
			events := f.await("what they did", func(events []event.Event) bool { return acted(events[before:]) >= times })[before:]
			introduced := map[event.ProcessKey]bool{}
			early := 0
			for _, e := range events {
				switch e := e.(type) {
				case *event.Introduction:
					introduced[e.Process] = true
				case *event.Exec:
					introduced[e.Process] = true
				case *event.File:
					if !introduced[e.Process] {
						early++
					}
				case *event.FlowOpen:
					if e.Dir == event.Outbound && !introduced[e.Process] {
						early++
					}
				}
			}
			if early > 0 {
				t.Errorf("%d of %d times somebody did something before it was told who that is", early, acted(events))
			}
		})
	}
}
