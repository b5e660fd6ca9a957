package world

import (
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Kind is how a host's sensor treats its node.
type Kind int

// Kinds of sensors. The stored order is the one of their places in New.
const (
	Honest Kind = iota
	// SlowReader takes its time over each answer; NoReader reads none after its welcome.
	SlowReader
	NoReader
	// Gap sends records that do not follow what is stored.
	Gap
	// Backwards sends sequences that do not rise.
	Backwards
	// Oversize sends a batch above a log entry's limit.
	Oversize
	// Giant announces a frame above the limit.
	Giant
	// Flood sends new behaviours without end.
	Flood
	// Liar states times years away.
	Liar

	kinds
	firstSlow    = SlowReader
	firstHostile = Gap
)

var kindNames = [...]string{"honest", "slow reader", "no reader", "gap", "backwards", "oversize", "giant", "flood", "liar"}

func (k Kind) String() string { return kindNames[k] }

// Hostile says whether a sensor breaks the protocol.
func (k Kind) Hostile() bool { return k >= firstHostile }

// habit is something that hosts of a role do.
type habit struct {
	kind            sensorv1.BehaviourKind
	subject, object string
	// perHour, at the busiest.
	perHour int
}

const (
	execs   = sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC
	flows   = sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW
	lookups = sensorv1.BehaviourKind_BEHAVIOUR_KIND_LOOKUP
	files   = sensorv1.BehaviourKind_BEHAVIOUR_KIND_FILE
)

// rhythm is how busy each hour of a day is, out of a thousand.
type rhythm [24]int

var (
	flat   = rhythm{700, 680, 660, 650, 650, 670, 720, 790, 860, 930, 980, 1000, 980, 970, 980, 990, 980, 950, 920, 890, 850, 810, 770, 730}
	office = rhythm{20, 20, 20, 20, 20, 40, 120, 400, 800, 980, 1000, 960, 620, 860, 980, 960, 880, 620, 300, 160, 100, 60, 40, 20}
	nights = rhythm{620, 900, 1000, 940, 600, 240, 120, 100, 120, 140, 150, 150, 140, 140, 150, 150, 140, 130, 120, 110, 110, 120, 160, 320}
)

// role is what a host is for. Its hosts differ in which of its habits they have.
type role struct {
	name   string
	share  int // of a hundred hosts
	day    rhythm
	habits []habit
	// opens is where a campaign that comes here leaves a trace.
	login habit
}

// everywhere is what each host does, whatever it is for.
var everywhere = []habit{
	{execs, "/usr/lib/systemd/systemd", "/usr/sbin/cron", 60},
	{execs, "/usr/sbin/cron", "/usr/bin/run-parts", 12},
	{flows, "/usr/sbin/chronyd", "10.16.0.0/24 123/udp out", 60},
	{lookups, "/usr/bin/apt-get", "debian.org", 2},
	{files, "/usr/bin/apt-get", "write /var/lib/apt", 2},
	{execs, "/usr/sbin/logrotate", "/usr/bin/gzip", 3},
}

var roles = []role{
	{name: "web", share: 40, day: flat, login: habit{execs, "/usr/sbin/nginx", "/bin/sh", 0}, habits: []habit{
		{flows, "/usr/sbin/nginx", "0.0.0.0/0 443/tcp in", 9000},
		{flows, "/usr/sbin/nginx", "10.18.0.0/16 8080/tcp out", 7000},
		{files, "/usr/sbin/nginx", "read /srv/www", 4000},
		{flows, "/usr/bin/app", "10.17.0.0/16 5432/tcp out", 6000},
		{lookups, "/usr/bin/app", "payments.example", 240},
		{execs, "/usr/bin/app", "/usr/bin/convert", 90},
		{files, "/usr/bin/app", "write /var/cache/app", 1200},
	}},
	{name: "db", share: 15, day: flat, login: habit{execs, "/usr/lib/postgresql/bin/postgres", "/bin/sh", 0}, habits: []habit{
		{flows, "/usr/lib/postgresql/bin/postgres", "10.16.0.0/12 5432/tcp in", 8000},
		{files, "/usr/lib/postgresql/bin/postgres", "write /var/lib/postgresql", 3600},
		{execs, "/usr/sbin/cron", "/usr/bin/pg_dump", 1},
		{flows, "/usr/bin/pg_dump", "10.20.0.0/24 873/tcp out", 1},
		{flows, "/usr/lib/postgresql/bin/postgres", "10.17.0.0/16 5432/tcp out", 600},
	}},
	{name: "build", share: 15, day: office, login: habit{execs, "/usr/bin/runner", "/bin/bash", 0}, habits: []habit{
		{execs, "/usr/bin/runner", "/usr/bin/git", 300},
		{execs, "/usr/bin/make", "/usr/bin/cc", 6000},
		{execs, "/usr/bin/cc", "/usr/bin/ld", 900},
		{lookups, "/usr/bin/git", "code.example", 300},
		{flows, "/usr/bin/git", "10.21.0.0/24 443/tcp out", 300},
		{files, "/usr/bin/cc", "write /srv/build", 6000},
		{lookups, "/usr/bin/runner", "registry.example", 120},
	}},
	{name: "batch", share: 15, day: nights, login: habit{execs, "/usr/bin/python3", "/bin/sh", 0}, habits: []habit{
		{execs, "/usr/sbin/cron", "/usr/bin/python3", 60},
		{flows, "/usr/bin/python3", "10.17.0.0/16 5432/tcp out", 1800},
		{files, "/usr/bin/python3", "write /srv/reports", 600},
		{flows, "/usr/bin/python3", "10.20.0.0/24 443/tcp out", 120},
	}},
	{name: "bastion", share: 5, day: office, login: habit{execs, "/usr/sbin/sshd", "/bin/bash", 0}, habits: []habit{
		{flows, "/usr/sbin/sshd", "10.30.0.0/16 22/tcp in", 120},
		{execs, "/usr/sbin/sshd", "/bin/bash", 120},
		{execs, "/bin/bash", "/usr/bin/ssh", 200},
		{flows, "/usr/bin/ssh", "10.16.0.0/12 22/tcp out", 200},
	}},
	{name: "office", share: 10, day: office, login: habit{execs, "/usr/bin/mailer", "/bin/sh", 0}, habits: []habit{
		{lookups, "/usr/bin/browser", "search.example", 400},
		{flows, "/usr/bin/browser", "0.0.0.0/0 443/tcp out", 1800},
		{execs, "/usr/bin/desktop", "/usr/bin/browser", 6},
		{flows, "/usr/bin/mailer", "10.22.0.0/24 993/tcp out", 120},
		{files, "/usr/bin/editor", "write /home", 240},
	}},
}
