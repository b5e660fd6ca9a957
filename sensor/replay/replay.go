// Package replay runs a described history of one host through the sensor's own baseline
// and detection, without a kernel: to measure what they make of it.
//
// Invariant: what it says of an event is what a sensor would say that saw the event,
// with the built-in rules left out or not as Config says; nothing of how scores are made
// is here.
package replay

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Config is one host. Zero values take the sensor's defaults.
type Config struct {
	// Dir is an empty folder for the host's baseline.
	Dir string
	// Start is when the sensor was installed.
	Start time.Time
	// LearnFor, Window, KnownWindows and AlertBudget are as in the sensor's config.
	LearnFor, Window time.Duration
	KnownWindows     int
	AlertBudget      float64
	// Rules has the built-in rules judge as well.
	Rules bool
	// HarvestEvery is how often counts are handed out and written (default 24h).
	HarvestEvery time.Duration
}

// Host is a host's sensor. It is for one goroutine.
type Host struct {
	baseline  *baseline.Baseline
	detector  *detect.Engine
	now       time.Time
	harvest   time.Duration
	harvested time.Time
	installed time.Time
	pid       uint32
	port      uint16
	cookie    uint64
}

// Process is one process of a host.
type Process struct{ p *event.Process }

// Storyline is the storyline that a process belongs to.
func (p *Process) Storyline() string { return storyline(p.p.Anchor) }

func storyline(k event.ProcessKey) string {
	return strconv.FormatUint(uint64(k.PID), 10) + "." + strconv.FormatUint(k.Start, 10)
}

// Program is what an exec makes of a process.
type Program struct {
	Image  string
	Argv   []string
	Script string
	User   string // empty: its parent's
	UID    uint32
	Traits []string
	// Fresh: its file was made today, not long before the sensor came.
	Fresh bool
	// Session: a person is at work in it and in what it starts.
	Session bool
}

// Result is what the sensor made of one event.
type Result struct {
	Storyline string
	// Behaviour names what was done, as subject and object of its kind; empty: nothing that is learnt.
	Kind, Subject, Object string
	New, Known, Learning  bool
	Surprise, HourBits    float64
	// Own and Whole are the bits of the event and of its storyline with it; 0: nothing odd.
	Own, Whole float64
	// PValue is how likely an ordinary window of this host has a storyline as odd; 1: nothing odd.
	PValue   float64
	Suspect  bool
	Findings []Finding
}

// Finding is what was told.
type Finding struct {
	ID, Kind, Title, Reason, Severity string
	Score, PValue                     float64
	Terms                             []string
}

// Open installs a sensor on a host.
func Open(cfg Config) (*Host, error) {
	if cfg.HarvestEvery <= 0 {
		cfg.HarvestEvery = 24 * time.Hour
	}
	h := &Host{now: cfg.Start, harvest: cfg.HarvestEvery, harvested: cfg.Start, installed: cfg.Start, pid: 100, port: 32768}
	clock := func() time.Time { return h.now }
	var err error
	h.baseline, err = baseline.Open(filepath.Join(cfg.Dir, "baseline.db"), baseline.Config{
		Window: cfg.Window, KnownWindows: cfg.KnownWindows, LearnFor: cfg.LearnFor, FlushEvery: 24 * time.Hour, Now: clock,
	})
	if err != nil {
		return nil, fmt.Errorf("opening a replayed host: %w", err)
	}
	h.detector, err = detect.New(detect.Config{
		AlertBudget: cfg.AlertBudget, Window: cfg.Window, NoBuiltin: !cfg.Rules, Now: clock,
	})
	if err != nil {
		_ = h.baseline.Close() // the reason is in err
		return nil, fmt.Errorf("opening a replayed host: %w", err)
	}
	return h, nil
}

// Close ends the host.
func (h *Host) Close() error { return h.baseline.Close() }

// Service is a process that PID 1 started: a storyline of its own.
func (h *Host) Service(at time.Time, program Program) (*Process, Result) {
	return h.start(at, &event.Process{Key: event.ProcessKey{PID: 1, Start: 1}, Image: "/usr/lib/systemd/systemd", User: "root", SessionID: event.NoSession, LoginUID: event.NoSession}, program)
}

// Exec starts a program.
func (h *Host) Exec(at time.Time, parent *Process, program Program) (*Process, Result) {
	return h.start(at, parent.p, program)
}

func (h *Host) start(at time.Time, parent *event.Process, program Program) (*Process, Result) {
	forked := h.fork(parent)
	p := *forked
	p.Image, p.Argv, p.Script, p.Traits = program.Image, program.Argv, program.Script, program.Traits
	if len(p.Argv) == 0 {
		p.Argv = []string{filepath.Base(program.Image)}
	}
	if program.User != "" {
		p.User, p.UID = program.User, program.UID
	}
	if program.Session {
		p.SessionID, p.LoginUID = p.Key.PID, p.UID
	}
	made := h.installed.AddDate(-1, 0, 0)
	if program.Fresh {
		made = at
	}
	return &Process{&p}, h.observe(at, &event.Observation{
		Event:   &event.Exec{Header: event.Header{Process: p.Key}, Image: event.ImageID{Change: uint64(made.UnixNano())}}, //nolint:gosec // after 1970
		Process: &p, Before: forked,
	})
}

