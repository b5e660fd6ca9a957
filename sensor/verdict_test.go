package sensor

import (
	"bufio"
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// atOnce is an intent under which every finding isolates the host at once.
const atOnce = `@id("at-once")
permit (principal, action == Vedette::Action::"isolate", resource) when { context.level <= 4 };`

// verdictRounds is of how many verdicts the worst in a hundred is taken.
const verdictRounds = 200

// BenchmarkVerdict prints how long it takes from an exec, by the kernel's own time of it,
// until the word of the first cut is stored, and until who makes it whole has the order:
// kernel, ring, process tree, baseline, rules, intent. Each exec is of a program in
// /dev/shm that was never seen before.
func BenchmarkVerdict(b *testing.B) {
	h := newByHand(b)
	admin := h.operators.IssueBetween(link.KindOperator, "ann", "admin", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	signed, err := intent.Sign(admin.PrivateKey.(crypto.Signer), admin.Certificate, &sensorv1.Intent{
		ClusterId: linktest.Cluster, Version: 1, Author: "ann", IssuedAt: time.Now().UnixNano(), Policy: atOnce, LeaseSeconds: 60,
	})
	if err != nil {
		b.Fatal(err)
	}
	// Held before the sensor starts, as by any that was told once: its reader is prompt then.
	openIntent(filepath.Join(h.cfg.StateDir, "intent.json"), linktest.Cluster, offlineHost, h.operators.Roots, nil, h.log).take(signed, nil)
	h.cfg.Baseline.LearnFor = 0
	s, err := New(h.cfg, "bench", h.log)
	if err != nil {
		b.Fatal(err)
	}
	// The bounds on findings would end the rounds and are not what is measured.
	const many = 1 << 20
	if s.detector, err = detect.New(detect.Config{Budget: many, StoryBudget: many, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		b.Fatal(err)
	}
	if s.cut == nil {
		b.Skip("SKIP: needs the first cut (Linux 5.16)")
	}
	ctx, cancel := context.WithCancel(b.Context())
	var running []chan error
	for _, run := range []func(context.Context) error{s.watch, s.responder.Run, s.enricher.Run, func(ctx context.Context) error {
		s.findings.run(ctx, s.watched)
		return nil
	}} {
		done := make(chan error, 1)
		running = append(running, done)
		go func() { done <- run(ctx) }()
	}
	b.Cleanup(func() {
		cancel()
		for _, done := range running {
			if err := <-done; err != nil && ctx.Err() == nil {
				b.Error(err)
			}
		}
		if err := s.close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.seed(ctx); err != nil {
		b.Fatal(err)
	}
	run := newIntruder(b, h)
	var cut, handed []float64
	for i := 0; len(cut) < verdictRounds; i++ {
		s.cut.Set(kernel.CutNone)
		began := time.Now().UnixNano()
		run(fmt.Sprint("never-seen-", i))
		var order respond.LocalOrder
		for late := true; late; late = s.evidence.finding(order.Evidence[0]).GetTime() < began { // one of the round before
			select {
			case order = <-s.verdicts:
			case <-time.After(slow.Deadline(10 * time.Second)):
				b.Fatalf("no verdict in round %d: %v", i, s.source.Losses())
			}
		}
		now := time.Now().UnixNano()
		switch {
		case s.cut.Level() == kernel.CutAll && order.CutAfter > 0:
		case len(cut) == 0 && i < verdictRounds: // it does not know yet what to leave open
			continue
		default:
			b.Fatal("a verdict without a cut")
		}
		cut = append(cut, order.CutAfter.Seconds()*1e3)
		handed = append(handed, float64(now-s.evidence.finding(order.Evidence[0]).GetTime())/1e6)
		// What the finding is followed up by belongs to this round.
		for quiet := time.NewTimer(30 * time.Millisecond); ; {
			select {
			case <-s.verdicts:
				continue
			case <-quiet.C:
			}
			break
		}
	}
	for name, took := range map[string][]float64{"cut": cut, "handed": handed} {
		slices.Sort(took)
		at := func(p float64) float64 { return took[int(math.Ceil(p/100*float64(len(took))))-1] }
		b.ReportMetric(at(50), "ms/"+name+"-p50")
		b.ReportMetric(at(99), "ms/"+name+"-p99")
		b.ReportMetric(took[len(took)-1], "ms/"+name+"-max")
	}
	b.ReportMetric(verdictRounds, "rounds")
}

// newIntruder is a shell in the host's namespace that runs copies of a program, by the
// names that it is given.
func newIntruder(b *testing.B, h *byHand) func(name string) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vedette-bench-")
	if err != nil {
		b.Skipf("SKIP: needs /dev/shm: %v", err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		b.Fatal(err)
	}
	shell := exec.Command("sh", "-c", "while read line; do $line; echo; done")
	in, err := shell.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	h.host.Must(b, "starting a shell", shell.Start)
	if err := unix.Setpriority(unix.PRIO_PROCESS, shell.Process.Pid, 0); err != nil { // not the sensor's
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = shell.Wait() })
	ended := bufio.NewScanner(out)
	return func(name string) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, program, 0o755); err != nil { //nolint:gosec // it has to run
			b.Fatal(err)
		}
		if _, err := io.WriteString(in, path+"\n"); err != nil || !ended.Scan() {
			b.Fatalf("running a program: %v, %v", err, ended.Err())
		}
	}
}
