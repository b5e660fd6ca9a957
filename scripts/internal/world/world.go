// Package world is a fleet that does not exist: hosts with roles, what they do in the
// course of a day, what is rolled out to them, who comes and goes, who misbehaves, and
// campaigns that move over some of them. It knows no socket and no clock.
//
// Invariant: everything is a function of the configuration, the host and the window of
// simulated time. Nothing is remembered, so that any window of any host can be asked for
// in any order, twice, and by two programs, with the same answer.
package world

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// So long a host that leaves is away.
const minAway, maxAway = 5 * time.Minute, 30 * time.Minute

// MaxHosts bounds a world: beyond it the addresses would repeat.
const MaxHosts = 1 << 20

// Config says which world it is. Two equal ones are the same world.
type Config struct {
	// Seed is what the worlds of otherwise equal configurations differ by.
	Seed uint64
	// Hosts that there are at any time, those that come later among them.
	Hosts int
	// Start is the simulated time of the first window's beginning. Default: the first
	// Monday of 2026, 09:00 UTC.
	Start time.Time
	// Window is the simulated time of one summary. Default 30 s.
	Window time.Duration
	// Late, Slow, Hostile and Churn are out of a thousand hosts: how many come later
	// (within LateWindows), read slowly or not at all, break the protocol, and leave for
	// a while in each simulated hour. A share above zero is one host at least.
	Late, Slow, Hostile, Churn int
	LateWindows                int
	// RolloutEvery so much simulated time something new comes to all hosts of a role,
	// and StormEvery so much some hosts lose their sessions at once; 0: never.
	RolloutEvery, StormEvery time.Duration
	// Campaigns move over hosts of their own, the first in window CampaignStart, the
	// others CampaignEvery windows after the one before (default 1 and 2).
	Campaigns, CampaignStart, CampaignEvery int
	// Kinds has the campaigns be of every kind in turn, within four windows of CampaignStart, and
	// Pushes has so many hosts push to others what is new there: a campaign's look, and none.
	Kinds  bool
	Pushes int
}

func (c *Config) populate() error {
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	}
	if c.Window == 0 {
		c.Window = 30 * time.Second
	}
	if c.CampaignStart == 0 {
		c.CampaignStart = 1
	}
	if c.CampaignEvery == 0 {
		c.CampaignEvery = 2
	}
	var problems []error
	if c.Hosts < 1 || c.Hosts > MaxHosts {
		problems = append(problems, fmt.Errorf("Hosts is %d, want 1 to %d", c.Hosts, MaxHosts))
	}
	if c.Window < time.Second || c.Window > 6*time.Hour {
		problems = append(problems, fmt.Errorf("Window is %s, want 1s to 6h", c.Window))
	}
	for _, share := range []int{c.Late, c.Slow, c.Hostile, c.Churn} {
		if share < 0 || share > 1000 {
			problems = append(problems, fmt.Errorf("a share of %d out of a thousand", share))
		}
	}
	if c.Slow+c.Hostile > 900 {
		problems = append(problems, errors.New("Slow and Hostile leave too few honest hosts"))
	}
	if c.Late > 0 && c.LateWindows < 1 {
		problems = append(problems, errors.New("Late needs LateWindows"))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("world configuration: %w", err)
	}
	return nil
}

// Host is one of them.
type Host struct {
	N       int
	Name    string
	Role    string
	Kind    Kind
	Address netip.Addr
	// Born is the first window that it exists in.
	Born int

	role *role
	zone int // minutes that its day is ahead of the world's
}

// Facts are what its sensor says of it.
func (h *Host) Facts() *sensorv1.HostFacts {
	return &sensorv1.HostFacts{Name: h.Name, Os: "linux", Kernel: "6.12.0-sim", Arch: "amd64", Addresses: []string{h.Address.String()},
		Labels: map[string]string{"role": h.Role}, Scope: "host"}
}

// World answers for all hosts. It is read only, and so safe for concurrent use.
type World struct {
	cfg       Config
	hosts     []Host
	campaigns []Campaign
	steps     map[int][]step // by host
	pushes    []Push
}

// New makes a world.
func New(cfg Config) (*World, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	w := &World{cfg: cfg, hosts: make([]Host, cfg.Hosts), steps: make(map[int][]step)}
	for n := range w.hosts {
		w.hosts[n] = w.host(n)
	}
	// A host is late, slow or hostile by its place in an order of its own for each, so
	// that a small fleet has its share of them too.
	misbehaved := w.order(tagKind)
	hostile, slow := share(cfg.Hosts, cfg.Hostile), share(cfg.Hosts, cfg.Slow)
	for i, n := range misbehaved[:min(len(misbehaved), hostile+slow)] {
		if i < hostile {
			w.hosts[n].Kind = firstHostile + Kind(i)%(kinds-firstHostile)
		} else {
			w.hosts[n].Kind = firstSlow + Kind(i-hostile)%(firstHostile-firstSlow)
		}
	}
	for i, n := range w.order(tagBorn)[:share(cfg.Hosts, cfg.Late)] {
		w.hosts[n].Born = 1 + i*cfg.LateWindows/max(1, share(cfg.Hosts, cfg.Late))
	}
	return w, w.plan()
}

