package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vedette-edr/vedette/sensor/replay"
)

// role is what a host is for.
type role struct {
	name string
	boot func(m *machine)        // its services
	work func(m *machine, d int) // a day of it, planned
	// people is how many sessions a working day has.
	people float64
}

var roles = []role{
	{"web", bootWeb, workWeb, 2},
	{"database", bootDatabase, workDatabase, 1.5},
	{"build", bootBuild, workBuild, 2},
	{"workstation", bootWorkstation, workWorkstation, 7},
}

// tools are what people start, the most usual first.
var tools = []string{
	"ls", "cat", "grep", "less", "vim.basic", "sudo", "systemctl", "journalctl", "tail", "ps", "git", "cp", "mv", "find", "df", "du", "ssh", "curl",
	"htop", "rm", "mkdir", "head", "awk", "sed", "tar", "diff", "ip", "ss", "dig", "ping", "free", "id", "date", "sort", "wc", "xargs", "chmod", "chown",
	"python3.11", "jq", "rsync", "scp", "make", "tmux", "watch", "touch", "uname", "hostname", "env", "which", "file", "stat", "ln", "tee", "gzip", "unzip",
	"wget", "openssl", "lsof", "strace", "tcpdump", "nc.openbsd", "traceroute", "nmap", "crontab", "passwd", "useradd", "usermod", "mount", "umount", "lsblk",
	"fdisk", "dmesg", "sysctl", "lscpu", "lspci", "iostat", "vmstat", "sar", "perf", "gdb", "base64", "md5sum", "sha256sum", "xxd", "strings", "split", "paste",
	"cut", "tr", "uniq", "seq", "bc", "sqlite3", "psql", "mysql", "redis-cli", "docker", "kubectl", "helm", "terraform", "ansible", "vim.tiny", "nano", "ed",
	"screen", "script", "column", "pgrep", "pkill", "killall", "nice", "timeout", "getent", "last", "who", "w", "uptime", "chattr", "lsattr", "getfacl", "parted",
}

func bin(name string) string { return "/usr/bin/" + name }

func (m *machine) boot() {
	root := func(image string) replay.Program { return replay.Program{Image: image, User: "root"} }
	for _, s := range [][2]string{{"sshd", "/usr/sbin/sshd"}, {"cron", "/usr/sbin/cron"}, {"monitor", "/usr/sbin/zabbix_agentd"}} {
		m.services[s[0]] = m.service(root(s[1]))
	}
	m.role.boot(m)
}

// everyHost is what all roles have: the clock's jobs, monitoring, packages, people.
func (m *machine) everyHost(d int) {
	at := func(hour, minute float64) time.Time {
		return day(d).Add(time.Duration(hour*float64(time.Hour) + minute*float64(time.Minute)))
	}
	for h := range 24 {
		m.later(at(float64(h), 17), func(m *machine) { m.cron("/usr/bin/run-parts", "/usr/lib/php/sessionclean") })
		for q := range 4 {
			m.later(at(float64(h), float64(15*q)+m.sim.Float64()*10), func(m *machine) {
				m.serve(m.services["monitor"], 10050, inside(9, 5))
				if m.chance(0.3) {
					sh := m.start(m.services["monitor"], bin("dash"), "-c", "df")
					m.start(sh, bin([]string{"df", "free", "ss"}[m.sim.IntN(3)]))
				}
			})
		}
	}
	m.later(at(6, 25), func(m *machine) {
		sh := m.cron("/usr/bin/run-parts", "/etc/cron.daily/logrotate")
		rotate := m.start(sh, "/usr/sbin/logrotate")
		hook := m.start(rotate, bin("dash"), "-c", "postrotate")
		m.start(hook, bin("systemctl"), "kill", "-s", "HUP", m.role.name)
		m.start(rotate, bin("gzip"))
	})
	m.later(at(2, m.sim.Float64()*20), func(m *machine) { // the backup
		sh := m.cron("/usr/bin/dash", "/usr/local/sbin/backup")
		rsync := m.start(sh, bin("rsync"))
		m.connect(rsync, inside(9, 9), 873, "backup.corp")
	})
	for range 2 {
		m.later(at(24*m.sim.Float64(), 0), func(m *machine) {
			apt := m.service(replay.Program{Image: "/usr/bin/dash", Script: "/usr/lib/apt/apt.systemd.daily", User: "root"})
			get := m.start(apt, bin("apt-get"), "update")
			m.connect(m.start(get, "/usr/lib/apt/methods/http"), outside("deb.debian.org"), 80, "deb.debian.org")
		})
	}
	if m.chance(0.3) {
		m.later(at(6, m.sim.Float64()*59), func(m *machine) { m.upgrade(1 + m.sim.IntN(4)) })
	}
	if d%7 == 6 {
		m.later(at(3, 10), func(m *machine) { m.start(m.cron("/usr/bin/dash", "/etc/cron.weekly/man-db"), bin("mandb")) })
		m.later(at(0, 30), func(m *machine) { m.service(replay.Program{Image: "/usr/sbin/fstrim", User: "root"}) })
	}
	m.people(d)
}

