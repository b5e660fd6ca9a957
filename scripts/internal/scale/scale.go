// Package scale measures a cluster under a whole fleet: three real coordinator nodes on
// loopback, started and ended here, and as many real sensor sessions as are wanted, in
// this process, which report what a seeded world has them do.
//
// Invariant: it is bounded in sessions and in time, reaches loopback only, and ends what
// it started. A session that is lost, a record that is not acknowledged and a report that
// this process made late are each a figure, with the reason.
package scale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
	"github.com/vedette-edr/vedette/scripts/internal/usage"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

// Bounds of a run.
const (
	MaxSize = 20_000
	MaxHold = 4 * time.Hour
	// enrolLimit bounds the enrolment of MaxSize sensors, and drainLimit how long the last
	// records may wait for their acknowledgement.
	enrolLimit = 30 * time.Minute
	drainLimit = 30 * time.Second
	// settleFor is how long the idle nodes, and a grown fleet, are left alone before their
	// memory is read.
	settleFor = 5 * time.Second
	nodes     = 3
)

// Config of a run.
type Config struct {
	// Bin is the folder of the built programs, Dir one for state and logs.
	Bin, Dir string
	// Port is the first of three UDP ports; those of the operators are ten above.
	Port int
	// Size is how many sensors. Default 1,000.
	Size int
	// Seed of the world.
	Seed uint64
	// Hold is how long the fleet is held under its load, Every how often each sensor
	// reports (default 30 s), and Speed how many times faster than real its days are.
	Hold, Every time.Duration
	Speed       int
	// Herd says what is killed: "leader", "all" or "none".
	Herd string
	// Rush bounds the handshakes of this process at once; 0: 64, below: none waits.
	Rush int
	// Only are the parts to take, all when empty.
	Only []string
	// Log hears how far it is.
	Log func(string)
}

// parts in the order they are taken in.
var parts = []struct{ Name, About string }{
	{"steady", "the whole fleet reports: acknowledgements, memory of a session, growth"},
	{"herd", "nodes are killed, and their sessions come back"},
	{"life", "a small fleet in which everything happens: churn, storms, slow and hostile sensors, campaigns"},
	{"hunt", "a thousand hosts at most are asked what they have seen"},
	{"campaigns", "campaigns of every kind and pushes that look like them; only when asked for"},
	{"slopes", "what one more host costs: the fleet in four sizes; only when asked for"},
}

