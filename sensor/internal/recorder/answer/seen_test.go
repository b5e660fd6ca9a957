package answer

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// Ensure the processes remembered as parents are bounded by their bytes, and a question that nobody
// waits for ends with the next record.
func TestQuestionIsBounded(t *testing.T) {
	q := &question{seen: map[event.ProcessKey]*recorder.Process{}, judge: func(*view) bool { return false }}
	argv := []string{strings.Repeat("x", 100<<10)}
	for i := range uint32(1000) {
		p := &recorder.Process{Key: event.ProcessKey{PID: i % 100, Start: 1}, Described: true, Argv: argv}
		if err := q.take(t.Context(), &recorder.Record{Type: recorder.TypeStart, Process: p}); err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, p := range q.seen {
			held += len(p.Argv[0])
		}
		if held > maxSeenBytes {
			t.Fatalf("%d bytes are remembered", held)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.take(ctx, &recorder.Record{Type: recorder.TypeStart}); !errors.Is(err, context.Canceled) {
		t.Errorf("went on: %v", err)
	}
}