// share is so many of a thousand, one at least.
func share(of, permille int) int {
	if permille == 0 {
		return 0
	}
	return max(1, of*permille/1000)
}

// order is all hosts in an order that is the tag's own.
func (w *World) order(tag uint64) []int {
	all := make([]int, len(w.hosts))
	for n := range all {
		all[n] = n
	}
	slices.SortFunc(all, func(a, b int) int {
		return cmp.Or(cmp.Compare(w.roll(tag, uint64(a)), w.roll(tag, uint64(b))), a-b)
	})
	return all
}

func (w *World) host(n int) Host {
	of := int(w.roll(tagRole, uint64(n)) % 100)
	r := &roles[len(roles)-1]
	for i := range roles {
		if of -= roles[i].share; of < 0 {
			r = &roles[i]
			break
		}
	}
	return Host{N: n, Name: fmt.Sprintf("%s-%05d", r.name, n), Role: r.name, role: r, zone: int(w.roll(tagZone, uint64(n)) % 180),
		Address: netip.AddrFrom4([4]byte{10, byte(16 + n>>16), byte(n >> 8), byte(n)})}
}

// Config is the world's, its defaults filled in.
func (w *World) Config() Config { return w.cfg }

// Host is the n-th.
func (w *World) Host(n int) *Host { return &w.hosts[n] }

// Size is how many hosts there are, late ones among them.
func (w *World) Size() int { return len(w.hosts) }

// At is the simulated time at which a window begins.
func (w *World) At(window int) time.Time {
	return w.cfg.Start.Add(time.Duration(window) * w.cfg.Window)
}

// Present says whether a host runs in a window: it is born and not away.
func (w *World) Present(n, window int) bool {
	if window < w.hosts[n].Born {
		return false
	}
	if w.cfg.Churn == 0 || window == w.hosts[n].Born {
		return true
	}
	// An absence is shorter than an hour, so it began in this one or the one before.
	hour := w.hour(window)
	return !w.away(n, hour, window) && (hour == 0 || !w.away(n, hour-1, window))
}

func (w *World) hour(window int) int { return int(time.Duration(window) * w.cfg.Window / time.Hour) }

// away says whether the absence that may begin in an hour covers a window.
func (w *World) away(n, hour, window int) bool {
	dice := w.roll(tagChurn, uint64(n), uint64(hour))
	if int(dice%1000) >= w.cfg.Churn {
		return false
	}
	from := time.Duration(hour)*time.Hour + time.Duration(dice>>10%3600)*time.Second
	until := from + minAway + time.Duration(dice>>30%uint64((maxAway-minAway)/time.Second))*time.Second
	first := int(from / w.cfg.Window)
	return window >= first && window <= max(first, int(until/w.cfg.Window)-1)
}

// Dropped says whether a host loses its session in a window, for a storm takes it.
func (w *World) Dropped(n, window int) bool {
	at, begins := w.every(w.cfg.StormEvery, window)
	if !begins {
		return false
	}
	// A tenth to a half of the fleet.
	part := 100 + w.roll(tagStorm, uint64(at))%400
	return w.roll(tagStorm, uint64(at), uint64(n))%1000 < part
}

// every says whether the i-th of what comes so often comes in a window; the first comes
// after one period.
func (w *World) every(period time.Duration, window int) (i int, begins bool) {
	if period <= 0 {
		return 0, false
	}
	before := int(time.Duration(window) * w.cfg.Window / period)
	after := int(time.Duration(window+1) * w.cfg.Window / period)
	return after, after > before
}

// Digest is a hash of all that hosts report, and of who is there and who is dropped, in
// the windows from ≤ w < until.
func (w *World) Digest(from, until int) (string, error) {
	sum := sha256.New()
	for n := range w.hosts {
		h := w.Host(n)
		fmt.Fprintf(sum, "%d %s %s %d %d\n", n, h.Name, h.Address, h.Kind, h.Born)
		for k := from; k < until; k++ {
			fmt.Fprintf(sum, "%d %t %t\n", k, w.Present(n, k), w.Dropped(n, k))
			for _, r := range w.Records(n, k) {
				raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
				if err != nil {
					return "", fmt.Errorf("hashing window %d of host %d: %w", k, n, err)
				}
				sum.Write(raw)
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
