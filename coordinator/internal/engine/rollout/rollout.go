// Package rollout recognises, on the leader, that a behaviour came to many hosts as a change
// and not as an attack: a package or configuration manager worked on them just before.
//
// Its one idea: what one host does for the first time is odd, and what a quarter of the fleet
// does for the first time in the same hours, each after its installer ran, is Tuesday. It
// says so beside what is found and hides nothing: who has the installer can roll out an
// attack, and rules do not ask.
//
// Invariant: it keeps nothing but a bounded cache of what the log said since this node leads.
// A new leader begins anew, and what it missed is not noted.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Log is the replicated log as the engine uses it.
type Log interface {
	IsLeader() bool
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Subscribe(fn func(index uint64, cmd *raftv1.Command, res *raftv1.Result)) (cancel func())
}

const (
	// within is in how much time a behaviour must come to minHosts, so many in a hundred of
	// them with an installer that worked at most before (or after, as clocks differ) it came.
	within   = 6 * time.Hour
	before   = time.Hour
	after    = 10 * time.Minute
	minHosts = 3
	byShare  = 80
	// Bounds of the cache: the behaviours that came, the hosts of each, the installers'
	// behaviours, the hosts on which they worked and the times of each.
	maxArrivals   = 20_000
	maxHosts      = 10_000
	maxInstallers = 50_000
	maxWorked     = 50_000
	maxTimes      = 16
	perEntry      = 200
)

// Config of an Engine.
type Config struct {
	// Log and DB are this node's part of the cluster.
	Log Log
	DB  *store.DB
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Every is how often the engine looks (default 1 min).
	Every time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Engine watches while this node leads.
type Engine struct {
	cfg Config

	mu         sync.Mutex
	arrivals   map[string]*arrival // by behaviour key
	installers map[string]string   // behaviour key → name
	worked     map[string][]work   // by host
}

// arrival is a behaviour that came.
type arrival struct {
	hosts map[string]int64 // first seen there
	noted int              // of how many hosts the log has it
}

type work struct {
	at int64
	by string
}

// New makes an Engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil || cfg.DB == nil {
		return nil, errors.New("rollout configuration: Log and DB must be set")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Every <= 0 {
		cfg.Every = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &Engine{cfg: cfg}
	e.reset()
	return e, nil
}

func (e *Engine) reset() {
	e.arrivals, e.installers, e.worked = map[string]*arrival{}, map[string]string{}, map[string][]work{}
}

// Run watches until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	cancel := e.cfg.Log.Subscribe(e.committed)
	defer cancel()
	tick := time.NewTicker(e.cfg.Every)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := e.Look(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			e.cfg.Logger.Warn("roll-outs were not noted; trying again", "error", err)
		}
		failed = err != nil
	}
}

// committed runs after every entry that this node applies.
func (e *Engine) committed(_ uint64, cmd *raftv1.Command, res *raftv1.Result) {
	in := cmd.GetIngest()
	if in == nil || res.GetRejected() != "" || !e.cfg.Log.IsLeader() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range in.GetBatches() {
		for _, r := range b.GetBatch().GetRecords() {
			// Of a host that learns, everything is new.
			if s := r.GetSummary(); s != nil {
				e.take(b.GetHost(), s, cmd.GetTime(), s.GetHealth().GetBaseline().GetLearning())
			}
		}
	}
}

// take reads a summary. A host's times count as far as they are not from the future.
func (e *Engine) take(host string, s *sensorv1.Summary, now int64, learning bool) {
	for _, b := range s.GetNewBehaviours() {
		at := min(b.GetFirstSeen(), now)
		if by := Installer(string(b.GetSubject())); by != "" {
			if len(e.installers) < maxInstallers {
				e.installers[string(b.GetKey())] = by
			}
			e.work(host, work{at, by})
			continue
		}
		if learning || now-at > int64(within) {
			continue
		}
		a := e.arrivals[string(b.GetKey())]
		if a == nil {
			if len(e.arrivals) >= maxArrivals {
				continue // the next look makes room
			}
			a = &arrival{hosts: make(map[string]int64)}
			e.arrivals[string(b.GetKey())] = a
		}
		if _, had := a.hosts[host]; !had && len(a.hosts) < maxHosts {
			a.hosts[host] = at
		}
	}
	for _, d := range s.GetDeltas() {
		if by, is := e.installers[string(d.GetKey())]; is {
			e.work(host, work{min(d.GetLastSeen(), now), by})
		}
	}
}

func (e *Engine) work(host string, w work) {
	had := e.worked[host]
	if had == nil && len(e.worked) >= maxWorked {
		return
	}
	if n := len(had); n > 0 && had[n-1].by == w.by && w.at-had[n-1].at < int64(time.Minute) && w.at >= had[n-1].at {
		had[n-1].at = w.at
		return
	}
	if had = append(had, w); len(had) > maxTimes {
		had = had[1:]
	}
	e.worked[host] = had
}

