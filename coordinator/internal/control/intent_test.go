package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	operators "github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// oneLog applies what is proposed to a real store, as a cluster of one would.
type oneLog struct {
	db    *store.DB
	index uint64
	unfit error
}

func (l *oneLog) ReadBarrier(context.Context) error { return nil }
func (l *oneLog) Fit() error                        { return l.unfit }
func (l *oneLog) Subscribe(func(uint64, *raftv1.Command, *raftv1.Result)) func() {
	return func() {}
}
func (l *oneLog) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	return res, err
}

// desk is a server with an admin before it.
type desk struct {
	*Server
	t     *testing.T
	log   *oneLog
	key   ed25519.PrivateKey
	chain [][]byte
	ctx   context.Context
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	authority, err := identity.NewAuthority("c-test")
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d := &desk{t: t, log: &oneLog{db: db}}
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	people, err := operators.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	if d.chain, err = people.Sign(public, "ann", operators.RoleAdmin, 0); err != nil {
		t.Fatal(err)
	}
	d.key = private
	d.ctx = context.WithValue(t.Context(), operatorKey{}, link.Peer{Cluster: "c-test", Kind: link.KindOperator, ID: "ann", Role: operators.RoleAdmin})
	cfg := Config{NodeID: "n1", Authority: authority, Operators: people.Root, DB: db, Log: d.log, Now: time.Now}
	d.Server = &Server{cfg: cfg, denied: map[string]uint64{}, replays: make(chan struct{}, replaysAtOnce)}
	d.cfg.Logger = slog.New(slog.DiscardHandler)
	d.put(&raftv1.Command{Body: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c-test"}}})
	return d
}

func (d *desk) put(cmd *raftv1.Command) {
	d.t.Helper()
	cmd.Time = time.Now().UnixNano()
	if res, err := d.log.Propose(d.t.Context(), cmd); err != nil || res.GetRejected() != "" {
		d.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

// host enrols one with a role and lets it find things, one a score.
func (d *desk) host(id, role string, at time.Time, scores ...float64) {
	d.t.Helper()
	d.put(&raftv1.Command{Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: id, Facts: &sensorv1.HostFacts{Name: "web-" + id, Labels: map[string]string{"role": role}}}}})
	batch := &sensorv1.Batch{Boot: make([]byte, 16)}
	for i, score := range scores {
		time := at.Add(time.Duration(i) * time.Hour).UnixNano()
		batch.Records = append(batch.Records, &sensorv1.Record{Sequence: uint64(i) + 1, Time: time, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
			Id: fmt.Sprintf("f-%s-%d", id, i), Time: time, Kind: "rule", Title: "A shell out of a server", Severity: "high", Score: score, Storyline: "7.7",
			Reason: "why", Process: &sensorv1.Process{Pid: 7, Image: []byte("/bin/sh"), Argv: [][]byte{[]byte("sh")}, LoginUid: 1<<32 - 1}}}})
	}
	if len(scores) > 0 {
		d.put(&raftv1.Command{Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: id, Batch: batch}}}}})
	}
}

func (d *desk) judge(incident, disposition string, findings ...string) {
	d.t.Helper()
	d.put(&raftv1.Command{Body: &raftv1.Command_PutIncident{PutIncident: &raftv1.PutIncident{Incident: &raftv1.Incident{Id: incident, Findings: findings}}}})
	d.put(&raftv1.Command{Body: &raftv1.Command_CloseIncident{CloseIncident: &raftv1.CloseIncident{Id: incident, Disposition: disposition}}})
}