// Parts are the names of what Config.Only takes.
func Parts() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func (c *Config) populate() error {
	if c.Size == 0 {
		c.Size = 1000
	}
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	if c.Hold == 0 {
		c.Hold = 3 * c.Every
	}
	if c.Speed == 0 {
		c.Speed = 1
	}
	if c.Herd == "" {
		c.Herd = "leader"
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
	var problems []error
	if c.Size < nodes || c.Size > MaxSize {
		problems = append(problems, fmt.Errorf("size %d, want %d to %d", c.Size, nodes, MaxSize))
	}
	if c.Every < time.Second || c.Hold < c.Every || c.Hold > MaxHold {
		problems = append(problems, fmt.Errorf("hold %s in reports each %s: want a second at least between reports, and one report to %s", c.Hold, c.Every, MaxHold))
	}
	if c.Speed < 1 || time.Duration(c.Speed)*c.Every > 6*time.Hour {
		problems = append(problems, fmt.Errorf("speed %d, want 1 up to a report for six hours", c.Speed))
	}
	if !slices.Contains([]string{"leader", "all", "none"}, c.Herd) {
		problems = append(problems, fmt.Errorf("herd %q, want leader, all or none", c.Herd))
	}
	for _, name := range c.Only {
		if !slices.Contains(strings.Fields(Parts()), name) {
			problems = append(problems, fmt.Errorf("there is no part %q: want some of %s", name, Parts()))
		}
	}
	return errors.Join(problems...)
}

func (c *Config) wants(part string) bool { return len(c.Only) == 0 || slices.Contains(c.Only, part) }

// Run takes the figures. An error is a configuration that cannot be: what goes wrong
// later is a row.
func Run(ctx context.Context, cfg Config) ([]figure.Row, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	var rows []figure.Row
	if cfg.wants("steady") || cfg.wants("herd") {
		rows = append(rows, whole(ctx, cfg)...)
	}
	if cfg.wants("life") && ctx.Err() == nil {
		rows = append(rows, life(ctx, cfg)...)
	}
	if cfg.wants("hunt") && ctx.Err() == nil {
		rows = append(rows, hunts(ctx, cfg)...)
	}
	if slices.Contains(cfg.Only, "slopes") && ctx.Err() == nil {
		rows = append(rows, slopes(ctx, cfg)...)
	}
	if slices.Contains(cfg.Only, "campaigns") && ctx.Err() == nil {
		rows = append(rows, moves(ctx, cfg)...)
	}
	return rows, nil
}

// stage is a cluster of its own with a fleet.
type stage struct {
	cfg     Config
	lab     *lab.Lab
	cluster *lab.Cluster
	client  *client.Client
	world   *world.World
	fleet   *fleet.Fleet
	idle    sums // before anybody came
}

// newStage starts the nodes and enrols nobody yet.
func newStage(ctx context.Context, cfg Config, name string, w world.Config) (_ *stage, err error) {
	s := &stage{cfg: cfg} // no result by name: a return of nil would leave nothing to close
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.world, err = world.New(w); err != nil {
		return nil, err
	}
	if s.lab, err = lab.New(cfg.Bin, filepath.Join(cfg.Dir, name)); err != nil {
		return nil, err
	}
	var specs []lab.NodeSpec
	for i := range nodes {
		specs = append(specs, lab.NodeSpec{ID: fmt.Sprintf("s%d", i+1), Listen: fmt.Sprintf("127.0.0.1:%d", cfg.Port+i), Operator: fmt.Sprintf("127.0.0.1:%d", cfg.Port+10+i)})
	}
	if s.cluster, err = s.lab.StartCluster(ctx, specs, func(string) {}); err != nil {
		return nil, err
	}
	operator, err := client.LoadContext(s.cluster.Context, "")
	if err != nil {
		return nil, err
	}
	if s.client, err = client.New(operator, client.Options{}); err != nil {
		return nil, err
	}
	s.fleet = fleet.New(fleet.Config{Nodes: s.cluster.Addresses(), World: s.world, Progress: cfg.Log, Rush: cfg.Rush,
		Token: func(ctx context.Context) (string, error) {
			made, err := s.client.CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 600})
			return made.GetToken(), err
		}})
	return s, nil
}

func (s *stage) close() {
	if s.fleet != nil {
		s.fleet.Close()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.lab == nil {
		return
	}
	if err := s.lab.Close(); err != nil {
		s.cfg.Log("ending the nodes: " + err.Error())
	}
	// Keys and state are for nobody any more; logs stay, for who asks why.
	entries, _ := os.ReadDir(s.lab.Dir)
	for _, e := range entries {
		if e.Name() != "logs" {
			_ = os.RemoveAll(filepath.Join(s.lab.Dir, e.Name()))
		}
	}
}

// sums are what the nodes, in the order of the cluster, and this process hold and used.
type sums struct {
	rss     []int // KiB
	nodes   time.Duration
	own     time.Duration
	ownRSS  int
	instant time.Time
}

func (s *stage) read() (sums, error) {
	now := sums{instant: time.Now()}
	for _, n := range s.cluster.Nodes {
		pid := s.cluster.Members[n.ID].PID()
		kib, err := usage.KiB(pid, "VmRSS:")
		if err != nil {
			return now, err
		}
		used, err := usage.CPU(pid)
		if err != nil {
			return now, err
		}
		now.rss = append(now.rss, kib)
		now.nodes += used
	}
	var err error
	now.own = ownCPU()
	now.ownRSS, err = usage.KiB(os.Getpid(), "VmRSS:")
	return now, err
}

func ownCPU() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func total(kib []int) (sum int) {
	for _, k := range kib {
		sum += k
	}
	return sum
}

// share is so much CPU over a span, in hundredths of one processor.
func share(used, span time.Duration) float64 { return 100 * used.Seconds() / span.Seconds() }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func loadNow() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(load))[:2], " ")
}
