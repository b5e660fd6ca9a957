package answer

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

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

// Ensure a question about one storyline has the same answer as one that looks at every record,
// without decoding what a storm of other processes left.
func TestOneStoryline(t *testing.T) {
	h := newHost(t)
	for i := range 2000 {
		p := &event.Process{Key: event.ProcessKey{PID: 1000 + uint32(i), Start: uint64(i)}, Parent: nginx, Image: "/usr/bin/true",
			Argv: []string{"true", strings.Repeat("x", 200)}, Anchor: event.ProcessKey{PID: 9, Start: 9}}
		h.rec.Record(&event.Exec{Header: h.head(p), Path: []byte(p.Image)}, p, nil)
		h.pass(time.Millisecond)
	}
	h.day()
	// Who serves a connection that was accepted is of another storyline from then on.
	served := *shell
	served.Anchor = event.ProcessKey{PID: 20, Start: 200}
	h.rec.Record(&event.File{Header: h.head(&served), Op: event.FileWrite, Class: event.FileWeb, Path: []byte("/var/www/x.php")}, &served, nil)
	h.stop(t)
	const one = `storyline == "10.100"`
	quick := ask(t, h.config(), expression("any where "+one))
	whole := ask(t, h.config(), expression("any where "+one+" or "+one))
	if len(quick.GetRows()) == 0 || quick.GetScanned() < 2000 {
		t.Fatalf("%d rows of %d records", len(quick.GetRows()), quick.GetScanned())
	}
	if !proto.Equal(quick, whole) {
		t.Errorf("got\n%v\nby looking at all\n%v", quick, whole)
	}
	and := ask(t, h.config(), expression(`process where image endswith "nc" and `+one))
	if typesOf(and) != "exec" || and.GetScanned() != whole.GetScanned() {
		t.Errorf("of its processes: %s of %d", typesOf(and), and.GetScanned())
	}
	if none := ask(t, h.config(), expression(`any where storyline == "nonsense"`)); len(none.GetRows()) != 0 || none.GetScanned() != whole.GetScanned() {
		t.Errorf("a storyline that cannot be: %d rows of %d", len(none.GetRows()), none.GetScanned())
	}
	later := ask(t, h.config(), expression(`any where storyline == "20.200"`)).GetRows()
	if len(later) != 1 || string(later[0].GetProcess().GetImage()) != shell.Image {
		t.Errorf("of the storyline that it came into: %v", later)
	}
	took := func(question string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ask(t, h.config(), expression(question))
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if few, all := took("any where "+one), took("any where "+one+" or "+one); 2*few > all {
		t.Errorf("it allocates %d bytes, and %d by looking at all", few, all)
	}
}