// sign makes the version after the one in force.
func (d *desk) sign(in *sensorv1.Intent) *sensorv1.SignedIntent {
	d.t.Helper()
	before, err := d.cfg.DB.Intent(d.t.Context(), 0)
	if err != nil {
		d.t.Fatal(err)
	}
	in = proto.CloneOf(in)
	in.ClusterId, in.Author, in.Version, in.Previous = "c-test", "ann", 1, nil
	in.IssuedAt = time.Now().UnixNano()
	if before != nil {
		last, err := intent.Decode(before.GetPayload())
		if err != nil {
			d.t.Fatal(err)
		}
		in.Version, in.Previous = last.GetVersion()+1, intent.Digest(before.GetPayload())
	}
	signed, err := intent.Sign(d.key, d.chain, in)
	if err != nil {
		d.t.Fatal(err)
	}
	return signed
}

func (d *desk) apply(in *sensorv1.Intent, key string) (uint64, error) {
	res, err := d.ApplyIntent(d.ctx, &operatorv1.ApplyIntentRequest{Intent: d.sign(in), IdempotencyKey: key})
	return res.GetVersion(), err
}

func policy(level int, confidence string) *sensorv1.Intent {
	return &sensorv1.Intent{
		Groups: []*sensorv1.Group{{Name: "web", Labels: map[string]string{"role": "web"}}},
		Policy: fmt.Sprintf(`@id("web") permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
			when { context.level <= %d && context.confidence.greaterThanOrEqual(decimal("%s")) };`, level, confidence),
	}
}

