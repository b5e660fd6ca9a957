package investigate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// did makes a finding say what was done, as sensors do.
func did(f *sensorv1.Finding, deed string) *sensorv1.Finding {
	f.Reason = "/usr/bin/python3 (pid 9, www) " + deed + ". A rule says so."
	return f
}

// Ensure two things that one process does at one moment are two, and that a finding stands for the
// file that it names and for no other.
func TestTwoDeedsOfOneMoment(t *testing.T) {
	w := newWorld(t)
	cron, keys, shadow := filed("persistence", "create", "/etc/cron.d/x"), filed("persistence", "write", "/root/.ssh/authorized_keys"), filed("credential", "write", "/etc/shadow")
	for _, r := range []*sensorv1.Sighting{cron, keys, shadow} {
		r.Process.Pid = 9
	}
	w.answer = whole(cron, keys, shadow)
	w.finds(did(found("medium", "start-up changed"), "made /etc/cron.d/x"), did(found("low", "cron table changed"), "made /etc/cron.d/x"),
		did(found("medium", "keys changed"), "wrote /root/.ssh/authorized_keys"))
	in := w.said()
	signs, looked := 0, ""
	for _, term := range in.GetTerms() {
		if strings.Contains(term.GetText(), "finding:") {
			signs++
		}
		if strings.Contains(term.GetText(), "touched") {
			looked = term.GetText()
		}
	}
	if signs != 2 || !strings.Contains(looked, "/etc/shadow") {
		t.Errorf("%d signs, %q: %v", signs, looked, in.GetTerms())
	}
}

// Ensure what people closed counts no more for its storyline, unless they found it malicious.
func TestClosedCountsNoMore(t *testing.T) {
	for as, want := range map[string]string{"benign": state.VerdictBenign, "malicious": state.VerdictIncident} {
		w := newWorld(t)
		w.answer = whole(ran("/usr/bin/python3"))
		w.finds(found("high", "reverse shell"))
		w.rounds()
		w.must(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-1", Hosts: []string{host},
			Storylines: []string{host + "/" + story}, Findings: []string{"f-1"}}}}})
		w.must(&raftv1.Command{Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: "inc-1", Disposition: as, Reason: "known"}}})
		w.finds(found("low", "odd program"))
		in := w.said()
		if in.GetVerdict() != want {
			t.Errorf("closed as %s, then a weak finding: %s because %s", as, in.GetVerdict(), in.GetBecause())
		}
		if told := strings.Contains(strings.Join(in.GetLimits(), " "), "closed before"); told != (as == "benign") {
			t.Errorf("closed as %s: %v", as, in.GetLimits())
		}
	}
}

// Ensure a recorder that does not reach back to the storyline's beginning closes nothing.
func TestRecorderReachesBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		began   time.Duration // of the storyline's first process, before its finding; 0: nobody tells
		verdict string
	}{{"unknown", 0, state.VerdictWatching}, {"before", time.Hour, state.VerdictWatching}, {"after", time.Minute, state.VerdictBenign}} {
		w := newWorld(t)
		w.answer = whole(ran("/usr/bin/python3"))
		w.answer.CoveredFrom = w.now.Add(-5 * time.Minute).UnixNano()
		f := found("low", "odd program")
		if tt.began > 0 {
			f.Ancestors = []*sensorv1.Process{{Pid: 7, Start: 70, StartTime: w.now.Add(-tt.began).UnixNano(), Image: []byte("/usr/bin/bash")}}
		}
		w.finds(f)
		if in := w.said(); in.GetVerdict() != tt.verdict {
			t.Errorf("%s: %s because %s", tt.name, in.GetVerdict(), in.GetBecause())
		}
	}
}

// Ensure a host that was not heard is asked again with no finding needed for it, by the next leader
// as well, that what was closed is looked at once more, and that both end.
func TestLooksAgain(t *testing.T) {
	w := newWorld(t)
	w.err = errors.New("the host is away")
	w.finds(found("low", "odd program"))
	if in := w.said(); in.GetVerdict() != state.VerdictWatching {
		t.Fatal(in.GetVerdict())
	}
	w.err, w.answer = nil, whole(ran("/usr/bin/python3"))
	w.now = w.now.Add(afterGap[0])
	if in := w.said(); in.GetVerdict() != state.VerdictBenign {
		t.Errorf("%s because %s", in.GetVerdict(), in.GetBecause())
	}
	w.answer = whole(ran("/usr/bin/python3"), filed("credential", "write", "/etc/shadow"), filed("persistence", "create", "/etc/cron.d/x"))
	w.now = w.now.Add(afterBenign)
	if in := w.said(); in.GetVerdict() != state.VerdictWatching {
		t.Errorf("what it did a moment after it was heard at last and closed is not seen: %s", in.GetVerdict())
	}

	w = newWorld(t)
	w.answer = whole(ran("/usr/bin/python3"))
	w.finds(found("low", "odd program"))
	w.said()
	w.answer = whole(ran("/usr/bin/python3"), filed("credential", "write", "/etc/shadow"), filed("persistence", "create", "/etc/cron.d/x"))
	w.now = w.now.Add(afterBenign)
	if in := w.said(); in.GetVerdict() != state.VerdictWatching {
		t.Errorf("what it did a moment after it was closed is not seen: %s", in.GetVerdict())
	}

	w = newWorld(t)
	w.err = errors.New("the host is away")
	w.finds(found("low", "odd program"))
	w.said()
	w.now = w.now.Add(5 * time.Minute)
	w.e.clear() // another leader
	w.err, w.answer = nil, whole(ran("/usr/bin/python3"))
	if in := w.said(); in.GetVerdict() != state.VerdictBenign {
		t.Errorf("by the next leader: %s", in.GetVerdict())
	}

	w = newWorld(t)
	w.err = errors.New("the host is away")
	w.finds(found("low", "odd program"))
	for range 20 {
		w.said()
		w.now = w.now.Add(afterGap[len(afterGap)-1])
	}
	if looks := 1 + len(afterGap); len(w.asked) != looks {
		t.Errorf("asked %d times, want %d", len(w.asked), looks)
	}
}

