package rollout

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var epoch = time.Unix(1_700_000_000, 0)

// oneNode applies what is proposed at once.
type oneNode struct {
	t     *testing.T
	db    *store.DB
	heard func(uint64, *raftv1.Command, *raftv1.Result)
}

func (l *oneNode) IsLeader() bool { return true }
func (l *oneNode) Subscribe(fn func(uint64, *raftv1.Command, *raftv1.Result)) func() {
	l.heard = fn
	return func() {}
}

func (l *oneNode) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	index := l.db.AppliedIndex() + 1
	err = l.db.Update(index, func(tx *store.Tx) (err error) { res, err = state.Apply(tx, index, cmd); return err })
	return res, err
}

type world struct {
	*oneNode
	e    *Engine
	now  time.Time
	seqs map[string]uint64
}

func newWorld(t *testing.T) *world {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := &world{oneNode: &oneNode{t: t, db: db}, now: epoch, seqs: map[string]uint64{}}
	if w.e, err = New(Config{Log: w.oneNode, DB: db, Now: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	return w
}

// shows has a host tell of new behaviours, subject and object each.
func (w *world) shows(host string, learning bool, does ...string) {
	w.t.Helper()
	if w.seqs[host] == 0 {
		w.apply(&raftv1.Command{Time: w.now.UnixNano(), Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: host, Facts: &sensorv1.HostFacts{}}}})
	}
	s := &sensorv1.Summary{Health: &sensorv1.Health{Baseline: &sensorv1.BaselineState{Learning: learning}}}
	for i := 0; i < len(does); i += 2 {
		key := pack.KeyOf(1, does[i], does[i+1])
		s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{Key: key[:], Kind: 1, Subject: []byte(does[i]), Object: []byte(does[i+1]), FirstSeen: w.now.UnixNano()})
	}
	w.seqs[host]++
	boot := make([]byte, 16)
	copy(boot, host)
	w.apply(&raftv1.Command{Time: w.now.UnixNano(), Body: &raftv1.Command_Ingest{Ingest: &raftv1.Ingest{Batches: []*raftv1.HostBatch{{Host: host, Batch: &sensorv1.Batch{
		Boot: boot, Prev: w.seqs[host] - 1, Records: []*sensorv1.Record{{Sequence: w.seqs[host], Time: w.now.UnixNano(), Body: &sensorv1.Record_Summary{Summary: s}}}}}}}}})
}

func (w *world) apply(cmd *raftv1.Command) {
	w.t.Helper()
	res, err := w.Propose(w.t.Context(), cmd)
	if err != nil || res.GetRejected() != "" {
		w.t.Fatalf("%v, %v", res, err)
	}
	w.e.committed(0, cmd, res)
}

func (w *world) noted() (out []string) {
	w.t.Helper()
	if err := w.e.Look(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	rows, _, err := w.db.RollOuts(w.t.Context(), store.Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s by %s on %d/%d", r.GetBehaviour().GetObject(), r.GetRollOut().GetBy(), r.GetRollOut().GetInstalled(), r.GetRollOut().GetHosts()))
	}
	return out
}

const (
	apt  = "/usr/bin/apt-get"
	cron = "/usr/sbin/cron"
)

// Ensure what comes to several hosts behind their installer is a roll-out, and what comes without one, to
// too few, to hosts that learn, or is no news in the fleet, is none.
func TestRollOut(t *testing.T) {
	w := newWorld(t)
	for i := range 8 { // old news, on hosts that get nothing now
		w.shows(fmt.Sprintf("h-old%d", i), false, cron, "/usr/bin/usual")
	}
	w.now = w.now.Add(within + time.Hour)
	for i := range 4 {
		host := fmt.Sprintf("h-%d", i)
		w.shows(host, false, apt, "/usr/bin/dpkg")
		w.now = w.now.Add(20 * time.Minute)
		w.shows(host, false, cron, "/usr/bin/upgraded", cron, "/usr/bin/usual")
		if i < 2 {
			w.shows(host, false, cron, "/usr/bin/two")
		}
	}
	for i := range 4 {
		w.shows(fmt.Sprintf("h-worm%d", i), false, cron, "/tmp/worm", "/tmp/dpkg", "/tmp/x")
		w.shows(fmt.Sprintf("h-new%d", i), true, apt, "/usr/bin/dpkg", cron, "/usr/bin/all-new")
	}
	if got := w.noted(); len(got) != 1 || got[0] != "/usr/bin/upgraded by apt-get on 4/4" {
		t.Errorf("noted %q", got)
	}
	// More hosts, one of them without an installer: still one, told again when it has doubled.
	for i := range 5 {
		host := fmt.Sprintf("h-later%d", i)
		if i > 0 {
			w.shows(host, false, apt, "/usr/bin/dpkg")
		}
		w.shows(host, false, cron, "/usr/bin/upgraded")
	}
	if got := w.noted(); len(got) != 1 || got[0] != "/usr/bin/upgraded by apt-get on 8/9" {
		t.Errorf("noted %q", got)
	}
	w.now = w.now.Add(2 * within)
	w.noted()
	if len(w.e.arrivals) != 0 || len(w.e.worked) != 0 {
		t.Errorf("%d behaviours and %d hosts are remembered", len(w.e.arrivals), len(w.e.worked))
	}
}

// Ensure installers are known by their place and name, and by nothing else.
func TestInstaller(t *testing.T) {
	for subject, want := range map[string]string{
		"/usr/bin/dpkg": "dpkg", "/usr/bin/python3.11 /usr/bin/unattended-upgrade": "unattended-upgrade",
		"/bin/dash /var/lib/dpkg/info/x.postinst":                               "dpkg",
		"/usr/bin/python3.11 /root/.ansible/tmp/ansible-tmp-*/AnsiballZ_apt.py": "ansible",
		"/opt/puppetlabs/puppet/bin/ruby /opt/puppetlabs/puppet/bin/puppet":     "puppet",
		"/tmp/dpkg": "", "/home/a/bin/apt": "", "/usr/bin/bash": "", "": "", "/usr/local/bin/apt": "", "/usr/bin/aptly": "",
	} {
		if got := Installer(subject); got != want {
			t.Errorf("%q: got %q, want %q", subject, got, want)
		}
	}
}
