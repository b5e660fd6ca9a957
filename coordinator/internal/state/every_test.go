package state_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/coordinator/internal/state/statetest"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// kindOf is the name of a command's body, "" when it has none.
func kindOf(cmd *raftv1.Command) string {
	m := cmd.ProtoReflect()
	if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); field != nil {
		return string(field.Name())
	}
	return ""
}

// missing are the kinds of commands that are not among those.
func missing(have map[string]bool) (out []string) {
	fields := (&raftv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); !have[name] {
			out = append(out, name)
		}
	}
	return out
}

// Ensure there is a command of every kind for the tests that read logs, that each is accepted, and
// that property tests draw every kind.
func TestEveryKind(t *testing.T) {
	l := newLog(t)
	have := map[string]bool{}
	for _, cmd := range statetest.Every("c-1", "h") {
		have[kindOf(cmd)] = true
		l.want("", cmd)
	}
	if left := missing(have); len(left) > 0 {
		t.Errorf("statetest.Every has no command of these kinds: %s", strings.Join(left, " "))
	}
	clear(have)
	for i := range 3000 {
		have[kindOf(rapid.Custom(drawCommand).Example(i))] = true
	}
	if left := missing(have); len(left) > 0 {
		t.Errorf("drawCommand draws none of these kinds: %s", strings.Join(left, " "))
	}
}

// every are the commands that draws are made of.
var every = statetest.Every("c-1", "h")

// drawEvery is any of those, also twice, before what it needs, or of another time.
func drawEvery(t *rapid.T) *raftv1.Command {
	return proto.CloneOf(every[rapid.IntRange(0, len(every)-1).Draw(t, "which")])
}
