package detect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// epoch is when what is made up happens.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// host builds observations as enrich does.
type host struct {
	now  time.Time
	pid  uint32
	port uint16
}

func newHost() *host { return &host{now: epoch, pid: 100, port: 40000} }

func (h *host) tick() time.Time {
	h.now = h.now.Add(10 * time.Millisecond)
	return h.now
}

func (h *host) process(parent *event.Process, image string, argv ...string) *event.Process {
	h.pid++
	p := &event.Process{Key: event.ProcessKey{PID: h.pid, Start: uint64(h.pid) * 1000}, Parent: parent, Image: image, Argv: argv, User: "root"}
	p.Anchor = p.Key
	if parent != nil && parent.Key.PID > 1 {
		p.Anchor, p.Origin, p.UID, p.User = parent.Anchor, parent.Origin, parent.UID, parent.User
	}
	return p
}

func (h *host) exec(p *event.Process) *event.Observation {
	before := p.Parent
	return &event.Observation{Event: &event.Exec{Header: event.Header{Process: p.Key}}, Time: h.tick(), Process: p, Before: before}
}

func (h *host) open(p *event.Process, dir event.Direction, remote string) *event.Observation {
	h.port++
	r := netip.MustParseAddrPort(remote)
	l := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), h.port)
	if dir == event.Inbound {
		l = netip.MustParseAddrPort("10.0.0.1:80")
	}
	id := event.FlowID{Cookie: uint64(h.port)}
	return &event.Observation{
		Event: &event.FlowOpen{Header: event.Header{Process: p.Key}, Flow: id, Proto: 6, Dir: dir, Local: l, Remote: r},
		Time:  h.tick(), Process: p, Flow: &event.Flow{ID: id, Proto: 6, Dir: dir, Local: l, Remote: r, Opened: h.now},
	}
}