// Look notes what has come to be one, and forgets what is old.
func (e *Engine) Look(ctx context.Context) error {
	if !e.cfg.Log.IsLeader() {
		e.mu.Lock()
		e.reset()
		e.mu.Unlock()
		return nil
	}
	found := e.due(e.cfg.Now().UnixNano())
	var told []*raftv1.RollOut
	for _, r := range found {
		// What much of the fleet has had for long is no change.
		all, err := e.cfg.DB.Prevalence(ctx, r.GetKey())
		if err != nil {
			return fmt.Errorf("reading prevalence: %w", err)
		}
		if all <= 2*uint64(r.GetHosts()) {
			told = append(told, r)
		}
	}
	for some := range slices.Chunk(told, perEntry) {
		res, err := e.cfg.Log.Propose(ctx, &raftv1.Command{Time: e.cfg.Now().UnixNano(), Actor: "engine:rollout",
			Body: &raftv1.Command_NoteRollOuts{NoteRollOuts: &raftv1.NoteRollOuts{RollOuts: some}}})
		if err == nil && res.GetRejected() != "" {
			err = fmt.Errorf("%s: %s", res.GetRejected(), res.GetMessage())
		}
		if err != nil {
			return fmt.Errorf("noting roll-outs: %w", err)
		}
		e.mu.Lock()
		for _, r := range some {
			if a := e.arrivals[string(r.GetKey())]; a != nil {
				a.noted = int(r.GetHosts())
			}
		}
		e.mu.Unlock()
	}
	return nil
}

// due are the roll-outs that the log has not, or of fewer than half as many hosts; by key.
func (e *Engine) due(now int64) (out []*raftv1.RollOut) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for host, times := range e.worked {
		if now-times[len(times)-1].at > int64(within+before) {
			delete(e.worked, host)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.arrivals)) {
		a := e.arrivals[key]
		maps.DeleteFunc(a.hosts, func(_ string, at int64) bool { return now-at > int64(within) })
		if len(a.hosts) == 0 {
			delete(e.arrivals, key)
			continue
		}
		if len(a.hosts) < minHosts || a.noted > 0 && len(a.hosts) < 2*a.noted {
			continue
		}
		r := &raftv1.RollOut{Key: []byte(key), FirstSeen: now, Hosts: uint32(len(a.hosts))} //nolint:gosec // at most maxHosts
		names := make(map[string]int)
		for host, at := range a.hosts {
			r.FirstSeen, r.LastSeen = min(r.GetFirstSeen(), at), max(r.GetLastSeen(), at)
			if by := e.by(host, at); by != "" {
				r.Installed++
				names[by]++
			}
		}
		if r.GetInstalled()*100 < r.GetHosts()*byShare {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if r.GetBy() == "" || names[name] > names[r.GetBy()] {
				r.By = name
			}
		}
		out = append(out, r)
	}
	return out
}

// by is which installer worked on a host when something came to it.
func (e *Engine) by(host string, at int64) string {
	for _, w := range e.worked[host] {
		if at-w.at <= int64(before) && w.at-at <= int64(after) {
			return w.by
		}
	}
	return ""
}

// installers put files of others onto hosts, by the names of their images.
var installers = map[string]bool{
	"dpkg": true, "dpkg-deb": true, "apt": true, "apt-get": true, "aptitude": true, "unattended-upgrade": true,
	"rpm": true, "dnf": true, "dnf5": true, "yum": true, "microdnf": true, "zypper": true, "packagekitd": true,
	"pacman": true, "apk": true, "snapd": true, "flatpak": true, "nix-daemon": true,
	"puppet": true, "puppet-agent": true, "chef-client": true, "cinc-client": true, "salt-minion": true, "salt-call": true, "cf-agent": true,
}

// Installer is the name of the package or configuration manager that a behaviour's subject is, ""
// when it is none. One lies where only root writes: a file of such a name elsewhere is none.
func Installer(subject string) string {
	for _, word := range strings.Fields(subject) {
		name := word[strings.LastIndexByte(word, '/')+1:]
		switch {
		case strings.Contains(word, "/.ansible/tmp/"), strings.HasPrefix(name, "AnsiballZ_"):
			return "ansible"
		case !systemPlace(word):
			continue
		case installers[name]:
			return name
		case strings.HasPrefix(word, "/var/lib/dpkg/info/"):
			return "dpkg"
		}
	}
	return ""
}

func systemPlace(path string) bool {
	for _, dir := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib/", "/usr/libexec/", "/snap/", "/opt/puppetlabs/", "/opt/chef/", "/opt/cinc/", "/opt/saltstack/", "/var/lib/dpkg/info/", "/var/cfengine/bin/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}
