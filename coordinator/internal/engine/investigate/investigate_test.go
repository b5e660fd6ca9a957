package investigate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/inquire"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var epoch = time.Unix(1_700_000_000, 0)

const (
	host  = "h-1"
	story = "7.70"
)

// world is a cluster of one, as the engine sees it: the state and its rules are real, and what
// the host's recorder answers is told by the test.
type world struct {
	t      *testing.T
	db     *store.DB
	e      *Engine
	now    time.Time
	seq    uint64
	answer *sensorv1.Answer
	err    error
	asked  []*sensorv1.Ask
	second *sensorv1.Answer // to a second question
}

func (w *world) IsLeader() bool                    { return true }
func (w *world) ReadBarrier(context.Context) error { return nil }

func (w *world) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	index := w.db.AppliedIndex() + 1
	err = w.db.Update(index, func(tx *store.Tx) (err error) { res, err = state.Apply(tx, index, cmd); return err })
	return res, err
}

func (w *world) Ask(_ context.Context, _ inquire.Target, ask *sensorv1.Ask) (*sensorv1.Answer, error) {
	w.asked = append(w.asked, ask)
	if len(w.asked) > 1 && w.second != nil {
		return w.second, nil
	}
	return proto.CloneOf(w.answer), w.err
}

func newWorld(t *testing.T) *world {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := &world{t: t, db: db, now: epoch, answer: &sensorv1.Answer{Done: true}}
	if w.e, err = New(Config{NodeID: "n-1", Log: w, DB: db, Asker: w, Now: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	w.must(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: host, Facts: &sensorv1.HostFacts{Name: "web-1"}}}})
	return w
}

func (w *world) must(cmd *raftv1.Command) {
	w.t.Helper()
	cmd.Time, cmd.Actor = w.now.UnixNano(), "operator:ada"
	if res, err := w.Propose(w.t.Context(), cmd); err != nil || res.GetRejected() != "" {
		w.t.Fatalf("%T: %v, %v", cmd.GetBody(), res, err)
	}
}

// finds has the host tell of findings.
func (w *world) finds(findings ...*sensorv1.Finding) {
	w.t.Helper()
	var records []*sensorv1.Record
	prev := w.seq
	for _, f := range findings {
		w.seq++
		f.Id = fmt.Sprintf("f-%d", w.seq)
		f.Time = w.now.UnixNano()
		if f.Storyline == "" {
			f.Storyline = story
		}
		records = append(records, &sensorv1.Record{Sequence: w.seq, Time: w.now.UnixNano(), Body: &sensorv1.Record_Finding{Finding: f}})
	}
	w.must(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host,
		Batch: &sensorv1.Batch{Boot: bytes.Repeat([]byte{1}, 16), Prev: prev, Records: records}}}}}})
}

// rounds steps until nothing is due any more, doing each look on the spot.
func (w *world) rounds() {
	w.t.Helper()
	for range 3 {
		if err := w.e.step(w.t.Context(), func(key storyKey, at waiting) bool {
			w.e.ended <- w.e.look(w.t.Context(), key, at)
			return true
		}); err != nil {
			w.t.Fatal(err)
		}
		for len(w.e.ended) > 0 {
			o := <-w.e.ended
			if o.err != nil {
				w.t.Fatal(o.err)
			}
			w.e.took(o)
		}
		w.now = w.now.Add(again + settle)
	}
}

func (w *world) said() *raftv1.Investigation {
	w.t.Helper()
	w.rounds()
	in, err := w.db.Investigation(w.t.Context(), host, story)
	if err != nil {
		w.t.Fatal(err)
	}
	return in
}

func found(severity, title string, techniques ...string) *sensorv1.Finding {
	return &sensorv1.Finding{Kind: "rule", RuleId: title, Title: title, Severity: severity, Techniques: techniques, Score: 30,
		Process: &sensorv1.Process{Pid: 9, Image: []byte("/usr/bin/python3"), Argv: [][]byte{[]byte("python3"), []byte("x.py")}, User: "www"}}
}

func ran(image string, traits ...string) *sensorv1.Sighting {
	return &sensorv1.Sighting{Time: epoch.UnixNano(), Kind: "process", Type: "exec", Process: &sensorv1.Process{Image: []byte(image), ImageTraits: traits}}
}

func filed(class, op, path string) *sensorv1.Sighting {
	of := func(name, value string) *sensorv1.Detail {
		return &sensorv1.Detail{Name: name, Value: &sensorv1.Detail_Text{Text: []byte(value)}}
	}
	return &sensorv1.Sighting{Time: epoch.UnixNano(), Kind: "file", Type: "file", Process: &sensorv1.Process{Image: []byte("/usr/bin/python3")},
		Details: []*sensorv1.Detail{of("class", class), of("op", op), of("path", path)}}
}

