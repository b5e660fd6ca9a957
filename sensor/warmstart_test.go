package sensor

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/baseline"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// warmHost is a host of a role: what it does goes through baseline and detect as in the sensor.
type warmHost struct {
	t        *testing.T
	random   *rand.Rand
	now      time.Time
	baseline *baseline.Baseline
	detector *detect.Engine
	pid      uint32
	own      string // what only this one does
	findings []*event.Finding
}

func newWarmHost(t *testing.T, n int, learnFor time.Duration, pack *baseline.Pack) *warmHost {
	h := &warmHost{t: t, random: rand.New(rand.NewPCG(uint64(n), 1)), now: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), pid: 1000, own: fmt.Sprintf("%c", 'a'+n)}
	clock := func() time.Time { return h.now }
	var err error
	if h.baseline, err = baseline.Open(filepath.Join(t.TempDir(), "b.db"), baseline.Config{LearnFor: learnFor, FlushEvery: time.Hour, Now: clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.baseline.Close() })
	if h.detector, err = detect.New(detect.Config{Now: clock, Entropy: bytes.NewReader(bytes.Repeat([]byte{7}, 1<<22))}); err != nil {
		t.Fatal(err)
	}
	h.baseline.UsePack(pack)
	return h
}

func (h *warmHost) judge(o *event.Observation) {
	found, _ := h.detector.Evaluate(o, h.baseline.Observe(o))
	for _, f := range found {
		if taints(f) {
			h.baseline.MarkTainted(f.Process.Anchor)
		}
	}
	h.findings = append(h.findings, found...)
}

func (h *warmHost) start(parent *event.Process, image string, uid uint32, argv ...string) *event.Process {
	h.pid++
	h.now = h.now.Add(time.Millisecond)
	p := &event.Process{Key: event.ProcessKey{PID: h.pid, Start: uint64(h.pid)}, Parent: parent, Image: image, Argv: append([]string{image}, argv...), UID: uid, User: "u"}
	p.Anchor = p.Key
	if parent != nil && parent.Parent != nil {
		p.Anchor = parent.Anchor
	}
	h.judge(&event.Observation{Event: &event.Exec{Header: event.Header{Process: p.Key}}, Time: h.now, Process: p, Before: parent})
	return p
}

func (h *warmHost) flow(p *event.Process, dir event.Direction, local, remote string) {
	h.now = h.now.Add(time.Millisecond)
	l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	id := event.FlowID{Cookie: uint64(h.now.UnixNano())} //nolint:gosec // a test's number
	h.judge(&event.Observation{Event: &event.FlowOpen{Header: event.Header{Process: p.Key}, Flow: id, Proto: 6, Dir: dir, Local: l, Remote: r},
		Time: h.now, Process: p, Flow: &event.Flow{ID: id, Proto: 6, Dir: dir, Local: l, Remote: r, Opened: h.now}})
}

// minute is what a web server with an application, jobs and an administrator does in one.
func (h *warmHost) minute(n int) {
	init := &event.Process{Key: event.ProcessKey{PID: 1, Start: 1}, Image: "/usr/lib/systemd/systemd"}
	services := map[string]*event.Process{}
	for _, image := range []string{"/usr/sbin/nginx", "/usr/sbin/php-fpm8.2", "/usr/bin/node", "/usr/sbin/cron", "/opt/monitor/agent", "/usr/sbin/sshd"} {
		services[image] = h.start(init, image, 33)
	}
	nginx, php, node, cron := services["/usr/sbin/nginx"], services["/usr/sbin/php-fpm8.2"], services["/usr/bin/node"], services["/usr/sbin/cron"]
	for range 3 {
		h.flow(nginx, event.Inbound, "10.0.0.1:443", fmt.Sprintf("198.51.%d.7:50000", h.random.IntN(200)))
	}
	h.flow(nginx, event.Outbound, "10.0.0.1:40000", "10.0.0.1:9000")
	h.flow(php, event.Outbound, "10.0.0.1:40001", "10.0.1.5:5432")
	h.flow(node, event.Inbound, "10.0.0.1:8080", "10.0.0.2:50000")
	h.flow(node, event.Outbound, "10.0.0.1:40002", "10.0.1.6:6379")
	h.flow(services["/opt/monitor/agent"], event.Outbound, "10.0.0.1:40003", "10.0.9.9:9443")
	h.start(php, "/usr/bin/convert", 33, "a.png", "b.jpg")
	for _, tool := range []string{"wkhtmltopdf", "ghostscript", "pdftotext", "exiftool", "ffmpeg"} {
		if h.random.IntN(5) == 0 {
			h.start(php, "/usr/bin/"+tool, 33, "x")
			h.start(node, "/usr/lib/node_modules/.bin/"+tool, 33, "x")
		}
	}
	jobs := []string{"logrotate", "certbot", "mandb", "apt-daily", "fstrim", "updatedb", "sa1", "dpkg-query", "find", "gzip", "rsync", "pg_dump", "php8.2", "curl", "mail"}
	job := h.start(cron, "/usr/bin/"+jobs[n%len(jobs)], 0)
	if jobs[n%len(jobs)] == "curl" || jobs[n%len(jobs)] == "rsync" {
		h.flow(job, event.Outbound, "10.0.0.1:40004", "10.0.9.1:8443")
	}
	if n%20 == 7 {
		shell := h.start(services["/usr/sbin/sshd"], "/usr/bin/bash", 1000)
		for _, tool := range []string{"ls", "less", "vim", "systemctl", "journalctl", "htop", "df", "sudo"} {
			h.start(shell, "/usr/bin/"+tool, 1000)
		}
	}
	if n%30 == 3 {
		h.start(node, "/opt/app-"+h.own+"/worker", 33) // no other host has it
	}
}