// ordinaryWork is a mix of what an ordinary host's events are, the same for one seed.
func ordinaryWork(n int) (all []*event.Observation) {
	random := rand.New(rand.NewPCG(1, 2))
	h := newHost()
	systemd := h.process(nil, "/usr/lib/systemd/systemd", "/sbin/init")
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	child := func(parent *event.Process, image, line string) *event.Process {
		p := h.process(parent, image, strings.Split(line, " ")...)
		p.Cwd = pick("/", "/root", "/srv/app", "/home/ann/src/project")
		return p
	}
	for len(all) < n {
		cron := child(systemd, "/usr/sbin/cron", "/usr/sbin/CRON -f")
		shell := child(cron, "/usr/bin/dash", "/bin/sh -c cd / && run-parts --report /etc/cron."+pick("hourly", "daily"))
		bash := child(systemd, "/usr/bin/bash", "-bash")
		apt := child(bash, "/usr/bin/apt-get", "apt-get install -y --no-install-recommends "+pick("nginx", "curl ca-certificates", "postgresql-15"))
		gcc := child(bash, "/usr/bin/x86_64-linux-gnu-gcc-12", fmt.Sprintf("gcc -Wall -O2 -Iinclude -DNDEBUG -MMD -MF build/f%d.d -c src/f%d.c -o build/f%d.o", len(all), len(all), len(all)))
		execs := []*event.Process{
			shell, bash, apt, gcc,
			child(gcc, "/usr/lib/gcc/x86_64-linux-gnu/12/cc1", fmt.Sprintf("/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -imultiarch x86_64-linux-gnu -MMD build/f.d src/f%d.c -dumpbase f.c -mtune=generic -march=x86-64 -O2 -Wall -fasynchronous-unwind-tables -o /tmp/cc%d.s", len(all), len(all))),
			child(gcc, "/usr/bin/x86_64-linux-gnu-as", fmt.Sprintf("as --64 -o build/f%d.o /tmp/ccAbC%d.s", len(all), len(all))),
			child(bash, "/usr/local/go/pkg/tool/linux_amd64/compile", "/usr/local/go/pkg/tool/linux_amd64/compile -o $WORK/b001/_pkg_.a -trimpath $WORK/b001=> -p main -lang=go1.26 -complete -buildid x/x -goversion go1.26 -c=2 -nolocalimports -importcfg $WORK/b001/importcfg -pack ./main.go ./run.go"),
			child(apt, "/usr/bin/dpkg", "/usr/bin/dpkg --status-fd 24 --no-triggers --unpack --auto-deconfigure /var/cache/apt/archives/libssl3_3.0.11-1_amd64.deb"),
			child(apt, "/usr/bin/dash", "/bin/sh /var/lib/dpkg/info/libc-bin.postinst triggered ldconfig"),
			child(bash, "/usr/bin/python3.11", "python3 -m pip install --user "+pick("requests", "flask==3.0", "-r requirements.txt")),
			child(bash, "/usr/bin/git", "git -c core.quotepath=false fetch --prune origin +refs/heads/*:refs/remotes/origin/*"),
			child(shell, "/usr/bin/find", "find /var/tmp -xdev -mtime +30 -type f -name *.log"),
			child(shell, "/usr/bin/logrotate", "/usr/sbin/logrotate /etc/logrotate.conf"),
			child(bash, "/usr/bin/grep", "grep -rn "+pick("import", "func main", "password_hash")+" src"),
			child(bash, "/usr/bin/ls", "ls --color=auto -la "+pick("/etc", "/var/log", ".")),
			child(bash, "/usr/bin/cat", "cat "+pick("/proc/meminfo", "README.md", "/etc/hosts")),
			child(bash, "/usr/bin/curl", "curl -fsS https://"+pick("api.example.org/v1/health", "packages.example.org/key.gpg")+" -o /dev/null"),
			child(bash, "/usr/bin/node", "node /usr/share/nodejs/npm/bin/npm-cli.js run build --if-present"),
			child(bash, "/usr/bin/systemctl", "systemctl is-active --quiet "+pick("nginx", "postgresql", "ssh")),
			child(bash, "/usr/bin/ssh", "ssh -o BatchMode=yes deploy@"+pick("web1", "db1")+" uptime"),
			child(bash, "/usr/bin/sed", "sed -i s/old/new/g config.yml"),
			child(bash, "/usr/bin/tar", "tar -czf /var/backups/app.tgz --exclude=.git /srv/app"),
		}
		for _, p := range execs {
			all = append(all, h.exec(p))
		}
		curl := execs[16]
		for _, remote := range []string{"192.0.2.10:443", "10.0.0.5:5432", "10.0.0.6:6379", "[2001:db8::1]:443", "127.0.0.1:8125"} {
			o := h.open(pickProcess(random, curl, apt, bash), event.Outbound, remote)
			o.Flow.Name = pick("", "api.example.org", "deb.example.org")
			all = append(all, o)
		}
		all = append(all, h.open(child(systemd, "/usr/sbin/nginx", "nginx: worker process"), event.Inbound, "10.0.0.77:51000"))
		for _, path := range []string{"/var/log/syslog", "/etc/resolv.conf", "/usr/bin/curl", "/var/lib/dpkg/info/curl.list", "/etc/systemd/system/app.service", "/home/ann/.bash_history", "/usr/lib/x86_64-linux-gnu/libssl.so.3"} {
			p := pickProcess(random, apt, bash, shell)
			op := []event.FileOp{event.FileWrite, event.FileCreate, event.FileRename, event.FileUnlink, event.FileMapExec}[random.IntN(5)]
			f := &event.File{Header: event.Header{Process: p.Key}, Op: op, Path: []byte(path)}
			if op == event.FileRename {
				f.Target = []byte(path + ".1")
			}
			all = append(all, &event.Observation{Event: f, Time: h.tick(), Process: p})
		}
		all = append(all, &event.Observation{Event: &event.DNS{Header: event.Header{Process: curl.Key}, Name: pick("api.example.org", "deb.example.org")}, Time: h.tick(), Process: curl})
	}
	return all[:n]
}

func pickProcess(random *rand.Rand, of ...*event.Process) *event.Process {
	return of[random.IntN(len(of))]
}
