package sensor

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// lineTest is a line whose images take their time to be hashed.
type lineTest struct {
	*findingLine
	hashed map[string]time.Duration // by title; not in it: never
	sent   []string
	late   map[string]time.Duration
	found  map[string]time.Time
}

func newLineTest() *lineTest {
	l := &lineTest{hashed: map[string]time.Duration{}, late: map[string]time.Duration{}, found: map[string]time.Time{}}
	l.findingLine = newFindingLine(func(ctx context.Context, p *event.Process) *event.Process {
		c := *p
		var done <-chan time.Time
		if takes, ok := l.hashed[p.Image]; ok {
			done = time.After(time.Until(l.found[p.Image].Add(takes)))
		}
		if !p.Hashed {
			select {
			case <-done:
				c.Hashed = true
			case <-ctx.Done():
			}
		}
		return &c
	}, func(f *event.Finding) {
		word := f.Title
		if f.Process.Hashed {
			word += " hashed"
		}
		l.sent = append(l.sent, word)
		l.late[f.Title] = time.Since(l.found[f.Title])
	})
	return l
}

func (l *lineTest) find(title string, hashed bool) {
	l.found[title] = time.Now()
	l.add(&event.Finding{Title: title, Process: &event.Process{Image: title, Hashed: hashed}})
}

// Ensure findings are handed on in the order in which they were found, and that
// none waits longer than it may, however many before it wait in vain.
func TestFindingsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLineTest()
		closed := make(chan struct{})
		done := make(chan struct{})
		l.find("a", true) // nobody waits: at once, before run
		if !slices.Equal(l.sent, []string{"a hashed"}) {
			t.Fatalf("sent %q, want a at once", l.sent)
		}
		go func() { defer close(done); l.run(t.Context(), closed) }()
		l.hashed["b"] = 100 * time.Millisecond
		l.find("b", false)
		for _, title := range []string{"c", "d", "e"} {
			l.find(title, false) // never
		}
		l.find("f", true)
		<-time.After(2 * hashWait)
		l.find("g", true)
		close(closed)
		<-done
		want := []string{"a hashed", "b hashed", "c", "d", "e", "f hashed", "g hashed"}
		if !slices.Equal(l.sent, want) {
			t.Errorf("sent %q, want %q", l.sent, want)
		}
		for title, late := range l.late {
			if late > hashWait {
				t.Errorf("%s was late by %s, at most %s", title, late, hashWait)
			}
		}
	})
}

// Ensure a full line holds nobody up, and the end of the sensor loses none.
func TestFindingsAtTheirBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLineTest()
		for range hashLine {
			l.find("waits", false)
		}
		l.find("one more", false)
		if !slices.Equal(l.sent, []string{"one more"}) {
			t.Fatalf("sent %q, want the one more", l.sent)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		closed := make(chan struct{})
		close(closed)
		begin := time.Now()
		l.run(ctx, closed)
		if len(l.sent) != hashLine+1 || time.Since(begin) != 0 {
			t.Errorf("sent %d in %s, want %d at once", len(l.sent), time.Since(begin), hashLine+1)
		}
	})
}
