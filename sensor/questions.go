package sensor

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder/answer"
)

// What questions may cost beside the watching, whoever asks and however often. They have an
// account of processor time: askingMost of it can be spent at once, and half of the sensor's
// own budget comes in. Who finds it empty is answered at that pace until its time is over.
// While it lasts, a question works askingSlice and then rests as long: at most half a core.
const (
	askingMost  = 2 * time.Second
	askingSlice = 5 * time.Millisecond
)

// askingBudget is that account. One question at a time uses it.
type askingBudget struct {
	share float64 // of a core, that comes in
	now   func() time.Time

	mu     sync.Mutex
	total  time.Duration // spent since the start
	credit time.Duration
	at     time.Time // when credit was so
}

func newAskingBudget(share float64) askingBudget {
	return askingBudget{share: share / 2, now: time.Now, credit: askingMost, at: time.Now()}
}

func (b *askingBudget) spent() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

// take books what was spent and says how long to rest, and whether that is because the
// account is empty.
func (b *askingBudget) take(spent time.Duration) (rest time.Duration, empty bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.credit = min(askingMost, b.credit+time.Duration(b.share*float64(now.Sub(b.at))))
	b.at = now
	b.total += spent
	if b.credit -= spent; b.credit >= 0 || b.share <= 0 {
		return spent, false
	}
	return time.Duration(float64(-b.credit) / b.share), true
}

// pace holds one question to the account. It is for the goroutine of the question, which
// must stay on its thread.
type pace struct {
	budget *askingBudget
	before time.Duration // of the thread, at the last look
	slowed bool
}

// rest is called every few hundred records.
func (p *pace) rest(ctx context.Context) error {
	used := threadCPU()
	spent := used - p.before
	if spent < askingSlice {
		return ctx.Err()
	}
	p.before = used
	rest, empty := p.budget.take(spent)
	p.slowed = p.slowed || empty
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// settle books what is left.
func (p *pace) settle() { p.budget.take(threadCPU() - p.before) }

func threadCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// answer answers one question from the flight recorder. The host's own log says who
// asked what.
func (s *Sensor) answer(ctx context.Context, ask *sensorv1.Ask, send func(*sensorv1.Answer) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := &pace{budget: &s.asking, before: threadCPU()}
	defer p.settle()
	began := time.Now()
	rows, last := 0, &sensorv1.Answer{}
	err := answer.Run(ctx, answer.Config{
		Dir: s.path(recordings), Process: s.processNow, Rule: compileHunt, Rest: p.rest, Slowed: func() bool { return p.slowed },
	}, ask, func(a *sensorv1.Answer) error {
		rows, last = rows+len(a.GetRows()), a
		return send(a)
	})
	what := ask.GetExpression()
	if what == "" {
		what = fmt.Sprintf("a rule of %d bytes", len(ask.GetRule()))
	}
	s.log.Info("a question was put to the flight recorder", "asker", loggable(ask.GetAsker()), "question", loggable(what),
		"rows", rows, "records_read", last.GetScanned(), "limited_by", last.GetLimited(), "problem", last.GetError(),
		"took", time.Since(began).Round(time.Millisecond).String())
	return err
}

func (s *Sensor) processNow(key event.ProcessKey) *event.Process { return s.enricher.Process(key) }

func compileHunt(text string) (func(*event.Observation) bool, []string, error) {
	h, err := detect.NewHunt(text)
	if err != nil {
		return nil, nil, err
	}
	return h.Match, h.Untold, nil
}

// maxLogged is what of a question goes to the log.
const maxLogged = 512

func loggable(s string) string {
	if len(s) > maxLogged {
		s = s[:maxLogged] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