// attack: the web server's worker starts what it never starts, which connects back.
func (h *warmHost) attack() (found bool) {
	before := len(h.findings)
	init := &event.Process{Key: event.ProcessKey{PID: 1, Start: 1}, Image: "/usr/lib/systemd/systemd"}
	node := h.start(init, "/usr/bin/node", 33)
	h.flow(node, event.Inbound, "10.0.0.1:8080", "10.0.0.2:50001")
	implant := h.start(node, "/var/tmp/cache/updater", 33)
	h.flow(implant, event.Outbound, "10.0.0.1:40005", "203.0.113.9:4444")
	for _, f := range h.findings[before:] {
		found = found || f.Kind == "new-exec" || f.Kind == "new-flow"
	}
	return found
}

// live lets a host live for an hour, with an attack after forty minutes, and counts what is told of
// its ordinary life.
func (h *warmHost) live() (benign int, attacked bool) {
	ofAttack := 0
	for n := range 60 {
		h.minute(n)
		h.now = h.now.Add(time.Minute)
		if n == 40 {
			before := len(h.findings)
			attacked = h.attack()
			ofAttack = len(h.findings) - before
		}
	}
	return len(h.findings) - ofAttack, attacked
}

// Ensure a fresh host in a known role, which its peers' pack starts warm, tells at most a tenth of
// what a cold one tells in its first hour when it judges from the start, and sees what a cold one
// that learns first does not. Four starts are printed.
func TestWarmStart(t *testing.T) {
	const peers = 6
	counts := map[baseline.Packed]uint32{}
	for n := range peers {
		h := newWarmHost(t, n, 24*time.Hour, nil)
		for minute := range 90 {
			h.minute(minute)
			h.now = h.now.Add(time.Minute)
		}
		for _, b := range h.baseline.Harvest(h.now, event.Health{}, nil).New {
			counts[baseline.Packed{Kind: b.Kind, Subject: b.Subject, Object: b.Object}]++
		}
	}
	pack := func(trusted bool) *baseline.Pack {
		p := &baseline.Pack{Trusted: trusted, Of: peers}
		for b, hosts := range counts {
			if 2*hosts >= peers {
				b.Hosts = hosts
				p.Behaviours = append(p.Behaviours, b)
			}
		}
		return p
	}
	start := func(n int, learnFor time.Duration, p *baseline.Pack) (benign int, attacked bool) {
		return newWarmHost(t, n, learnFor, p).live()
	}
	cold, coldSees := start(20, -1, nil)
	learning, learningSees := start(20, 24*time.Hour, nil)
	node, nodeSees := start(20, 24*time.Hour, pack(false))
	operator, operatorSees := start(20, 24*time.Hour, pack(true))
	t.Logf("first hour of a fresh host, findings of ordinary life (attack at minute 40 seen):")
	t.Logf("  cold, judging at once      %3d (%v)", cold, coldSees)
	t.Logf("  cold, learning first       %3d (%v)", learning, learningSees)
	t.Logf("  warm, by a node's pack     %3d (%v)  %.1f %% of cold, want at most 10 %%", node, nodeSees, 100*float64(node)/float64(max(cold, 1)))
	t.Logf("  warm, by an operator's     %3d (%v)  %.1f %% of cold, want at most 10 %%", operator, operatorSees, 100*float64(operator)/float64(max(cold, 1)))
	if cold < 10 {
		t.Errorf("a cold start tells %d findings: too few to compare with", cold)
	}
	if 10*node > cold || 10*operator > cold {
		t.Errorf("warm starts tell %d and %d findings, a cold one %d", node, operator, cold)
	}
	if !nodeSees || !operatorSees || learningSees {
		t.Errorf("the attack is seen by a node's pack: %v, by an operator's: %v, while learning: %v; want true, true, false", nodeSees, operatorSees, learningSees)
	}
}
