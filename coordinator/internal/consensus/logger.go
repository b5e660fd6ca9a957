package consensus

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newLogger makes the logger that raft wants, which writes to ours. The level
// is slog's to decide.
func newLogger(to *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Debug})
	l.RegisterSink(sink{to})
	return l
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
		attrs = append(attrs, fmt.Sprint(args[i]), args[i+1])
	}
	s.to.Log(context.Background(), ours, msg, attrs...)
}
