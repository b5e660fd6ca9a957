package intent_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a finding is asked about as what it is.
func TestFromFinding(t *testing.T) {
	host := intent.Host{ID: "h-1"}
	f := &sensorv1.Finding{
		Kind: "follow-up", Severity: "high", RuleId: "r-1", Score: 87.5, Techniques: []string{"T1059.004", "T1003"}, Learning: true, Losses: []*sensorv1.Loss{{}},
		Process: &sensorv1.Process{Image: []byte("/tmp/\xffx"), ImageTraits: []string{"memfd"}, User: "www", Uid: 33, LoginUid: 33, Unit: "a.service"},
	}
	r := intent.FromFinding(f, host)
	if r.Confidence != 0.875 || r.Severity != "high" || r.Kind != "follow-up" || r.Rule != "r-1" || !r.Tainted || !r.Learning || !r.Losses || r.Account != "www" || r.User != "www" || r.Unit != "a.service" || r.Traits[0] != "memfd" || r.Host.ID != "h-1" {
		t.Errorf("got %+v", r)
	}
	if !slices.Equal(r.Techniques, []string{"T1003", "T1059", "T1059.004"}) {
		t.Errorf("got %q", r.Techniques)
	}
	for name, change := range map[string]func(*sensorv1.Process){
		"no login": func(p *sensorv1.Process) { p.LoginUid = 1<<32 - 1 }, "root": func(p *sensorv1.Process) { p.Uid, p.LoginUid = 0, 0 },
		"became another": func(p *sensorv1.Process) { p.Uid = 5 },
	} {
		p := proto.CloneOf(f.GetProcess())
		change(p)
		if r := intent.FromFinding(&sensorv1.Finding{Process: p}, host); r.Account != "" {
			t.Errorf("%s: got the account %q", name, r.Account)
		}
	}
	if r := intent.FromFinding(nil, host); r.Confidence != 0 || r.Account != "" {
		t.Errorf("of nothing: got %+v", r)
	}
}

