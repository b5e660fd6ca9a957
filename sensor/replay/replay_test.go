package replay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// web is a host with a web server that three weeks of ordinary work are known of.
type web struct {
	*Host
	t          *testing.T
	nginx, php *Process
	cron       *Process
}

func newWeb(t *testing.T, weeks int) *web {
	t.Helper()
	h, err := Open(Config{Dir: t.TempDir(), Start: start})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &web{Host: h, t: t}
	w.nginx, _ = h.Service(start, Program{Image: "/usr/sbin/nginx", User: "www-data", UID: 33})
	w.php, _ = h.Service(start, Program{Image: "/usr/sbin/php-fpm8.2", User: "www-data", UID: 33})
	w.cron, _ = h.Service(start, Program{Image: "/usr/sbin/cron", User: "root"})
	for d := range 7 * weeks {
		w.ordinary(start.AddDate(0, 0, d))
	}
	return w
}

// ordinary is a day of the web server, with the night's job.
func (w *web) ordinary(day time.Time) {
	for hour := range 24 {
		at := day.Add(time.Duration(hour) * time.Hour)
		w.Serve(at, w.nginx, 443, netip.MustParseAddrPort("192.0.2.7:40000"))
		w.Connect(at.Add(time.Second), w.php, netip.MustParseAddrPort("10.0.2.5:5432"), "db.corp")
		if hour == 2 {
			sh, _ := w.Exec(at.Add(time.Minute), w.cron, Program{Image: "/usr/bin/dash"})
			w.Exec(at.Add(time.Minute), sh, Program{Image: "/usr/bin/rsync"})
		}
	}
}

// Ensure that the shell of a web server is told, with what made it odd.
func TestTold(t *testing.T) {
	w := newWeb(t, 3)
	at := start.AddDate(0, 0, 21)
	_, r := w.Exec(at, w.php, Program{Image: "/usr/bin/dash"})
	if len(r.Findings) != 1 {
		t.Fatalf("not told: %+v", r)
	}
	f := r.Findings[0]
	all := strings.Join(f.Terms, "\n")
	for _, part := range []string{"serves the network", "new here", "together", "windows of 10 minutes", "days of this host"} {
		if !strings.Contains(all, part) {
			t.Errorf("the terms lack %q:\n%s", part, all)
		}
	}
	if f.PValue <= 0 || f.PValue > 0.01 || f.Score < 50 || f.Severity == "" || !strings.Contains(f.Reason, "expected here") {
		t.Errorf("got %+v", f)
	}
}

// Ensure that who does the same a little at a time, below what is told, is not learnt:
// what he does is as new after weeks as on the first day. What an ordinary storyline does as
// often is known by then.
func TestSlowPoisoning(t *testing.T) {
	w := newWeb(t, 2)
	command := Program{Image: "/usr/bin/whoami", User: "www-data", UID: 33}
	var told int
	for d := 14; d < 35; d++ {
		day := start.AddDate(0, 0, d)
		w.ordinary(day)
		at := day.Add(23*time.Hour + 30*time.Minute)
		served, _ := w.Accept(at, w.nginx, 443, netip.MustParseAddrPort("203.0.113.66:4000"))
		_, evil := w.Exec(at, served, command)
		sh, _ := w.Exec(at.Add(time.Minute), w.cron, Program{Image: "/usr/bin/dash"})
		_, good := w.Exec(at.Add(time.Minute), sh, Program{Image: "/usr/bin/tidy"})
		told += len(evil.Findings)
		if !evil.New || evil.Known {
			t.Fatalf("day %d: what the attacker does is learnt: %+v", d, evil)
		}
		if !evil.Suspect && len(evil.Findings) == 0 {
			t.Fatalf("day %d: neither told nor suspect: %+v", d, evil)
		}
		if d == 34 && !good.Known {
			t.Errorf("an ordinary job is not known after three weeks: %+v", good)
		}
	}
	t.Logf("told %d times", told)
}

// Ensure that a lossy time and a host's first day tell nothing by oddness alone, and that
// rules do not wait.
func TestFirstDay(t *testing.T) {
	h, err := Open(Config{Dir: t.TempDir(), Start: start, Rules: true})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	php, _ := h.Service(start, Program{Image: "/usr/sbin/php-fpm8.2"})
	_, odd := h.Exec(start.Add(time.Hour), php, Program{Image: "/opt/x/new"})
	if len(odd.Findings) != 0 || !odd.Learning {
		t.Errorf("got %+v", odd)
	}
	_, r := h.Exec(start.Add(2*time.Hour), php, Program{Image: "/usr/bin/dash", Argv: []string{"sh", "-c", "id"}})
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Kind == "rule" }) {
		t.Errorf("got %+v", r)
	}
}

// Ensure that half a minute of learning is enough for what any host should find: a
// service's shell, and a session from a new place that goes on to a third host.
func TestShortLearning(t *testing.T) {
	h, err := Open(Config{Dir: t.TempDir(), Start: start, Window: 3 * time.Second, KnownWindows: 2, LearnFor: 25 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	person := Program{Image: "/usr/bin/bash", Session: true}
	shop, _ := h.Service(start, Program{Image: "/srv/lab/shopd", Session: true})
	sshd, _ := h.Service(start, Program{Image: "/usr/sbin/sshd", Session: true})
	admin, web := netip.MustParseAddrPort("10.77.0.104:40000"), netip.MustParseAddrPort("10.77.0.101:40001")
	at := start
	for range 30 {
		at = at.Add(time.Second)
		h.Serve(at, shop, 8080, admin)
		h.Exec(at, shop, Program{Image: "/usr/bin/expr"})
		session, _ := h.Accept(at, sshd, 22, admin)
		shell, r := h.Exec(at, session, person)
		for _, tool := range []string{"uptime", "df", "tail", "ls", "wc"} {
			_, more := h.Exec(at, shell, Program{Image: "/usr/bin/" + tool})
			r.Findings = append(r.Findings, more.Findings...)
		}
		if len(r.Findings) > 0 {
			t.Fatalf("ordinary work: %+v", r.Findings)
		}
	}
	sh, r := h.Exec(at, shop, Program{Image: "/usr/bin/dash"})
	if len(r.Findings) != 1 {
		t.Errorf("a service's shell is not told: %.1f bits", r.Whole)
	}
	h.Exec(at, sh, Program{Image: "/usr/bin/id"})
	session, _ := h.Accept(at, sshd, 22, web)
	shell, _ := h.Exec(at, session, person)
	h.Exec(at, shell, Program{Image: "/usr/bin/id"})
	client, _ := h.Exec(at, shell, Program{Image: "/usr/bin/ssh"})
	if r := h.Connect(at, client, netip.MustParseAddrPort("10.77.0.103:22"), ""); len(r.Findings) != 1 {
		t.Errorf("an onward hop is not told: %.1f bits", r.Whole)
	}
}
