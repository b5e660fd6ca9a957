package inquire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/coordinator/internal/ingest"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hosts answer two pieces each, or with an error by their name.
type hosts struct {
	mu    sync.Mutex
	asked map[string]int
	ended int // because nobody wanted it any more
}

func (h *hosts) Ask(ctx context.Context, host string, _ *sensorv1.Ask, each func(*sensorv1.Answer) error) error {
	h.mu.Lock()
	h.asked[host]++
	h.mu.Unlock()
	switch {
	case strings.HasPrefix(host, "away"):
		return ingest.ErrAway
	case strings.HasPrefix(host, "late"):
		return fmt.Errorf("%w (5s)", ingest.ErrLate)
	case strings.HasPrefix(host, "stuck"):
		<-ctx.Done()
		h.mu.Lock()
		h.ended++
		h.mu.Unlock()
		return ctx.Err()
	}
	if err := each(&sensorv1.Answer{Rows: []*sensorv1.Sighting{{Type: host}}}); err != nil {
		return err
	}
	return each(&sensorv1.Answer{Rows: []*sensorv1.Sighting{{Type: host}}, Done: true, Scanned: 3})
}

// pipes are streams to other nodes, served by their Askers.
type pipes struct {
	t     *testing.T
	ctx   context.Context
	nodes map[string]func(ctx context.Context, conn net.Conn)
	wg    sync.WaitGroup
}

func (p *pipes) OpenQuestions(_ context.Context, node string) (net.Conn, error) {
	serve := p.nodes[node]
	if serve == nil {
		return nil, errors.New("no route")
	}
	here, there := net.Pipe()
	p.wg.Go(func() {
		serve(p.ctx, there)
		_ = there.Close()
	})
	return here, nil
}

func newAsker(t *testing.T) (*Asker, *hosts, *hosts, *pipes) {
	t.Helper()
	mine, theirs := &hosts{asked: map[string]int{}}, &hosts{asked: map[string]int{}}
	p := &pipes{t: t, ctx: t.Context(), nodes: map[string]func(context.Context, net.Conn){"n2": New("n2", theirs, nil).Serve}}
	t.Cleanup(p.wg.Wait)
	return New("n1", mine, p), mine, theirs, p
}

var question = &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: "process"}, MaxMillis: 1000}

// outcome is what came of each host: its rows, or a code.
func outcome(t *testing.T, a *Asker, targets []Target) map[string]string {
	t.Helper()
	rows, got := map[string]int{}, map[string]string{}
	err := a.Hunt(t.Context(), targets, question, func(p Piece) error {
		rows[p.Host] += len(p.Answer.GetRows())
		if p.Last() {
			if got[p.Host] != "" {
				t.Errorf("%s ends twice", p.Host)
			}
			if got[p.Host] = fmt.Sprint(rows[p.Host]); p.Err != nil {
				got[p.Host] = p.Code + ": " + p.Err.Error()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Ensure each host is asked where it is, once, and has one end.
func TestHunt(t *testing.T) {
	a, mine, theirs, p := newAsker(t)
	p.nodes["deaf"] = func(context.Context, net.Conn) {}
	p.nodes["liar"] = func(_ context.Context, conn net.Conn) {
		_ = frame.Read(conn, &raftv1.NodeQuestion{})
		_ = frame.Write(conn, &raftv1.NodeAnswer{Host: "e", Answer: &sensorv1.Answer{Done: true}})
		_ = frame.Write(conn, &raftv1.NodeAnswer{Host: "a", Answer: &sensorv1.Answer{Done: true}}) // not its own
	}
	targets := []Target{{"a", "n1"}, {"away1", "n1"}, {"nowhere", ""}, {"b", "n2"}, {"late2", "n2"}, {"c", "gone"}, {"d", "deaf"}, {"e", "liar"}, {"f", "liar"}}
	for i := range 600 {
		targets = append(targets, Target{fmt.Sprintf("many%d", i), []string{"n1", "n2"}[i%2]})
	}
	got := outcome(t, a, targets)
	for host, want := range map[string]string{
		"a": "2", "b": "2", "e": "0", "away1": "away: the host has no session", "nowhere": "away: ", "late2": "late: it did not answer in time",
		"c": "node: its node could not be asked: no route", "d": "node: ", "f": "node: its node could not be asked: node liar answers for a host", "many599": "2",
	} {
		if !strings.HasPrefix(got[host], want) {
			t.Errorf("%s: got %q, want %q", host, got[host], want)
		}
	}
	if len(got) != len(targets) || mine.asked["a"] != 1 || theirs.asked["b"] != 1 || mine.asked["b"] != 0 {
		t.Errorf("%d ends of %d; asked %v, %v", len(got), len(targets), mine.asked, theirs.asked)
	}
}

// Ensure who has enough ends the hunt everywhere.
func TestEnough(t *testing.T) {
	a, mine, theirs, p := newAsker(t)
	enough := errors.New("enough")
	err := a.Hunt(t.Context(), []Target{{"stuck1", "n1"}, {"stuck2", "n2"}, {"a", "n1"}}, question, func(Piece) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	p.wg.Wait()
	if mine.ended != 1 || theirs.asked["stuck2"] != theirs.ended {
		t.Errorf("%d of 1 here, %d of %d there", mine.ended, theirs.ended, theirs.asked["stuck2"])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Hunt(ctx, []Target{{"stuck1", "n1"}}, question, func(Piece) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Ensure an engine has the whole answer at once, and a sensor's own trouble as an error.
func TestAsk(t *testing.T) {
	a, _, _, p := newAsker(t)
	p.nodes["n3"] = func(_ context.Context, conn net.Conn) {
		_ = frame.Read(conn, &raftv1.NodeQuestion{})
		_ = frame.Write(conn, &raftv1.NodeAnswer{Host: "x", Answer: &sensorv1.Answer{Done: true, Error: "records nothing"}})
	}
	for _, node := range []string{"n1", "n2"} {
		got, err := a.Ask(t.Context(), Target{"a", node}, question)
		if err != nil || len(got.GetRows()) != 2 || got.GetScanned() != 3 {
			t.Errorf("at %s: %v, %v", node, got, err)
		}
	}
	if _, err := a.Ask(t.Context(), Target{"away", "n2"}, question); !errors.Is(err, ingest.ErrAway) {
		t.Errorf("got %v", err)
	}
	if _, err := a.Ask(t.Context(), Target{"x", "n3"}, question); err == nil || !strings.Contains(err.Error(), "records nothing") {
		t.Errorf("got %v", err)
	}
}
