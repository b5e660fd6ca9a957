package state

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

var updateCommands = flag.Bool("update-commands", false, "add the new commands to testdata/commands.txt")

// Ensure the numbers of commands are only ever added to: what is in a log must mean the
// same to every later release. A new command needs its line, which -update-commands writes;
// a line is never changed or taken away.
func TestCommandNumbers(t *testing.T) {
	const path = "testdata/commands.txt"
	raw, err := os.ReadFile(path)
	if err != nil && !*updateCommands {
		t.Fatal(err)
	}
	var have []string
	fields := (&raftv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		have = append(have, fmt.Sprintf("%d %s %s", f.Number(), f.Name(), f.Message().FullName()))
	}
	slices.Sort(have)
	listed := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if *updateCommands {
		all := slices.Compact(slices.Sorted(slices.Values(append(have, listed...))))
		all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
		if err := os.WriteFile(path, []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		listed = all
	}
	for _, line := range listed {
		if !slices.Contains(have, line) {
			t.Errorf("command %q is gone or was changed: logs that hold it could not be read", line)
		}
	}
	for _, line := range have {
		if !slices.Contains(listed, line) {
			t.Errorf("command %q is not in %s: go test ./coordinator/internal/state -run TestCommandNumbers -update-commands", line, path)
		}
	}
}