// cron has the clock start a shell that starts a job.
func (m *machine) cron(image, script string) *replay.Process {
	sh := m.start(m.services["cron"], bin("dash"), "-c", script)
	return m.program(sh, replay.Program{Image: image, Script: script, Argv: []string{image, script}})
}

// upgrade has unattended upgrades bring packages, some new.
func (m *machine) upgrade(n int) {
	daily := m.service(replay.Program{Image: bin("python3.11"), Script: "/usr/bin/unattended-upgrade", User: "root"})
	m.install(daily, n)
}

func (m *machine) install(by *replay.Process, n int) {
	dpkg := m.start(by, bin("dpkg"), "--unpack")
	for range n {
		name := m.draw(m.packages)
		script := "/var/lib/dpkg/info/" + name + ".postinst"
		post := m.program(dpkg, replay.Program{Image: bin("dash"), Script: script, Argv: []string{"sh", script}})
		for range m.sim.IntN(3) {
			m.start(post, bin([]string{"deb-systemd-helper", "update-alternatives", "ldconfig", "adduser", "chown", "systemctl", "install", "update-rc.d"}[m.sim.IntN(8)]))
		}
		if m.chance(0.15) {
			// What was installed begins to run.
			daemon := m.service(replay.Program{Image: "/usr/sbin/" + name + "d", User: "root", Fresh: true})
			if m.chance(0.3) {
				m.connect(daemon, outside(name+".org"), 443, "updates."+name+".org")
			}
		}
	}
}

// people log in and work.
func (m *machine) people(d int) {
	n, rate := 0, m.role.people
	if weekend(d) {
		rate /= 12
	}
	for rate > 0 && m.chance(rate/(rate+1)) {
		n++
		if n > 20 {
			break
		}
	}
	for range n {
		// Around eleven and three; now and then late.
		hour := 8.5 + 9*m.sim.Float64()
		if m.chance(0.04) {
			hour = 24 * m.sim.Float64()
		}
		m.later(day(d).Add(time.Duration(hour*float64(time.Hour))), func(m *machine) {
			from := m.admins[m.ranked(len(m.admins))]
			if m.chance(0.02) {
				from = inside(5, 60+m.sim.IntN(60)) // a colleague's first time
			}
			shell := m.login(from)
			for range 3 + m.sim.IntN(12) {
				m.command(shell)
			}
		})
	}
}

// command is one thing that a person does.
func (m *machine) command(shell *replay.Process) {
	m.step(20 * time.Second)
	tool := m.draw(m.regular)
	switch {
	case tool == "sudo":
		sudo := m.program(shell, replay.Program{Image: bin("sudo"), User: "root", Traits: []string{"set-id"}})
		m.start(sudo, bin(m.draw(m.regular)))
	case tool == "curl" || tool == "wget":
		name := m.draw(m.domains)
		m.connect(m.start(shell, bin(tool), name), outside(name), 443, name)
	case tool == "git":
		m.connect(m.start(m.start(shell, bin("git"), "pull"), "/usr/lib/git-core/git-remote-https"), outside("github.com"), 443, "github.com")
	case tool == "dig" || tool == "ping":
		m.start(shell, bin(tool))
	case m.chance(0.03):
		m.program(shell, replay.Program{Image: fmt.Sprintf("/home/ann/bin/%c%c", 'a'+m.ranked(12), 'x'), Fresh: true})
	case m.chance(0.01):
		m.program(shell, replay.Program{Image: fmt.Sprintf("/usr/local/bin/tool%c", 'a'+m.ranked(20)), Fresh: true})
	case m.chance(0.008):
		sudo := m.program(shell, replay.Program{Image: bin("sudo"), User: "root", Traits: []string{"set-id"}})
		m.install(m.start(sudo, bin("apt-get"), "install"), 1)
	default:
		m.start(shell, bin(tool))
	}
}