func whole(rows ...*sensorv1.Sighting) *sensorv1.Answer {
	return &sensorv1.Answer{Done: true, Rows: rows, Scanned: uint64(len(rows))}
}

// Ensure each storyline ends as what is known of it says, that what is not known closes
// nothing, and that every end says why and what would have changed it.
func TestVerdicts(t *testing.T) {
	ordinary := []*sensorv1.Sighting{ran("/usr/bin/python3"), filed("log", "write", "/var/log/app.log")}
	tests := []struct {
		name     string
		findings []*sensorv1.Finding
		answer   *sensorv1.Answer
		err      error
		verdict  string
		because  string
		unless   string
	}{
		{"one weak sign and nothing beside it", []*sensorv1.Finding{found("low", "odd program")}, whole(ordinary...), nil,
			"benign", "none of it is what attacks are made of", "It would be watched if"},
		{"the same, of a host that is not heard", []*sensorv1.Finding{found("low", "odd program")}, nil, errors.New("asking host h-1: away"),
			"watching", "its recorder was not heard", "high in this storyline"},
		{"the same, of a recorder that lost events", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Losses: []*sensorv1.Loss{{Count: 4, Where: "ring"}}}, nil, "watching", "4 events were lost", ""},
		{"the same, with more than was read", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Limited: "rows"}, nil, "watching", "more than was read", ""},
		{"the same, with a record that nobody could read", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Damaged: 1}, nil, "watching", "could not be read", ""},
		{"the same, while the sensor did not run", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Unwatched: []*sensorv1.Unwatched{{}}}, nil, "watching", "did not run", ""},
		{"the same, of a sensor that did not run long before", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Unwatched: []*sensorv1.Unwatched{{Until: epoch.Add(-time.Minute).UnixNano()}}}, nil, "benign", "", ""},
		{"the same, of a sensor that began when the storyline was there", []*sensorv1.Finding{found("low", "odd program")},
			&sensorv1.Answer{Done: true, Rows: ordinary, Unwatched: []*sensorv1.Unwatched{{Until: epoch.Add(-time.Second).UnixNano()}}}, nil, "watching", "did not run", ""},
		{"the same, of which the recorder has nothing", []*sensorv1.Finding{found("low", "odd program")}, whole(), nil, "watching", "has nothing of the storyline", ""},
		{"a middling sign", []*sensorv1.Finding{found("medium", "odd connection")}, whole(ordinary...), nil, "watching", "too little to wake anybody", "It would be an incident"},
		{"a middling sign whose storyline took credentials and stays", []*sensorv1.Finding{found("medium", "odd connection", "T1071.001")},
			whole(append(ordinary, filed("credential", "write", "/etc/shadow"), filed("persistence", "create", "/etc/cron.d/x"), ran("/tmp/x", "world-writable-dir"))...), nil,
			"incident", "add up to a chance", "people close"},
		{"a grave sign, whatever is beside it", []*sensorv1.Finding{found("high", "reverse shell")}, whole(ordinary...), nil, "incident", "always goes to a person", "Only a person"},
		{"a grave sign of a host that is not heard", []*sensorv1.Finding{found("high", "reverse shell")}, nil, errors.New("away"), "incident", "always goes to a person", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer, w.err = tt.answer, tt.err
			w.finds(tt.findings...)
			in := w.said()
			if in.GetVerdict() != tt.verdict || !strings.Contains(in.GetBecause(), tt.because) || !strings.Contains(strings.Join(in.GetUnless(), " "), tt.unless) {
				t.Errorf("%s (%.2f) because %q, unless %q, terms %v", in.GetVerdict(), in.GetConfidence(), in.GetBecause(), in.GetUnless(), in.GetTerms())
			}
			if n := strings.Count(in.GetAccount(), "\n") + 1; n > maxAccount || !strings.Contains(in.GetAccount(), in.GetBecause()) {
				t.Errorf("%d lines:\n%s", n, in.GetAccount())
			}
			if tt.verdict == state.VerdictWatching && tt.err != nil && len(in.GetLimits()) == 0 {
				t.Error("what is not known is not told")
			}
			sum := 0.0
			for _, term := range in.GetTerms() {
				sum += term.GetBits()
			}
			if want := (sum > 0) == (in.GetConfidence() > 0.5); !want {
				t.Errorf("the terms add up to %.1f bits, the chance is %.2f", sum, in.GetConfidence())
			}
		})
	}
}

