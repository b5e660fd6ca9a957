package campaigneval

import (
	"fmt"
	"time"
)

// benign is a week of ordinary work, with what is found in it although nothing is wrong. The
// rates are harsher than the alert budget: 0.3 findings a host and day, and one in fifteen of
// them is of severity high.
func (f *fleet) benign() {
	f.noise()
	for day := range 7 {
		at := start.Add(time.Duration(day) * 24 * time.Hour)
		for m := range managers {
			f.push(m, at.Add(time.Duration(6+m)*time.Hour), 0.3, 0.03, "")
		}
		f.backup(at.Add(2 * time.Hour))
		for range max(1, f.n/25) {
			f.admin(at.Add(time.Duration(8*3600+f.r.IntN(9*3600)) * time.Second))
		}
		for range max(1, f.n/50) {
			f.deploy(at.Add(time.Duration(9*3600+f.r.IntN(8*3600)) * time.Second))
		}
		for range max(1, f.n/100) { // monitoring finds something to restart
			to := f.some(1)[0]
			s := f.work(monitor, nil)
			s.tainted = f.chance(0.2)
			if s.tainted {
				s.finds(at.Add(time.Hour), "medium", 50)
			}
			n := s.goes(at.Add(time.Hour+time.Minute), to, "/usr/lib/monitor/check", 5666, "monitor", seenAlike)
			n.finds(at.Add(time.Hour+2*time.Minute), "medium", 50)
		}
	}
	// Two pushes of a program that nobody has: new on most hosts within half an hour.
	for i := range 2 {
		f.push(i, f.when(), 1, 0.6, fmt.Sprintf("/usr/bin/agent%d", i))
	}
}

// noise is what has to do with nothing else.
func (f *fleet) noise() {
	for range int(0.3 * 7 * float64(f.n)) {
		host, at := first+f.r.IntN(f.n-first), f.when()
		s := f.work(host, nil)
		severity, score := pick(f.r, "low", "medium", "medium"), 30+40*f.r.Float64()
		if f.chance(1. / 15) {
			severity, score = "high", 75
		}
		var marks []mark
		if f.chance(0.2) {
			marks = append(marks, program(pick(f.r, "/usr/bin/python3", "/bin/sh"), ""))
		}
		if f.chance(0.1) {
			marks = append(marks, asks(pick(f.r, "a.updates.example.org", "img.cdn.example.net", fmt.Sprintf("www.rare%d.example", f.r.IntN(200)))))
		}
		s.finds(at, severity, score, marks...)
		if f.chance(0.3) { // it talks to what it always talks to
			to := f.some(1, host)[0]
			image, port := "/usr/bin/java", uint16(5432)
			if f.chance(0.1) {
				image, port = sshImage, 22
			}
			if !f.chance(0.05) { // the others are connections that were never made before
				f.habit(host, image, to, port, 90_000, 60)
			}
			n := s.goes(at.Add(time.Second), to, image, port, "app", seenAlike)
			if f.chance(0.02) {
				n.finds(at.Add(time.Minute), "medium", 50)
			}
		}
	}
}

// push is a config manager's round over its hosts.
func (f *fleet) push(manager int, at time.Time, found, atTarget float64, rollout string) {
	s := f.work(manager, nil)
	if f.chance(found) {
		s.finds(at, "medium", 55, program("/usr/bin/python3", ""))
	}
	for i := first; i < f.n; i++ {
		if i%managers != manager {
			continue
		}
		at = at.Add(time.Duration(f.r.Int64N(int64(3 * time.Second))))
		n := s.goes(at, i, sshImage, 22, "deploy", seenAlike)
		if f.chance(atTarget) {
			var marks []mark
			if rollout != "" {
				marks = append(marks, program(rollout, "v1"))
			}
			n.finds(at.Add(2*time.Second), "medium", 55, marks...)
		}
	}
}

