// Package journal keeps a node's newest warnings and errors in memory, so that they
// can be asked for when somebody looks for a fault.
//
// Its one idea: it stands before the handler that writes the log and changes nothing of
// what that gets. What it keeps is bounded in lines and in bytes, whoever makes the node log.
package journal

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Kept is how many lines are kept, each of at most maxLine bytes: half a megabyte.
	Kept    = 256
	maxLine = 2 << 10
)

// Line is one warning or error, as text.
type Line struct {
	Time  time.Time
	Level slog.Level
	Text  string
}

// Journal is a node's. Its zero value is ready.
type Journal struct {
	mu    sync.Mutex // guards what follows
	lines []Line     // a ring once it is full
	next  int
	total uint64

	warnings, errors atomic.Uint64
}

// Handler hands everything on to next and keeps what is a warning or worse.
func (j *Journal) Handler(next slog.Handler) slog.Handler {
	return &handler{journal: j, next: next}
}

// Lines are those that are kept, oldest first, and how many older ones are not.
func (j *Journal) Lines() (lines []Line, dropped uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines = append(lines, j.lines[j.next:]...)
	lines = append(lines, j.lines[:j.next]...)
	return lines, j.total - uint64(len(lines))
}

// Counts are all since the start.
func (j *Journal) Counts() (warnings, errors uint64) { return j.warnings.Load(), j.errors.Load() }

func (j *Journal) keep(l Line) {
	if l.Level >= slog.LevelError {
		j.errors.Add(1)
	} else {
		j.warnings.Add(1)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.total++
	if len(j.lines) < Kept {
		j.lines = append(j.lines, l)
		return
	}
	j.lines[j.next] = l
	j.next = (j.next + 1) % Kept
}

// handler remembers how it was made (made), so that a line has the same attributes.
type handler struct {
	journal *Journal
	next    slog.Handler
	made    []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler. Warnings are kept even where the log's level leaves them out.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn || h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.journal.keep(Line{r.Time, r.Level, h.line(ctx, r)})
		if !h.next.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.next.Handle(ctx, r)
}

func (h *handler) line(ctx context.Context, r slog.Record) string {
	var text bytes.Buffer
	var writer slog.Handler = slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{} // a Line has them
		}
		return a
	}})
	for _, make := range h.made {
		writer = make(writer)
	}
	_ = writer.Handle(ctx, r) // a buffer takes everything
	line := text.Bytes()
	return strings.ToValidUTF8(strings.TrimSuffix(string(line[:min(len(line), maxLine)]), "\n"), "?")
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *handler) with(made func(slog.Handler) slog.Handler) slog.Handler {
	return &handler{h.journal, made(h.next), append(h.made[:len(h.made):len(h.made)], made)}
}
