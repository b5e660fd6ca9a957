package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/replay"
)

// monday is when each host's sensor was installed.
var monday = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// machine is a simulated host: what happens on it, in the order of its time.
//
// What a real host does a thousand times is done some ten times: a baseline counts windows,
// not events, so that nothing but the load is compressed. A week has seven days of 24 hours.
type machine struct {
	seed uint64
	role role
	sim  *rand.Rand
	host *replay.Host
	took func(at time.Time, label string, r replay.Result)

	label string // of the attack under way; empty: ordinary work
	plan  plan
	now   time.Time

	services map[string]*replay.Process
	admins   []netip.Addr // who logs in
	regular  []string     // tools of the people, by rank
	domains  []string     // what they talk to, by rank
	packages []string
	peers    []netip.Addr // of the role: web servers of a database, hosts of an administrator
	flavour  int          // which of a role's variants this host is
}

// plan is a queue of what is to happen.
type plan []planned

type planned struct {
	at time.Time
	do func(m *machine)
}

func (m *machine) later(at time.Time, do func(m *machine)) {
	i, _ := slices.BinarySearchFunc(m.plan, at, func(p planned, at time.Time) int {
		if p.at.After(at) {
			return 1
		}
		return -1
	})
	m.plan = slices.Insert(m.plan, i, planned{at: at, do: do})
}

// run does what is planned until end.
func (m *machine) run(end time.Time) {
	for len(m.plan) > 0 && m.plan[0].at.Before(end) {
		next := m.plan[0]
		m.plan = m.plan[1:]
		if next.at.After(m.now) {
			m.now = next.at
		}
		m.label = ""
		next.do(m)
	}
	m.now = end
}

// step passes a little time, as between two commands.
func (m *machine) step(most time.Duration) time.Time {
	m.now = m.now.Add(time.Duration(m.sim.Int64N(int64(most)) + int64(time.Millisecond)))
	return m.now
}

func (m *machine) see(r replay.Result) { m.took(m.now, m.label, r) }

// start has a process start a program.
func (m *machine) start(parent *replay.Process, image string, args ...string) *replay.Process {
	return m.program(parent, replay.Program{Image: image, Argv: append([]string{image}, args...)})
}

func (m *machine) program(parent *replay.Process, p replay.Program) *replay.Process {
	child, r := m.host.Exec(m.step(400*time.Millisecond), parent, p)
	m.see(r)
	return child
}

func (m *machine) service(p replay.Program) *replay.Process {
	child, r := m.host.Service(m.step(time.Second), p)
	m.see(r)
	return child
}

func (m *machine) connect(p *replay.Process, addr netip.Addr, port uint16, name string) {
	m.see(m.host.Connect(m.step(400*time.Millisecond), p, netip.AddrPortFrom(addr, port), name))
}

func (m *machine) serve(p *replay.Process, port uint16, from netip.Addr) {
	m.see(m.host.Serve(m.step(400*time.Millisecond), p, port, netip.AddrPortFrom(from, m.ephemeral())))
}

// login is an ssh session's shell.
func (m *machine) login(from netip.Addr) *replay.Process {
	session, r := m.host.Accept(m.step(time.Second), m.services["sshd"], 22, netip.AddrPortFrom(from, m.ephemeral()))
	m.see(r)
	return m.program(session, replay.Program{Image: "/usr/bin/bash", Argv: []string{"-bash"}, User: "ann", UID: 1001, Session: true})
}

func (m *machine) ephemeral() uint16 { return uint16(32768 + m.sim.IntN(28000)) } //nolint:gosec // below 61000

// chance is true with probability p.
func (m *machine) chance(p float64) bool { return m.sim.Float64() < p }

// ranked draws an index of n by Zipf's law: the first is drawn most, the last seldom.
func (m *machine) ranked(n int) int {
	// The inverse of the cumulative distribution of 1/x on [1, n+1).
	return min(int(math.Exp(m.sim.Float64()*math.Log(float64(n)+1)))-1, n-1)
}

func (m *machine) draw(from []string) string { return from[m.ranked(len(from))] }

// outside is an address on the internet that a name has.
func outside(name string) netip.Addr {
	h := uint32(2166136261)
	for _, c := range []byte(name) {
		h = (h ^ uint32(c)) * 16777619
	}
	return netip.AddrFrom4([4]byte{byte(60 + h%100), byte(h >> 8), byte(h >> 16), byte(h >> 24)})
}

func inside(third, last int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(third), byte(last)})
}

// day is the midnight of a day of the history.
func day(n int) time.Time { return monday.AddDate(0, 0, n) }

func weekend(n int) bool { return n%7 >= 5 }

// newMachine installs a host of a role. Its weeks follow from its seed alone.
func newMachine(seed uint64, r role, dir string, budget float64, took func(time.Time, string, replay.Result)) (*machine, error) {
	m := &machine{
		seed: seed, role: r, sim: rand.New(rand.NewPCG(seed, uint64(len(r.name)))), //nolint:gosec // a history that can be repeated
		took: took, services: map[string]*replay.Process{}, now: monday,
	}
	host, err := replay.Open(replay.Config{Dir: dir, Start: monday, LearnFor: learnFor, AlertBudget: budget})
	if err != nil {
		return nil, err
	}
	m.host, m.flavour = host, m.sim.IntN(3)
	for i := range 3 {
		m.admins = append(m.admins, inside(5, 10+3*m.flavour+i))
	}
	m.regular = shuffled(m.sim, tools)
	for i := range 400 {
		m.domains = append(m.domains, fmt.Sprintf("site%d.example%d.com", i, m.sim.IntN(1000)))
	}
	for i := range 120 {
		m.packages = append(m.packages, fmt.Sprintf("pkg%c%c", 'a'+i/26, 'a'+i%26))
	}
	m.sim.Shuffle(len(m.packages), func(i, j int) { m.packages[i], m.packages[j] = m.packages[j], m.packages[i] })
	for i := range 12 {
		m.peers = append(m.peers, inside(2, 20+i))
	}
	m.boot()
	return m, nil
}

func shuffled(r *rand.Rand, in []string) []string {
	out := slices.Clone(in)
	// Near their places: ls is used more than xxd by everybody.
	for i := range out {
		j := min(i+r.IntN(8), len(out)-1)
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// live plans the ordinary work of days from to to.
func (m *machine) live(from, to int) {
	for d := from; d < to; d++ {
		m.everyHost(d)
		m.role.work(m, d)
	}
}