func (f *fleet) backup(at time.Time) {
	s := f.work(backupHost, nil)
	if f.chance(0.3) {
		s.finds(at, "medium", 50)
	}
	for i := first; i < f.n; i++ {
		at = at.Add(time.Duration(f.r.Int64N(int64(4 * time.Second))))
		n := s.goes(at, i, sshImage, 22, "backup", seenAlike)
		if f.chance(0.01) {
			n.finds(at.Add(time.Second), pick(f.r, "low", "medium"), 50)
		}
	}
}

// admin is a person who goes from a bastion to some hosts, one in ten of them for the first time.
func (f *fleet) admin(at time.Time) {
	bastion := bastionHost + f.r.IntN(3)
	s := f.work(bastion, nil)
	switch {
	case f.chance(0.01):
		s.finds(at, "high", 75)
	case f.chance(0.1):
		s.finds(at, "medium", 55)
	}
	for _, to := range f.some(1 + f.r.IntN(6)) {
		at = at.Add(time.Duration(1+f.r.IntN(10)) * time.Minute)
		if !f.chance(0.1) {
			f.habit(bastion, sshImage, to, 22, uint64(3+f.r.IntN(40)), 60)
		}
		n := s.goes(at, to, sshImage, 22, "admin", seenAlike)
		switch {
		case f.chance(0.01):
			n.finds(at.Add(time.Minute), "high", 75)
		case f.chance(0.1):
			n.finds(at.Add(time.Minute), "medium", 55)
		}
	}
}

// deploy brings a program that was built a moment ago to the hosts that run it.
func (f *fleet) deploy(at time.Time) {
	s := f.work(runner, nil)
	if f.chance(0.2) {
		s.finds(at, "medium", 55)
	}
	f.serial++
	build := fmt.Sprint(f.serial)
	for _, to := range f.some(3 + f.r.IntN(18)) {
		at = at.Add(time.Duration(1+f.r.IntN(20)) * time.Second)
		if !f.chance(0.05) {
			f.habit(runner, sshImage, to, 22, uint64(5+f.r.IntN(60)), 60)
		}
		n := s.goes(at, to, sshImage, 22, "ci", seenAlike)
		if f.chance(0.3) {
			n.finds(at.Add(time.Second), "medium", 55, program("/srv/app/server", build))
		}
	}
}

// attackKinds are the campaigns, ten of each in a fleet of 1,000.
var attackKinds = map[string]func(f *fleet, a *attack, at time.Time){
	"ssh key hop": (*fleet).sshHop, "scp and run": (*fleet).scpRun, "stolen agent": (*fleet).stolenAgent,
	"web shell to database": (*fleet).webShell, "cron worm": (*fleet).cronWorm, "slow hop": (*fleet).slowHop, "through NAT": (*fleet).natHop,
}

func (f *fleet) strike() {
	for _, kind := range []string{"ssh key hop", "scp and run", "stolen agent", "web shell to database", "cron worm", "slow hop", "through NAT"} {
		for range max(1, f.n/100) {
			a := &attack{kind: kind, hosts: map[string]bool{}}
			attackKinds[kind](f, a, f.when())
			f.attacks = append(f.attacks, a)
		}
	}
}

// maybe is what is found at a hop: mostly something, not always, and not always grave.
func (f *fleet) maybe(s *work, at time.Time, marks ...mark) {
	switch {
	case f.chance(0.25):
		s.finds(at, "high", 75, marks...)
	case f.chance(0.75):
		s.finds(at, "medium", 60, marks...)
	}
}

func (f *fleet) hops(a *attack, at time.Time, hosts []int, apart func() time.Duration, how way) {
	s := f.work(hosts[0], a)
	s.finds(at, "high", 80)
	for i, to := range hosts[1:] {
		at = at.Add(apart())
		s = s.goes(at, to, sshImage, 22, "root", how)
		if how != seenAlike || i == len(hosts)-2 {
			s.finds(at.Add(20*time.Second), pick(f.r, "medium", "medium", "high"), 60)
			continue
		}
		f.maybe(s, at.Add(20*time.Second))
	}
}

