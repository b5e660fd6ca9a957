package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/sensor/replay"
)

// attack is an intrusion of this project's own writing, from ATT&CK's techniques and how
// Linux works. Each of its deeds has the label, so that what was seen of it is known.
type attack struct {
	name  string
	roles []string // empty: any
	do    func(m *machine)
	// again is how often it comes back, and after how long.
	times int
	every time.Duration
}

var (
	foreign  = netip.MustParseAddr("203.0.113.66")
	foreign2 = netip.MustParseAddr("198.51.100.23")
)

var attacks = []attack{
	{name: "web-shell", roles: []string{"web"}, do: webShell},
	{name: "reverse-shell", roles: []string{"web", "database", "build"}, do: reverseShell},
	{name: "credential-theft", do: credentialTheft},
	{name: "lateral-ssh", do: lateralSSH},
	{name: "crypto-miner", do: cryptoMiner},
	{name: "cron-persistence", do: cronPersistence, times: 12, every: 2 * time.Hour},
	{name: "slow-exfiltration", do: slowExfiltration, times: 24, every: 5 * time.Hour / 2},
	{name: "known-programs-only", do: knownProgramsOnly},
}

func (a attack) on(r role) bool { return len(a.roles) == 0 || slices.Contains(a.roles, r.name) }

// plan puts an attack at a time into a host's history.
func (a attack) plan(m *machine, at time.Time) {
	for i := range max(a.times, 1) {
		m.later(at.Add(time.Duration(i)*a.every), func(m *machine) {
			m.label = a.name
			a.do(m)
			m.label = ""
		})
	}
}

// webShell: T1505.003. Commands by way of the application.
func webShell(m *machine) {
	php := m.services["php"]
	m.serve(m.services["nginx"], 443, foreign)
	for _, tool := range []string{"id", "uname", "cat", "ls"} {
		sh := m.start(php, bin("dash"), "-c", tool)
		m.start(sh, bin(tool))
		m.step(20 * time.Second)
	}
	sh := m.start(php, bin("dash"), "-c", "curl")
	m.connect(m.start(sh, bin("curl")), foreign2, 80, "")
}

// reverseShell: T1059.004. A service's shell that talks to its master.
func reverseShell(m *machine) {
	by := m.services["php"]
	switch m.role.name {
	case "database":
		by = m.services["postgres"] // COPY FROM PROGRAM
	case "build":
		by = m.services["runner"]
	}
	sh := m.start(by, bin("dash"), "-c", "bash -i")
	bash := m.start(sh, bin("bash"), "-i")
	m.connect(bash, foreign, 4444, "")
	for _, tool := range []string{"id", "find", "ss"} {
		m.start(bash, bin(tool))
	}
}

// credentialTheft: T1552.004, T1048. A stolen key, used at night from elsewhere.
func credentialTheft(m *machine) {
	shell := m.login(inside(7, 7))
	for _, tool := range []string{"cat", "find", "tar"} {
		m.start(shell, bin(tool))
		m.step(10 * time.Second)
	}
	m.connect(m.start(m.start(shell, bin("scp")), bin("ssh")), foreign2, 22, "")
}

// lateralSSH: T1021.004. A neighbour of the same network comes in and goes on.
func lateralSSH(m *machine) {
	shell := m.login(inside(1, 40+m.sim.IntN(9)))
	m.start(shell, bin("hostname"))
	m.start(shell, bin("ip"))
	m.connect(m.start(shell, bin("ssh")), inside(8, 1+m.sim.IntN(90)), 22, "")
}

// cryptoMiner: T1496. A program brought along, hidden, calling its pool.
func cryptoMiner(m *machine) {
	shell := m.login(m.admins[0])
	m.connect(m.start(shell, bin("curl")), foreign, 443, "")
	m.start(shell, bin("chmod"))
	miner := m.program(shell, replay.Program{Image: "/tmp/.cache/kworkerd", Traits: []string{"world-writable-dir"}, Fresh: true})
	m.connect(miner, outside("pool.example"), 3333, "pool.example")
}

// cronPersistence: T1053.003. A job that comes back.
func cronPersistence(m *machine) {
	sh := m.start(m.services["cron"], bin("dash"), "-c", "upd")
	upd := m.program(sh, replay.Program{Image: bin("dash"), Script: "/var/lib/misc/.upd"})
	m.connect(m.start(upd, bin("curl")), foreign2, 443, "")
}

// slowExfiltration: T1029, T1048. A little at a time with what is there.
func slowExfiltration(m *machine) {
	by := m.services["cron"]
	if m.services["postgres"] != nil {
		by = m.services["postgres"]
	}
	sh := m.start(by, bin("dash"), "-c", "gzip | openssl")
	m.start(sh, bin("gzip"))
	m.connect(m.start(sh, bin("openssl")), foreign, 443, "")
}

// knownProgramsOnly: T1078, T1105 with nothing new but the order: from an
// administrator's own address, with his ten most used tools, to where he often goes.
func knownProgramsOnly(m *machine) {
	shell := m.login(m.admins[0])
	for range 8 {
		m.start(shell, bin(m.regular[m.sim.IntN(6)]))
	}
	m.connect(m.start(shell, bin("curl")), outside(m.domains[0]), 443, m.domains[0])
}
