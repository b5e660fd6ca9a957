package detect

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

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

// ruleTarget is what deciding by all rules may take for one event.
const ruleTarget = 10 * time.Microsecond

// BenchmarkRules prints what it takes to find the rules that match an event of ordinary
// work, with the built-in rules alone and with those of the ecosystem: by the index, and
// by trying each rule of the event's kind.
func BenchmarkRules(b *testing.B) {
	work := ordinaryWork(1000)
	v := event.Verdict{Tracked: true, Known: true}
	for _, dir := range []string{"", ecosystem(b)} {
		e := engine(b, func(c *Config) { c.RulesDir = dir })
		name := "builtin"
		if dir != "" {
			name = "ecosystem"
		}
		// The processor's time is what counts, and other work on the machine does not change it much.
		report := func(b *testing.B, looked uint64, since time.Duration) {
			perEvent := (processor(b) - since) / time.Duration(b.N)
			b.ReportMetric(float64(perEvent.Nanoseconds()), "cpu-ns/event")
			b.ReportMetric(float64(looked)/float64(b.N), "conditions/event")
			b.ReportMetric(float64(e.Stats().Rules), "rules")
			b.ReportMetric(float64(ruleTarget.Nanoseconds()), "target-ns")
			if name == "ecosystem" && b.N > len(work) && perEvent > ruleTarget && strings.HasSuffix(b.Name(), "index") {
				b.Logf("%v an event, want %v", perEvent, ruleTarget)
			}
		}
		b.Run(name+"/index", func(b *testing.B) {
			b.ReportAllocs()
			before := e.looked()
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.matching(work[i%len(work)], v)
			}
			report(b, e.looked()-before, since)
		})
		b.Run(name+"/each", func(b *testing.B) {
			looked, since := uint64(0), processor(b)
			for i := 0; b.Loop(); i++ {
				o := work[i%len(work)]
				set := e.sets[categoryOf(o.Event)]
				e.record.reset(o, v)
				if set == nil {
					continue
				}
				for _, r := range set.rules {
					looked++
					r.Match(&e.record)
				}
			}
			report(b, looked, since)
		})
		b.Run(name+"/settled", func(b *testing.B) {
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.Settled(work[i%len(work)], v)
			}
			report(b, 0, since)
		})
		b.Run(name+"/evaluate", func(b *testing.B) {
			since := processor(b)
			for i := 0; b.Loop(); i++ {
				e.Evaluate(work[i%len(work)], v)
			}
			report(b, 0, since)
		})
	}
}

// processor is what this program has used.
func processor(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// looked counts the conditions that the index left to be evaluated.
func (e *Engine) looked() (n uint64) {
	for _, set := range e.sets {
		n += set.scratch.Looked
	}
	return n
}

// Ensure the index finds what trying each rule finds, and that nothing is allocated for it.
func TestIndexOnWork(t *testing.T) {
	e := engine(t, func(c *Config) { c.RulesDir = ecosystem(t) })
	v := event.Verdict{Tracked: true, Known: true}
	work := ordinaryWork(2000)
	found := 0
	for _, o := range work {
		set := e.sets[categoryOf(o.Event)]
		if set == nil {
			continue
		}
		var want []string
		e.record.reset(o, v)
		for _, r := range set.rules {
			if r.Match(&e.record) {
				want = append(want, r.id)
			}
		}
		var got []string
		for _, r := range e.matching(o, v) {
			got = append(got, r.id)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%v: got %v, want %v", o.Process.Argv, got, want)
		}
		found += len(want)
	}
	if found == 0 {
		t.Error("no rule matches any of it: the comparison says nothing")
	}
	for _, o := range work {
		e.matching(o, v)
	}
	quiet := func(o *event.Observation) bool { return len(e.matching(o, v)) == 0 }
	allocated := 0.0
	n := 0
	for _, o := range work {
		if quiet(o) {
			allocated += testing.AllocsPerRun(1, func() { e.matching(o, v) })
			n++
		}
	}
	t.Logf("%d matches in %d events; %.2f allocations for an event without one", found, len(work), allocated/float64(n))
}