// Ensure an intent is tried against what is recorded, beside the one in force, with
// what people said, within the bounds that are asked for.
func TestTestIntent(t *testing.T) {
	d := newDesk(t)
	week := time.Now().Add(-7 * 24 * time.Hour)
	d.host("h-aaaaaaaaaaaa", "web", week.Add(time.Hour), 95, 50)
	d.host("h-bbbbbbbbbbbb", "db", week.Add(time.Hour), 95)
	d.host("h-cccccccccccc", "web", week.Add(-48*time.Hour), 99)
	d.judge("inc-1", "malicious", "f-h-aaaaaaaaaaaa-0")
	if _, err := d.apply(policy(2, "0.4"), "k1"); err != nil {
		t.Fatal(err)
	}
	res, err := d.TestIntent(d.ctx, &operatorv1.TestIntentRequest{Intent: policy(4, "0.9"), Since: week.UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range res.GetVerdicts() {
		got = append(got, fmt.Sprintf("%s %s %d→%d %s %s %s", v.GetFinding(), v.GetAction(), v.GetLevelNow(), v.GetLevel(), v.GetPolicies(), v.GetDisposition(), v.GetHostName()))
	}
	want := []string{
		"f-h-aaaaaaaaaaaa-0 isolate 2→4 [web] malicious web-h-aaaaaaaaaaaa",
		"f-h-aaaaaaaaaaaa-1 isolate 2→1 []  web-h-aaaaaaaaaaaa",
	}
	if !slices.Equal(got, want) || res.GetFindings() != 3 || res.GetMore() {
		t.Errorf("got %d findings, more %v:\n%s\nwant\n%s", res.GetFindings(), res.GetMore(), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if res, err := d.TestIntent(d.ctx, &operatorv1.TestIntentRequest{Intent: policy(4, "0.9"), Limit: 2}); err != nil || res.GetFindings() != 2 || !res.GetMore() {
		t.Errorf("with a limit of 2: %v, %v", res, err)
	}
	if _, err := d.TestIntent(d.ctx, &operatorv1.TestIntentRequest{Intent: &sensorv1.Intent{Policy: "permit"}}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an intent that does not parse: %v", err)
	}
	// A replay takes a processor: the next one waits, and no longer than its caller does.
	d.replays <- struct{}{}
	soon, cancel := context.WithTimeout(d.ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := d.TestIntent(soon, &operatorv1.TestIntentRequest{Intent: policy(4, "0.9")}); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("while another is under way: %v", err)
	}
}

// Ensure the scorecard counts what people said, and says when it has not read everything.
func TestScorecard(t *testing.T) {
	d := newDesk(t)
	var agreed []string
	scores := make([]float64, 8)
	for i := range scores {
		scores[i] = 92
		agreed = append(agreed, fmt.Sprintf("f-h-aaaaaaaaaaaa-%d", i))
	}
	d.host("h-aaaaaaaaaaaa", "web", time.Now().Add(-24*time.Hour), scores...)
	d.judge("inc-1", "malicious", agreed[:6]...)
	d.judge("inc-2", "benign", agreed[6])
	if _, err := d.apply(policy(2, "0.4"), "k1"); err != nil {
		t.Fatal(err)
	}
	res, err := d.GetScorecard(d.ctx, &operatorv1.GetScorecardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(res.GetScores(), func(s *operatorv1.Score) bool { return s.GetAction() == "isolate" })
	if i < 0 {
		t.Fatalf("scores: %v", res.GetScores())
	}
	s := res.GetScores()[i]
	if s.GetGroup() != "web" || s.GetConfidenceFrom() != 90 || s.GetFindings() != 8 || s.GetAgreed() != 6 || s.GetDisagreed() != 1 || s.GetUnjudged() != 1 ||
		s.GetWouldAsk() != 8 || s.GetLevel() != 2 || s.GetSupportedLevel() != 2 || strings.Contains(s.GetSupports(), "older") {
		t.Errorf("isolate: %v", s)
	}
	if n := replayable(mustCompile(t, policy(4, "0.9")), mustCompile(t, policy(4, "0.9"))); n >= maxReplayed || n < maxReplayed/2 {
		t.Errorf("with one policy %d findings are replayed", n)
	}
}

func mustCompile(t *testing.T, in *sensorv1.Intent) *intent.Policy {
	t.Helper()
	p, err := intent.Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Ensure a version is applied once for a key, that a rollback is what it says, and that
// nobody submits what another signed.
func TestApplyIntent(t *testing.T) {
	d := newDesk(t)
	one, two := policy(2, "0.9"), policy(3, "0.9")
	if version, err := d.apply(one, "k1"); err != nil || version != 1 {
		t.Fatalf("first: %d, %v", version, err)
	}
	if version, err := d.apply(two, "k2"); err != nil || version != 2 {
		t.Fatalf("second: %d, %v", version, err)
	}
	if version, err := d.apply(two, "k2"); err != nil || version != 2 {
		t.Errorf("the same key again: version %d, %v; want 2", version, err)
	}
	back := proto.CloneOf(two)
	back.Restores = 1
	if _, err := d.apply(back, "k3"); connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "asks for something else") {
		t.Errorf("a rollback with another content: %v", err)
	}
	back = proto.CloneOf(one)
	back.Restores = 1
	if version, err := d.apply(back, "k4"); err != nil || version != 3 {
		t.Errorf("a rollback: version %d, %v", version, err)
	}
	off := proto.CloneOf(one)
	off.AutomationOff = true
	other := context.WithValue(t.Context(), operatorKey{}, link.Peer{Cluster: "c-test", Kind: link.KindOperator, ID: "eve", Role: operators.RoleAdmin})
	if _, err := d.ApplyIntent(other, &operatorv1.ApplyIntentRequest{Intent: d.sign(off)}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("submitted by another: %v", err)
	}
	stale := d.sign(two)
	if _, err := d.apply(off, "k5"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyIntent(d.ctx, &operatorv1.ApplyIntentRequest{Intent: stale}); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.HasSuffix(err.Error(), "(stale-intent)") {
		t.Errorf("the loser of a race: %v", err)
	}
	current, err := d.GetIntent(d.ctx, &operatorv1.GetIntentRequest{})
	if err != nil || current.GetVersion() != 4 {
		t.Errorf("in force: %v, %v", current, err)
	}
	page, err := d.ListIntents(d.ctx, &operatorv1.ListIntentsRequest{PageSize: 3})
	if err != nil || len(page.GetIntents()) != 3 || page.GetPageToken() == "" {
		t.Errorf("a page of three: %d, %v", len(page.GetIntents()), err)
	}
}
