package journal

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Ensure what is logged is logged as before, and that warnings and errors are kept with
// their attributes, the newest of them, bounded.
func TestJournal(t *testing.T) {
	var out, plain bytes.Buffer
	var j Journal
	noTime := &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	for _, logger := range []*slog.Logger{slog.New(j.Handler(slog.NewJSONHandler(&out, noTime))), slog.New(slog.NewJSONHandler(&plain, noTime))} {
		logger = logger.With("node", "n1")
		logger.Debug("nothing")
		logger.Info("serving", "udp", "127.0.0.1:1")
		logger.WithGroup("disk").Warn("low", "left", 3)
		logger.Error("gone", "error", strings.Repeat("x", 2*maxLine))
	}
	if out.String() != plain.String() {
		t.Errorf("got:\n%s\nwant what the handler writes alone:\n%s", out.String(), plain.String())
	}
	lines, dropped := j.Lines()
	if len(lines) != 2 || dropped != 0 || lines[0].Text != "msg=low node=n1 disk.left=3" || lines[0].Level != slog.LevelWarn || lines[0].Time.IsZero() {
		t.Fatalf("got %d lines, %d dropped, the first %+v", len(lines), dropped, lines[0])
	}
	if len(lines[1].Text) != maxLine {
		t.Errorf("a line of %d bytes is kept, want it cut at %d", len(lines[1].Text), maxLine)
	}
	quiet := slog.New(j.Handler(slog.DiscardHandler))
	for i := range Kept {
		quiet.Warn("again", "i", i)
	}
	lines, dropped = j.Lines()
	if last := lines[len(lines)-1].Text; len(lines) != Kept || dropped != 2 || lines[0].Text != "msg=again i=0" || last != fmt.Sprintf("msg=again i=%d", Kept-1) {
		t.Errorf("got %d lines from %q to %q, %d dropped", len(lines), lines[0].Text, last, dropped)
	}
	if warnings, errors := j.Counts(); warnings != Kept+1 || errors != 1 {
		t.Errorf("counted %d warnings and %d errors", warnings, errors)
	}
}