// Ensure a storyline that goes on for ever is looked at more rarely, and never not at all.
func TestGoesOn(t *testing.T) {
	w := newWorld(t)
	w.answer = whole(ran("/usr/bin/python3"))
	for n := range 60 {
		w.finds(found("low", fmt.Sprint("odd program ", n%3)))
		w.now = w.now.Add(restAfter(uint32(n) + 1))
		w.rounds()
	}
	before := w.said()
	w.finds(found("high", "reverse shell"))
	w.now = w.now.Add(restAfter(before.GetRounds()))
	if in := w.said(); before.GetRounds() < 55 || in.GetVerdict() != state.VerdictIncident {
		t.Errorf("after %d looks a grave finding ends as %s", before.GetRounds(), in.GetVerdict())
	}
}

// Ensure a command that is recommended runs what it says, whatever a sensor calls its findings.
func TestRecommendedCommands(t *testing.T) {
	for arg, want := range map[string]string{
		"01M8ET7WC734XYBZGZSVMAX9N5": "01M8ET7WC734XYBZGZSVMAX9N5", "$(id)": "'$(id)'", "a'b": `'a'\''b'`, "--all": "'--all'", "": "''",
		"finding 1": "'finding 1'", "a`b`": "'a`b`'", "x\ny": "'x?y'",
	} {
		if got := shell(arg); got != want {
			t.Errorf("%q: %s, want %s", arg, got, want)
		}
	}
}

// Ensure many weak findings add up to what the documents say and no more, and that nothing is
// excused by what is usual when not every program was looked up.
func TestBoundsOfWeakAndUsual(t *testing.T) {
	w := newWorld(t)
	w.answer = whole(ran("/usr/bin/python3"))
	for n := range 12 {
		w.finds(did(found("informational", fmt.Sprint("odd ", n)), fmt.Sprint("did ", n)))
		w.now = w.now.Add(time.Second)
	}
	sum := 0.0
	for _, term := range w.said().GetTerms() {
		if strings.Contains(term.GetText(), "finding:") {
			sum += term.GetBits()
		}
	}
	if sum != mostOfSeverity[0] {
		t.Errorf("twelve informational findings are %.1f bits, want %.1f", sum, mostOfSeverity[0])
	}
	c := &evidence{fleet: 10, usual: map[string]uint64{}}
	for n := range maxLookedUp {
		if excuse := c.everywhere(); n > 0 && excuse == "" {
			t.Errorf("%d programs of the whole fleet are no excuse", n)
		}
		image := fmt.Sprint("/usr/bin/", n)
		c.usual[image] = 10
		c.did.programs = append(c.did.programs, counted{image, 1})
	}
	if excuse := c.everywhere(); excuse != "" {
		t.Errorf("there may be more programs than were looked up: %s", excuse)
	}
}

// Ensure one host's storylines hold up no other's, and who waited longest is next.
func TestOneHostHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	for n := range 5 {
		f := found("low", "odd program")
		f.Storyline = fmt.Sprint(n, ".1")
		w.finds(f)
		w.now = w.now.Add(time.Millisecond)
		if err := w.e.step(t.Context(), func(storyKey, waiting) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	w.now = w.now.Add(settle)
	var begun []string
	for range 3 {
		if err := w.e.step(t.Context(), func(key storyKey, _ waiting) bool {
			begun = append(begun, key.storyline)
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(begun, " "); got != "0.1 1.1" {
		t.Errorf("begun at one host that answers none: %s, want the two that wait longest", got)
	}
	w.e.took(outcome{key: storyKey{host, "0.1"}})
	if err := w.e.step(t.Context(), func(key storyKey, _ waiting) bool {
		begun = append(begun, key.storyline)
		return true
	}); err != nil || len(begun) != 3 || begun[2] != "2.1" {
		t.Errorf("after one has ended: %v, %v", begun, err)
	}
}