func (f *fleet) minutes(most int) func() time.Duration {
	return func() time.Duration { return time.Duration(30+f.r.IntN(most*60)) * time.Second }
}

func (f *fleet) sshHop(a *attack, at time.Time) {
	f.hops(a, at, f.victims(3+f.r.IntN(3)), f.minutes(20), seenAlike)
}

func (f *fleet) natHop(a *attack, at time.Time) {
	f.hops(a, at, f.victims(2+f.r.IntN(2)), f.minutes(20), translated1)
}

// slowHop waits for days; the week is compressed, its clock is not.
func (f *fleet) slowHop(a *attack, _ time.Time) {
	at := start.Add(time.Duration(f.r.Int64N(int64(20 * time.Hour))))
	f.hops(a, at, f.victims(3), func() time.Duration { return 72*time.Hour + time.Duration(f.r.IntN(3600))*time.Second }, seenAlike)
}

func (f *fleet) scpRun(a *attack, at time.Time) {
	f.serial++
	tool := program("/dev/shm/x", fmt.Sprint(f.serial))
	c2 := asks(fmt.Sprintf("c%d.example", f.serial))
	peer := speaks(fmt.Sprintf("198.51.100.%d", 1+f.serial%250))
	hosts := f.victims(3 + f.r.IntN(3))
	s := f.work(hosts[0], a)
	s.finds(at, "high", 80, tool, c2, peer)
	for _, to := range hosts[1:] {
		at = at.Add(f.minutes(10)())
		how := seenAlike
		if f.chance(0.15) {
			how = unseen // the program alone tells of it
		}
		s = s.goes(at, to, "/usr/bin/scp", 22, "root", how)
		s.finds(at.Add(10*time.Second), "high", 75, tool, c2, peer)
	}
}

// stolenAgent goes where the bastion always goes, by the same program.
func (f *fleet) stolenAgent(a *attack, at time.Time) {
	bastion := bastionHost + f.r.IntN(3)
	s := f.work(bastion, a)
	s.finds(at, "high", 80)
	for _, to := range f.victims(2 + f.r.IntN(3)) {
		at = at.Add(f.minutes(10)())
		f.habit(bastion, sshImage, to, 22, uint64(3+f.r.IntN(40)), 60)
		n := s.goes(at, to, sshImage, 22, "admin", seenAlike)
		n.finds(at.Add(10*time.Second), pick(f.r, "high", "high", "high", "critical"), 75)
	}
}

// webShell uses the service's own way to the database, by another program.
func (f *fleet) webShell(a *attack, at time.Time) {
	hosts := f.victims(2)
	f.habit(hosts[0], "/usr/bin/php-fpm", hosts[1], 5432, 90_000, 60)
	s := f.work(hosts[0], a)
	s.finds(at, "high", 80)
	n := s.goes(at.Add(f.minutes(10)()), hosts[1], "/usr/bin/psql", 5432, "app", seenAlike)
	n.finds(at.Add(15*time.Minute), pick(f.r, "medium", "high"), 70)
}

// cronWorm spreads to two hosts from each, and fetches itself from outside.
func (f *fleet) cronWorm(a *attack, at time.Time) {
	f.serial++
	tool := program("/var/tmp/.k", fmt.Sprint(f.serial))
	c2 := asks(fmt.Sprintf("w%d.example", f.serial))
	hosts := f.victims(5 + f.r.IntN(5))
	works := make([]*work, len(hosts))
	works[0] = f.work(hosts[0], a)
	works[0].finds(at, "high", 80, tool, c2)
	for i := 1; i < len(hosts); i++ {
		at = at.Add(time.Minute + f.minutes(5)())
		how := seenAlike
		if f.chance(0.15) {
			how = unseen
		}
		works[i] = works[(i-1)/2].goes(at, hosts[i], sshImage, 22, "root", how)
		if f.chance(0.8) || how == unseen {
			works[i].finds(at.Add(10*time.Second), "high", 75, tool, c2)
		} else {
			works[i].finds(at.Add(10*time.Second), "medium", 60, tool)
		}
	}
}
