package coordinator_test

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"sync"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
)

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Ensure log_format json makes every line of a node's log one object with the same keys
// for the same things, raft's own lines among them.
func TestLogFormat(t *testing.T) {
	var out lines
	c := startClusterOf(t, 2, func(cfg *coordinator.Config) {
		logger, err := coordinator.NewLogger(&out, "json", "debug")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Logger = logger
	})
	c.nodes[1].stop()
	c.nodes[0].stop()
	snake := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	components := map[any]bool{}
	decoder := json.NewDecoder(bytes.NewReader([]byte(out.String())))
	for n := 1; ; n++ {
		var line map[string]any
		if err := decoder.Decode(&line); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		for _, key := range []string{"time", "level", "msg", "node"} {
			if line[key] == nil {
				t.Errorf("a line without %s: %v", key, line)
			}
		}
		for key := range line {
			if !snake.MatchString(key) || key == "err" {
				t.Errorf("key %q in: %v", key, line)
			}
		}
		components[line["component"]] = true
	}
	if !components["raft"] || !components["transport"] && !components["snapshot"] && !components["wal"] {
		t.Errorf("lines of these components came: %v", components)
	}
	for _, wrong := range []string{"xml", "JSON"} {
		if _, err := coordinator.NewLogger(io.Discard, wrong, "info"); err == nil {
			t.Errorf("log_format %q is taken", wrong)
		}
	}
}