// Ensure what several rules and the recorder tell of one event is one reason, the gravest, and
// that the same at another time is another.
func TestOneEvent(t *testing.T) {
	w := newWorld(t)
	medium, low := did(found("medium", "start-up changed"), "made /etc/cron.d/x"), did(found("low", "cron table changed"), "made /etc/cron.d/x")
	cron := filed("persistence", "create", "/etc/cron.d/x")
	cron.Process.Pid = medium.GetProcess().GetPid()
	w.answer = whole(cron, ran("/usr/bin/install"))
	w.finds(low, medium)
	once := w.said()
	if n := len(once.GetTerms()); n != 2 || once.GetVerdict() != state.VerdictWatching {
		t.Errorf("%s by %d terms: %v", once.GetVerdict(), n, once.GetTerms())
	}
	later := filed("persistence", "create", "/etc/cron.d/y")
	later.Time += int64(time.Second)
	w.answer = whole(cron, later)
	w.finds(found("low", "cron table changed"))
	if twice := w.said(); len(twice.GetTerms()) != 4 {
		t.Errorf("%v", twice.GetTerms())
	}
}

// Ensure of a storyline that did too much to be read what is weighed is asked for by itself,
// and that only when it comes whole anything is closed.
func TestTooMuch(t *testing.T) {
	for _, tt := range []struct {
		name    string
		second  *sensorv1.Answer
		verdict string
	}{
		{"nothing that matters", whole(ran("/usr/bin/python3")), state.VerdictBenign},
		{"a package manager at its work", whole(installs("binary", "create", "/usr/bin/hello"), installs("persistence", "create", "/lib/systemd/system/a.service")), state.VerdictBenign},
		{"somebody else at the same", whole(filed("binary", "create", "/usr/bin/hello"), filed("persistence", "create", "/lib/systemd/system/a.service")), state.VerdictWatching},
		{"a package manager at the credentials", whole(installs("credential", "write", "/etc/shadow"), installs("module", "create", "/lib/modules/a.ko")), state.VerdictWatching},
		{"too much again", &sensorv1.Answer{Done: true, Rows: []*sensorv1.Sighting{ran("/usr/bin/python3")}, Limited: "rows"}, state.VerdictWatching},
		{"no second answer", &sensorv1.Answer{Done: true, Error: "busy"}, state.VerdictWatching},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer, w.second = &sensorv1.Answer{Done: true, Rows: []*sensorv1.Sighting{ran("/usr/bin/python3")}, Limited: "rows"}, tt.second
			w.finds(found("low", "odd program"))
			if in := w.said(); in.GetVerdict() != tt.verdict || len(w.asked) != 2 {
				t.Errorf("%s because %s, after %d questions", in.GetVerdict(), in.GetBecause(), len(w.asked))
			}
			if _, err := hunt.Parse(w.asked[1].GetExpression()); err != nil {
				t.Error(err)
			}
		})
	}
}

func installs(class, op, path string) *sensorv1.Sighting {
	r := filed(class, op, path)
	r.Process.Image = []byte("/usr/bin/dpkg")
	return r
}

// Ensure a storyline is looked at once for what it has, again for what is new, and by a new
// leader only when nobody did.
func TestAgain(t *testing.T) {
	w := newWorld(t)
	w.answer = whole(ran("/usr/bin/python3"))
	w.finds(found("low", "odd program"), found("low", "odd program"))
	if in := w.said(); in.GetRounds() != 1 || len(in.GetFindings()) != 2 {
		t.Fatalf("%d looks at %d findings", in.GetRounds(), len(in.GetFindings()))
	}
	if ask := w.asked[0]; ask.GetExpression() != `any where storyline == "7.70"` || ask.GetAsker() != "node:n-1" || ask.GetMaxMillis() == 0 || ask.GetSince() >= epoch.UnixNano() {
		t.Errorf("asked %v", ask)
	}
	w.now = w.now.Add(5 * time.Minute)
	w.e.clear() // another leader
	if in := w.said(); in.GetRounds() != 1 {
		t.Errorf("looked at %d times by two leaders", in.GetRounds())
	}
	w.finds(found("high", "reverse shell"))
	if in := w.said(); in.GetRounds() != 2 || in.GetVerdict() != state.VerdictIncident {
		t.Errorf("look %d: %s", in.GetRounds(), in.GetVerdict())
	}
	w.finds(&sensorv1.Finding{Kind: "tamper", Title: "no process did it", Severity: "high", Storyline: strings.Repeat("x", state.MaxStoryline+1)})
	w.rounds()
	if all, _, err := w.db.Investigations(t.Context(), store.InvestigationFilter{}, store.Page{}); err != nil || len(all) != 1 {
		t.Errorf("%d investigations, %v", len(all), err)
	}
}

