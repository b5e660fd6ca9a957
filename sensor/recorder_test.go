package sensor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure what really happened on this kernel is found by process, storyline and
// flow, forks and exits included, while the sensor still runs.
func TestRecorderOnThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs CAP_BPF (run as root)")
	}
	s := &Sensor{cfg: DefaultConfig(), log: slog.New(slog.DiscardHandler), watched: make(chan struct{}), version: "test"}
	s.cfg.StateDir = t.TempDir()
	s.intent = openIntent(s.path("intent.json"), "c-test", "h-aaaaaaaaaaaa", nil, nil, s.log)
	s.learning = openLearning(s.path("learning.json"), "c-test", "h-aaaaaaaaaaaa", nil, s.log)
	s.rules = openRules(s.path("rules.json"), "c-test", nil, s.log)
	if err := s.openKernel(); err != nil {
		t.Skipf("SKIP: needs BPF: %v", err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.openStages(); err != nil {
		t.Fatal(err)
	}
	if err := s.seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	read, wrote := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(s.watched)
		read <- s.source.Run(ctx, func(ev event.Event) { s.record(ev, s.enricher.Observe(ev)) })
	}()
	go func() { s.recorder.Run(s.watched); close(wrote) }()
	defer func() {
		stop()
		if err := <-read; err != nil {
			t.Error(err)
		}
		<-wrote
	}()

	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	odd := "argument-\xff"
	child := exec.Command("/bin/sh", "-c", "exit 7", odd)
	_ = child.Run()
	pid := child.Process.Pid

	type record struct {
		Type    string
		Process struct {
			ID, Image string
			Argv      []any
		}
		Storyline string
		Code      int
		ChildPID  int `json:"child_pid"`
	}
	ask := func(q RecorderQuery) (records []record, names string) {
		t.Helper()
		q.Output = "jsonl"
		var out bytes.Buffer
		if _, err := QueryRecorder(t.Context(), s.cfg, q, &out); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			var r record
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if r.Type == "file" {
				continue // libraries that were not seen before, which depends on the machine
			}
			records = append(records, r)
			names += r.Type + " "
		}
		return records, names
	}
	var records []record
	var names string
	for deadline := time.Now().Add(20 * time.Second); ; {
		if records, names = ask(RecorderQuery{PID: fmt.Sprint(pid), Since: "1m"}); names == "fork exec exit " {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d: got %q, want fork exec exit", pid, names)
		}
	}
	if fork := records[0]; fork.ChildPID != pid || !strings.HasPrefix(fork.Process.ID, fmt.Sprint(os.Getpid(), ".")) {
		t.Errorf("fork: %+v", fork)
	}
	started, ended := records[1], records[2]
	if base, ok := started.Process.Argv[3].(map[string]any); !ok || base["base64"] != "YXJndW1lbnQt/w==" || ended.Code != 7 {
		t.Errorf("exec: %+v, exit: %+v", started, ended)
	}
	if _, names := ask(RecorderQuery{Process: started.Process.ID}); names != "fork exec exit " {
		t.Errorf("by process: %q", names)
	}
	if _, names := ask(RecorderQuery{Storyline: started.Storyline, PID: fmt.Sprint(pid)}); names != "fork exec exit " {
		t.Errorf("by storyline: %q", names)
	}
	if _, names := ask(RecorderQuery{Flow: server.Addr().String()}); !strings.Contains(names, "flow-open flow-open") {
		t.Errorf("by flow: %q, want both ends' flow-open", names)
	}
	if _, names := ask(RecorderQuery{PID: fmt.Sprint(pid), Types: []string{"exit"}}); names != "exit " {
		t.Errorf("by type: %q", names)
	}
}

// Ensure what only the recorder lost does not keep the host from learning.
func TestRecorderLossIsNoBlindness(t *testing.T) {
	own := event.Loss{Where: "recorder", Cause: "disk-full", Count: 1}
	if unseen([]event.Loss{own}) || unseen(nil) || unseen([]event.Loss{{Where: correlationLosses, Count: 1}}) || !unseen([]event.Loss{own, {Where: "ring:bulk", Count: 1}}) {
		t.Error("which losses count as not seen is wrong")
	}
}