func bootWeb(m *machine) {
	m.services["nginx"] = m.service(replay.Program{Image: "/usr/sbin/nginx", User: "www-data", UID: 33})
	m.services["php"] = m.service(replay.Program{Image: "/usr/sbin/php-fpm8.2", User: "www-data", UID: 33})
}

func workWeb(m *machine, d int) {
	for h := range 24 {
		visits := 2 + m.sim.IntN(3)
		if h > 7 && h < 22 {
			visits *= 2
		}
		for range visits {
			m.later(day(d).Add(time.Duration((float64(h)+m.sim.Float64())*float64(time.Hour))), func(m *machine) {
				m.serve(m.services["nginx"], 443, netip.AddrFrom4([4]byte{byte(60 + m.sim.IntN(100)), byte(m.sim.IntN(256)), byte(m.sim.IntN(256)), 7}))
				m.connect(m.services["php"], inside(2, 5+m.flavour), 5432, "db.corp")
				if m.chance(0.1) {
					sh := m.start(m.services["php"], bin("dash"), "-c", "convert")
					m.start(sh, bin("convert-im6.q16"))
				}
				if m.chance(0.05) {
					m.connect(m.services["php"], outside("api.payments.com"), 443, "api.payments.com")
				}
			})
		}
	}
	if !weekend(d) && m.chance(0.7) {
		m.later(day(d).Add(time.Duration((9+8*m.sim.Float64())*float64(time.Hour))), func(m *machine) {
			shell := m.login(inside(6, 6)) // the deployer
			m.start(shell, bin("tar"))
			release := fmt.Sprintf("/srv/app/releases/%d/bin/migrate", 20260100+d)
			m.connect(m.program(shell, replay.Program{Image: release, Fresh: true}), inside(2, 5+m.flavour), 5432, "db.corp")
			if m.chance(0.05) {
				m.program(shell, replay.Program{Image: fmt.Sprintf("/srv/app/releases/%d/bin/tool%c", 20260100+d, 'a'+m.sim.IntN(20)), Fresh: true})
			}
			m.start(m.start(shell, bin("sudo")), bin("systemctl"), "reload", "nginx")
		})
	}
}

func bootDatabase(m *machine) {
	m.services["postgres"] = m.service(replay.Program{Image: "/usr/lib/postgresql/15/bin/postgres", User: "postgres", UID: 110})
}

func workDatabase(m *machine, d int) {
	postgres := m.services["postgres"]
	for h := range 24 {
		for range 5 {
			m.later(day(d).Add(time.Duration((float64(h)+m.sim.Float64())*float64(time.Hour))), func(m *machine) {
				m.serve(postgres, 5432, m.peers[m.ranked(6)])
				if m.chance(0.2) {
					sh := m.start(postgres, bin("dash"), "-c", "pgbackrest archive-push")
					m.connect(m.start(sh, bin("pgbackrest")), inside(9, 9), 22, "backup.corp")
				}
			})
		}
	}
	m.later(day(d).Add(time.Hour), func(m *machine) {
		m.start(m.cron("/usr/bin/dash", "/etc/cron.daily/pgdump"), "/usr/lib/postgresql/15/bin/pg_dump")
	})
	if m.chance(0.05) { // a new application
		m.later(day(d).Add(11*time.Hour), func(m *machine) { m.serve(postgres, 5432, inside(3, m.sim.IntN(200))) })
	}
}

func bootBuild(m *machine) {
	m.services["runner"] = m.service(replay.Program{Image: "/opt/actions-runner/bin/Runner.Listener", User: "runner", UID: 1000})
}

func workBuild(m *machine, d int) {
	jobs := 14
	if weekend(d) {
		jobs = 2
	}
	for range jobs {
		m.later(day(d).Add(time.Duration((7+14*m.sim.Float64())*float64(time.Hour))), func(m *machine) { m.build(m.ranked(40)) })
	}
}

