package consensus

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"github.com/hashicorp/go-hclog"
)

// newLogger makes the logger that raft wants, which writes to ours. The level
// is slog's to decide.
func newLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Debug})
	l.RegisterSink(sink{to})
	return l
}

// snake makes a library's key one as all others are: of last-leader-id and votesNeeded alike.
func snake(key string) string {
	var b strings.Builder
	for i, r := range key {
		switch {
		case r == '-' || r == ' ':
			b.WriteByte('_')
		case unicode.IsUpper(r):
			if i > 0 {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

type sink struct{ to *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	ours := slog.LevelDebug
	switch level {
	case hclog.Error:
		ours = slog.LevelError
	case hclog.Warn:
		ours = slog.LevelWarn
	case hclog.Info:
		ours = slog.LevelInfo
	}
	if !s.to.Enabled(context.Background(), ours) {
		return
	}
	attrs := make([]any, 0, len(args)+2)
	attrs = append(attrs, "component", name)
	for i := 0; i+1 < len(args); i += 2 {
		attrs = append(attrs, snake(fmt.Sprint(args[i])), args[i+1])
	}
	s.to.Log(context.Background(), ours, msg, attrs...)
}
