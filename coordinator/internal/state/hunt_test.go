package state_test

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Ensure the record says who asked what of how many hosts, in the question's own words.
func TestNoteHunt(t *testing.T) {
	l := fleet(t, 1)
	note := func(id, question string) *raftv1.Command {
		return &raftv1.Command{Time: now, Actor: "operator:ada", Body: &raftv1.Command_NoteHunt{NoteHunt: &raftv1.NoteHunt{Id: id, Question: question, Hosts: 12}}}
	}
	l.want("", note("hunt-1", `process where image == "%s"`))
	l.want(state.RejectInvalid, note("", "process"))
	l.want(state.RejectInvalid, note(strings.Repeat("h", 65), "process"))
	l.want(state.RejectInvalid, note("hunt-2", ""))
	l.want(state.RejectInvalid, note("hunt-2", strings.Repeat("q", 16<<10+1)))
	entries, _, err := l.db.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if e.GetAction() == "hunt" {
			found = append(found, e.GetActor()+" "+e.GetSubject()+" "+e.GetDetail())
		}
	}
	if want := `operator:ada hunt-1 on 12 hosts: process where image == "%s"`; len(found) != 1 || found[0] != want {
		t.Errorf("got %q, want %q", found, want)
	}
}