// Ensure what disturbs least comes first, and nothing is blocked that the host needs.
func TestCandidates(t *testing.T) {
	hash := bytes.Repeat([]byte{7}, 32)
	process := func(change func(*sensorv1.Process)) *sensorv1.Process {
		p := &sensorv1.Process{Pid: 10, Start: 5, Image: []byte("/usr/bin/bash"), Sha256: hash, LoginUid: 1<<32 - 1, Uid: 33, User: "www"}
		if change != nil {
			change(p)
		}
		return p
	}
	flow := func(name string, remote ...byte) *sensorv1.Flow { return &sensorv1.Flow{Remote: remote, Name: name} }
	for _, c := range []struct {
		name    string
		finding *sensorv1.Finding
		want    string
	}{
		{"a shell", &sensorv1.Finding{Kind: "rule", Storyline: "1.2", Process: process(nil)}, "freeze kill isolate"},
		{"no storyline", &sensorv1.Finding{Kind: "rule", Process: process(nil)}, "freeze kill isolate"},
		{"init", &sensorv1.Finding{Kind: "rule", Process: process(func(p *sensorv1.Process) { p.Pid = 1 })}, "isolate"},
		{"a file in /tmp", &sensorv1.Finding{Kind: "new-exec", Storyline: "1.2", Process: process(func(p *sensorv1.Process) { p.Image, p.ImageTraits = []byte("/tmp/x"), []string{"world-writable-dir"} })}, "block-image quarantine-file freeze kill isolate"},
		{"a deleted one", &sensorv1.Finding{Kind: "new-exec", Storyline: "1.2", Process: process(func(p *sensorv1.Process) { p.ImageTraits = []string{"deleted", "world-writable-dir"} })}, "block-image freeze kill isolate"},
		{"memory without a hash", &sensorv1.Finding{Kind: "new-exec", Storyline: "1.2", Process: process(func(p *sensorv1.Process) { p.ImageTraits, p.Sha256 = []string{"memfd"}, nil })}, "freeze kill isolate"},
		{"a session", &sensorv1.Finding{Kind: "rule", Storyline: "1.2", Process: process(func(p *sensorv1.Process) { p.LoginUid = 33 })}, "freeze kill lock-account isolate"},
		{"a peer", &sensorv1.Finding{Kind: "new-flow", Storyline: "1.2", Process: process(nil), Flows: []*sensorv1.Flow{flow("c2.example", 203, 0, 113, 5), flow("", 10, 0, 0, 1), flow("", 127, 0, 0, 1)}}, "block-address block-name freeze kill isolate"},
		{"a peer inside", &sensorv1.Finding{Kind: "new-flow", Storyline: "1.2", Process: process(nil), Flows: []*sensorv1.Flow{flow("db", 10, 0, 0, 1)}}, "freeze kill isolate"},
		{"a rule's flow", &sensorv1.Finding{Kind: "rule", Storyline: "1.2", Process: process(nil), Flows: []*sensorv1.Flow{flow("c2.example", 203, 0, 113, 5)}}, "freeze kill isolate"},
		{"silent", &sensorv1.Finding{Kind: "silent"}, "block-neighbour"}, {"returned", &sensorv1.Finding{Kind: "returned"}, ""}, {"blind", &sensorv1.Finding{Kind: "blind"}, "isolate"},
	} {
		var got []string
		for _, candidate := range intent.Candidates(c.finding) {
			got = append(got, intent.ActionName(candidate.Action))
			if candidate.Why == "" || (candidate.Target == nil) != slices.Contains([]string{"isolate", "block-neighbour"}, intent.ActionName(candidate.Action)) {
				t.Errorf("%s: got %+v", c.name, candidate)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

const webAtOnce = `@id("web") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.9")) };`

func past(host, id string, at time.Duration, score float64, disposition string, labels ...string) intent.Replayed {
	h := intent.Host{ID: host, Name: host + ".example", Labels: map[string]string{"role": "web"}}
	if len(labels) > 0 {
		h.Labels["role"] = labels[0]
	}
	return intent.Replayed{
		Finding: &sensorv1.Finding{Id: id, Kind: "rule", Title: "t", Time: testTime.Add(at).UnixNano(), Score: score, Process: &sensorv1.Process{Pid: 1}},
		Host:    h, Disposition: disposition,
	}
}

// Ensure a replay tells what would have been done, and where the governor would have stopped it.
func TestReplay(t *testing.T) {
	tried := compile(t, &sensorv1.Intent{Policy: webAtOnce, Groups: testGroups})
	minute := time.Minute
	r := intent.Replay{Policy: tried, Fleet: 70, Findings: []intent.Replayed{
		past("h-4", "f-4", 3*minute, 95, intent.Benign), // out of order, and one more than the cap
		past("h-1", "f-1", 0, 95, intent.Malicious), past("h-1", "f-1b", minute, 95, ""), past("h-2", "f-2", minute, 95, ""), past("h-3", "f-3", 2*minute, 95, ""),
		past("h-5", "f-5", 4*minute, 50, ""), past("h-6", "f-6", 5*minute, 99, "", "db"),
		past("h-4", "f-7", 11*minute, 95, ""),       // ten minutes are over; the day's three are not
		past("h-4", "f-8", 24*time.Hour, 95, ""),    // h-1's day is over
		past("h-9", "f-9", 24*time.Hour+1, 95, ""),  // and nobody else's
		past("h-9", "f-10", 25*time.Hour+1, 95, ""), // everybody's but h-4's
	}}
	var got []string
	for _, v := range r.Verdicts() {
		held := ""
		if v.GetHeld() != "" {
			held = " held"
			if !strings.Contains(v.GetHeld(), "would be contained within") {
				t.Errorf("got %q", v.GetHeld())
			}
		}
		got = append(got, fmt.Sprintf("%s %s %d was %d%s", v.GetFinding(), v.GetAction(), v.GetLevel(), v.GetLevelNow(), held))
	}
	want := []string{
		"f-1 isolate 4 was 1", "f-1b isolate 4 was 1", "f-2 isolate 4 was 1", "f-3 isolate 4 was 1", "f-4 isolate 4 was 1 held", "f-7 isolate 4 was 1 held",
		"f-8 isolate 4 was 1", "f-9 isolate 4 was 1 held", "f-10 isolate 4 was 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	first := r.Verdicts()[0]
	if !proto.Equal(first, &operatorv1.Verdict{Finding: "f-1", Host: "h-1", HostName: "h-1.example", Time: testTime.UnixNano(), Title: "t", Action: "isolate", Level: 4, LevelNow: 1, Policies: []string{"web"}, Disposition: "malicious"}) {
		t.Errorf("got %v", first)
	}
	if got := (intent.Replay{Policy: tried, InForce: tried, Findings: r.Findings[:1]}).Verdicts(); len(got) != 1 || got[0].GetLevelNow() != 4 {
		t.Errorf("in force: got %v", got)
	}
	switchedOff := compile(t, &sensorv1.Intent{Policy: webAtOnce, Groups: testGroups, AutomationOff: true})
	if got := (intent.Replay{Policy: switchedOff, Findings: r.Findings[:1]}).Verdicts(); len(got) != 1 || !strings.Contains(got[0].GetHeld(), "automation_off") {
		t.Errorf("switched off: got %v", got)
	}
}

// Ensure trust is earned by figures, and by those that are written down.
func TestScores(t *testing.T) {
	tried := compile(t, &sensorv1.Intent{Policy: webAtOnce, Groups: testGroups})
	for _, c := range []struct {
		malicious, benign, unjudged int
		level                       uint32
		says                        string
	}{
		{0, 0, 9, 1, "nobody judged any"}, {4, 0, 0, 1, "4 of 4 judged were malicious"}, {5, 0, 0, 2, "at least 64.8 %: supports level 2 (act on approval); level 3 needs 90 % of 20 or more"},
		{24, 0, 0, 2, "supports level 2"}, {25, 0, 0, 3, "supports level 3"}, {51, 0, 0, 3, "supports level 3"}, {52, 0, 9, 4, "supports level 4"},
		{200, 6, 0, 3, "supports level 3"}, {200, 2, 0, 4, "supports level 4 (act at once)"}, {20, 20, 0, 1, "supports level 1"}, {0, 30, 0, 1, "0 of 30 judged were malicious"},
	} {
		r := intent.Replay{Policy: tried, Fleet: 1_000_000}
		add := func(n int, disposition string) {
			for range n {
				id := fmt.Sprint(len(r.Findings))
				r.Findings = append(r.Findings, past("h-"+id, id, 0, 92, disposition))
			}
		}
		add(c.malicious, intent.Malicious)
		add(c.benign, intent.Benign)
		add(c.unjudged, "in-incident")
		scores := r.Scores()
		if len(scores) != 1 {
			t.Fatalf("got %v", scores)
		}
		s := scores[0]
		if s.GetSupportedLevel() != c.level || !strings.Contains(s.GetSupports(), c.says) {
			t.Errorf("%d malicious, %d benign: got level %d, %q", c.malicious, c.benign, s.GetSupportedLevel(), s.GetSupports())
		}
		s.Supports, s.SupportedLevel = "", 0
		all := uint64(c.malicious + c.benign + c.unjudged)
		want := &operatorv1.Score{
			Action: "isolate", Group: "web", ConfidenceFrom: 90, ConfidenceTo: 95, Level: 1, Findings: all,
			Agreed: uint64(c.malicious), Disagreed: uint64(c.benign), Unjudged: uint64(c.unjudged), WouldAct: all,
		}
		// Of web hosts only those that the group's own cap allows.
		if s.GetWouldAct()+s.GetWouldAsk() != all {
			t.Errorf("got %v", s)
		}
		s.WouldAct, s.WouldAsk = all, 0
		if !proto.Equal(s, want) {
			t.Errorf("got %v, want %v", s, want)
		}
	}
	r := intent.Replay{Policy: tried, Findings: []intent.Replayed{past("h-1", "a", 0, 10, ""), past("h-1", "b", 0, 100, ""), past("h-1", "c", 0, 95, ""), past("h-2", "d", 0, 94.9, "", "none")}}
	var got []string
	for _, s := range r.Scores() {
		got = append(got, fmt.Sprintf("%s %q %d-%d recommend %d ask %d act %d", s.GetAction(), s.GetGroup(), s.GetConfidenceFrom(), s.GetConfidenceTo(), s.GetWouldRecommend(), s.GetWouldAsk(), s.GetWouldAct()))
	}
	want := []string{`isolate "" 90-95 recommend 1 ask 0 act 0`, `isolate "web" 0-50 recommend 1 ask 0 act 0`, `isolate "web" 95-100 recommend 0 ask 0 act 2`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