// Ensure a host that finds without end has only so many of its storylines wait.
func TestManyStorylines(t *testing.T) {
	w := newWorld(t)
	for n := range maxOfHost + 10 {
		f := found("low", "odd program")
		f.Storyline = fmt.Sprint(n, ".1")
		w.finds(f)
	}
	if err := w.e.step(t.Context(), func(storyKey, waiting) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if len(w.e.waiting) != maxOfHost || w.e.left != 10 {
		t.Errorf("%d wait, %d are left out", len(w.e.waiting), w.e.left)
	}
}

// Ensure what people say of an incident is kept with what was found out, weighs for what
// looks the same, and never makes a grave sign harmless.
func TestPrecedents(t *testing.T) {
	w := newWorld(t)
	w.answer = whole(ran("/usr/bin/python3"))
	closes := func(as string) {
		t.Helper()
		w.finds(found("medium", "odd connection"), found("high", "reverse shell"))
		w.rounds()
		id := fmt.Sprint("inc-", w.seq)
		w.must(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{Id: id, Hosts: []string{host},
			Storylines: []string{host + "/" + story}, Findings: []string{fmt.Sprint("f-", w.seq-1), fmt.Sprint("f-", w.seq)}}}}})
		w.must(&raftv1.Command{Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: id, Disposition: as, Reason: "known"}}})
	}
	other := func() *raftv1.Investigation {
		t.Helper()
		f := found("medium", "odd connection")
		f.Storyline = fmt.Sprint(w.seq, ".8")
		w.finds(f)
		w.rounds()
		in, err := w.db.Investigation(t.Context(), host, f.GetStoryline())
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	before := other()
	for range 5 {
		closes("benign")
	}
	if in := w.said(); in.GetDisposition() != "benign" || in.GetJudgedBy() != "operator:ada" || in.GetVerdict() != state.VerdictIncident {
		t.Errorf("judged %q by %q, and a grave sign ends as %s", in.GetDisposition(), in.GetJudgedBy(), in.GetVerdict())
	}
	after := other()
	if after.GetConfidence() >= before.GetConfidence() || !strings.Contains(fmt.Sprint(after.GetTerms()), "as benign 5 times") {
		t.Errorf("%.2f, after five judgements %.2f: %v", before.GetConfidence(), after.GetConfidence(), after.GetTerms())
	}
	drills := found("medium", "odd connection")
	drills.RuleId, drills.Ancestors = "another", []*sensorv1.Process{{Argv: [][]byte{[]byte(drill.Mark("ab", "x"))}}}
	w.finds(drills)
	w.must(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{Id: "inc-drill", Findings: []string{drills.GetId()}}}}})
	w.must(&raftv1.Command{Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: "inc-drill", Disposition: "benign"}}})
	if benign, _, err := w.db.Precedent(t.Context(), state.Sign(drills)); err != nil || benign != 0 {
		t.Errorf("a drill that was closed counts %d, %v", benign, err)
	}
	closes("malicious")
	if in := other(); in.GetConfidence() <= before.GetConfidence() || !strings.Contains(fmt.Sprint(in.GetTerms()), "as malicious 1 times") {
		t.Errorf("%.2f, after it was malicious once %.2f: %v", before.GetConfidence(), in.GetConfidence(), in.GetTerms())
	}
}

// Ensure whatever a host says, the result is small enough for the log, is text, and has ten lines.
func TestHostileWords(t *testing.T) {
	w := newWorld(t)
	bad := strings.Repeat("\xff\x1b[31m\n", 500)
	var rows []*sensorv1.Sighting
	for n := range maxRows {
		rows = append(rows, ran(fmt.Sprint("/tmp/", n, bad), "memfd"), filed("credential", bad, fmt.Sprint(n, bad)),
			&sensorv1.Sighting{Kind: "network", Type: "flow-open", Flow: &sensorv1.Flow{Remote: []byte{1, 2, 3}}},
			&sensorv1.Sighting{Kind: "network", Type: "flow-open", Flow: &sensorv1.Flow{Remote: []byte{10, 0, byte(n >> 8), byte(n)}, RemotePort: 1 << 20, Name: strings.Repeat("é", 300)}},
			&sensorv1.Sighting{Kind: "privilege"}, &sensorv1.Sighting{Kind: "login"}, &sensorv1.Sighting{})
	}
	w.answer = whole(rows...)
	for n := range maxFindings {
		f := found("medium", fmt.Sprint(n)+strings.Repeat("é\x1b", 200), strings.Repeat("T", 300), "T1059")
		f.Process.Argv = [][]byte{[]byte(bad)}
		f.Ancestors = []*sensorv1.Process{{}, {Image: []byte(bad)}}
		f.Origin = &sensorv1.Flow{Remote: []byte{9}}
		w.finds(f)
	}
	in := w.said()
	if size := proto.Size(in); size > maxSize {
		t.Errorf("%d bytes", size)
	}
	if err := state.CheckInvestigation(in); err != nil {
		t.Error(err)
	}
	for _, text := range append([]string{in.GetTitle(), in.GetBecause()}, strings.Split(in.GetAccount(), "\n")...) {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\n") {
			t.Errorf("%q", text)
		}
	}
	if n := strings.Count(in.GetAccount(), "\n") + 1; n > maxAccount {
		t.Errorf("%d lines", n)
	}
}