// build is one job of a project.
func (m *machine) build(project int) {
	runner := m.services["runner"]
	m.connect(runner, outside("github.com"), 443, "github.com")
	worker := m.start(runner, "/opt/actions-runner/bin/Runner.Worker")
	shell := m.program(worker, replay.Program{Image: bin("bash"), Script: "/opt/actions-runner/_work/_temp/step.sh"})
	m.connect(m.start(m.start(shell, bin("git"), "fetch"), "/usr/lib/git-core/git-remote-https"), outside("github.com"), 443, "github.com")
	switch project % 3 {
	case 0:
		mk := m.start(shell, bin("make"))
		for range 4 + m.sim.IntN(6) {
			cc := m.start(m.start(mk, bin("dash"), "-c", "gcc"), bin("x86_64-linux-gnu-gcc-12"))
			m.start(cc, "/usr/lib/gcc/x86_64-linux-gnu/12/cc1")
			m.start(cc, bin("x86_64-linux-gnu-as"))
		}
		m.program(mk, replay.Program{Image: fmt.Sprintf("/opt/actions-runner/_work/p%c/test-%c", 'a'+project/3, 'a'+m.sim.IntN(6)), Fresh: true})
	case 1:
		gobuild := m.start(shell, "/usr/local/go/bin/go", "test")
		m.connect(gobuild, outside("proxy.golang.org"), 443, "proxy.golang.org")
		for range 1 + m.sim.IntN(4) {
			m.start(gobuild, "/usr/local/go/pkg/tool/linux_amd64/compile")
			test := m.program(gobuild, replay.Program{Image: fmt.Sprintf("/tmp/go-build%d/b001/%c.test", m.sim.IntN(1e9)+1e6, 'a'+project/3), Traits: []string{"world-writable-dir"}, Fresh: true})
			if m.chance(0.3) {
				m.connect(test, netip.MustParseAddr("127.0.0.1"), 20000, "")
			}
		}
	default:
		npm := m.program(shell, replay.Program{Image: bin("node"), Script: "/usr/bin/npm"})
		m.connect(npm, outside("registry.npmjs.org"), 443, "registry.npmjs.org")
		for range m.sim.IntN(4) {
			module := m.ranked(60)
			sh := m.start(npm, bin("dash"), "-c", "install")
			node := m.program(sh, replay.Program{Image: bin("node"), Script: fmt.Sprintf("/opt/actions-runner/_work/p/node_modules/m%c%c/install.js", 'a'+module/26, 'a'+module%26)})
			if m.chance(0.2) {
				name := fmt.Sprintf("cdn%d.example.net", m.ranked(30))
				m.connect(node, outside(name), 443, name)
			}
		}
	}
}

func bootWorkstation(m *machine) {
	m.services["desktop"] = m.service(replay.Program{Image: "/usr/libexec/gnome-session-binary", User: "ann", UID: 1001, Session: true})
}

func workWorkstation(m *machine, d int) {
	if weekend(d) && !m.chance(0.2) {
		return
	}
	desktop := m.services["desktop"]
	m.later(day(d).Add(time.Duration((8+m.sim.Float64())*float64(time.Hour))), func(m *machine) {
		m.services["browser"] = m.start(desktop, "/usr/lib/firefox/firefox")
		m.services["terminal"] = m.start(m.start(desktop, "/usr/libexec/gnome-terminal-server"), bin("bash"))
	})
	for range 60 {
		m.later(day(d).Add(time.Duration((9+9*m.sim.Float64())*float64(time.Hour))), func(m *machine) {
			name := m.draw(m.domains)
			m.connect(m.services["browser"], outside(name), 443, name)
		})
	}
	for range 25 {
		m.later(day(d).Add(time.Duration((9.5+8.5*m.sim.Float64())*float64(time.Hour))), func(m *machine) {
			terminal := m.services["terminal"]
			switch {
			case m.chance(0.35):
				n := m.ranked(30)
				m.connect(m.start(terminal, bin("ssh")), inside(2, 20+n), 22, fmt.Sprintf("host%d.corp", n))
			case m.chance(0.05):
				py := m.start(terminal, bin("python3.11"), "-c", "import urllib")
				name := m.draw(m.domains)
				m.connect(py, outside(name), 443, name)
			case m.chance(0.04):
				app := m.program(desktop, replay.Program{Image: fmt.Sprintf("/opt/app%c/app", 'a'+m.ranked(20)), Fresh: true})
				name := m.draw(m.domains)
				m.connect(app, outside(name), 443, name)
			default:
				m.command(terminal)
			}
		})
	}
}