func (h *Host) fork(parent *event.Process) *event.Process {
	h.pid++
	child := *parent
	child.Key = event.ProcessKey{PID: h.pid, Start: uint64(h.pid) * 1e6}
	child.Parent = parent
	if parent.Key.PID == 1 {
		child.Anchor = child.Key
	}
	return &child
}

// Accept has a server accept a connection and fork a process for it, whose storyline it is.
func (h *Host) Accept(at time.Time, server *Process, port uint16, remote netip.AddrPort) (*Process, Result) {
	o := h.flow(server.p, event.Inbound, netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), port), remote, "")
	result := h.observe(at, o)
	child := h.fork(server.p)
	child.Anchor, child.Origin = child.Key, o.Flow
	return &Process{child}, result
}

// Serve has a server accept a connection and serve it itself.
func (h *Host) Serve(at time.Time, server *Process, port uint16, remote netip.AddrPort) Result {
	return h.observe(at, h.flow(server.p, event.Inbound, netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), port), remote, ""))
}

// Connect has a process connect to a peer, which it resolved from name when that is not empty.
func (h *Host) Connect(at time.Time, p *Process, remote netip.AddrPort, name string) Result {
	h.port = 32768 + (h.port+1)%28000
	return h.observe(at, h.flow(p.p, event.Outbound, netip.AddrPortFrom(netip.MustParseAddr("10.0.1.1"), h.port), remote, name))
}

func (h *Host) flow(p *event.Process, dir event.Direction, local, remote netip.AddrPort, name string) *event.Observation {
	h.cookie++
	id := event.FlowID{Cookie: h.cookie}
	return &event.Observation{
		Event:   &event.FlowOpen{Header: event.Header{Process: p.Key}, Flow: id, Proto: 6, Dir: dir, Local: local, Remote: remote},
		Process: p, Flow: &event.Flow{ID: id, Proto: 6, Dir: dir, Local: local, Remote: remote, Name: name},
	}
}

// Lose says that events of the present were lost.
func (h *Host) Lose() {
	h.baseline.MarkLoss()
	h.detector.MarkLoss()
}

// tick is how often a sensor's clock moves when nothing happens.
const tick = 5 * time.Minute

var kinds = map[event.BehaviourKind]string{event.BehaviourExec: "exec", event.BehaviourFlow: "flow"}

// observe is what sensor's judge does.
func (h *Host) observe(at time.Time, o *event.Observation) Result {
	if at.Before(h.now) {
		at = h.now // a host's events come in their order
	}
	for next := h.now.Add(tick); next.Before(at); next = next.Add(tick) {
		// A sensor knows that it watched, and that nothing came.
		quiet := &event.Observation{Event: &event.Exit{}, Time: next, Process: o.Process}
		h.detector.Evaluate(quiet, h.baseline.Observe(quiet))
	}
	h.now, o.Time = at, at
	if at.Sub(h.harvested) >= h.harvest {
		h.harvested = at
		h.baseline.Harvest(at, event.Health{}, nil)
	}
	v := h.baseline.Observe(o)
	findings, _ := h.detector.Evaluate(o, v)
	odd := h.detector.Oddness()
	r := Result{
		Storyline: storyline(o.Process.Anchor), New: v.New, Known: v.Known, Learning: v.Learning,
		Surprise: v.Surprise, HourBits: v.HourBits, Own: odd.Own, Whole: odd.Whole, PValue: 1, Suspect: odd.Suspect,
	}
	if odd.Whole > 0 {
		r.PValue = h.detector.PValue(odd.Whole)
	}
	if v.Tracked {
		r.Kind, r.Subject, r.Object = kinds[v.Behaviour.Kind], v.Behaviour.Subject, v.Behaviour.Object
	}
	if len(findings) == 0 && odd.Suspect {
		h.baseline.MarkSuspect(o.Process.Anchor)
	}
	for _, f := range findings {
		h.baseline.MarkTainted(f.Process.Anchor)
		told := Finding{ID: f.ID, Kind: f.Kind, Title: f.Title, Reason: f.Reason, Severity: string(f.Severity), Score: f.Score, PValue: f.PValue}
		for _, t := range f.Terms {
			told.Terms = append(told.Terms, fmt.Sprintf("%+.1f %s", t.Bits, t.Text))
		}
		r.Findings = append(r.Findings, told)
	}
	return r
}

// Judge is a person's word on a finding, as sensor's dispose takes it.
func (h *Host) Judge(finding string, malicious bool) {
	about := h.detector.About([]string{finding})
	h.detector.Dispose([]string{finding}, malicious)
	if malicious {
		h.baseline.Unlearn(func(event.Behaviour, time.Time) bool { return false }, about...)
		return
	}
	h.baseline.Vouch(about...)
}

// Calibration is what the host's oddness is measured by at present: from how many bits
// on a storyline is told, and how many findings a day that was of late.
func (h *Host) Calibration() (tellFrom, realised float64) {
	s := h.detector.Stats()
	return s.TellFrom, s.Realised
}
