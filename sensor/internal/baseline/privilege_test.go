package baseline

import (
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that what is one behaviour has one name, and another one another.
func TestPrivilegeBehaviour(t *testing.T) {
	target := &event.Process{Image: "/usr/sbin/sshd"}
	for _, c := range []struct {
		ev     event.Privilege
		target *event.Process
		want   string
	}{
		{event.Privilege{Operation: event.OpSetUID, Gained: true}, nil, "setuid gained root"},
		{event.Privilege{Header: event.Header{UID: 1000}, Operation: event.OpSetUID, Result: -1}, nil, "setuid refused"},
		{event.Privilege{Operation: event.OpPtrace, Command: 16}, target, "ptrace attach /usr/sbin/sshd"},
		{event.Privilege{Operation: event.OpUnshare, Arguments: 0x40020000}, nil, "unshare mount,net"},
		{event.Privilege{Operation: event.OpMount, Call: "mount", Name: []byte("/run/user/1000")}, nil, "mount mount"},
		{event.Privilege{Operation: event.OpBPF, Command: 5, Object: 77}, nil, "bpf prog-load"},
		{event.Privilege{Operation: event.OpExecAnon, Result: 0x7f0000000000}, nil, "exec-anon"},
	} {
		if got := privilegeObject(&c.ev, c.target); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
