package answer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a recorder whose clock a test moves.
type host struct {
	dir  string
	boot uint64
	wall time.Time
	rec  *recorder.Recorder
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{dir: filepath.Join(t.TempDir(), "recorder"), boot: 1e12, wall: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	h.start()
	t.Cleanup(func() { _ = h.rec.Close() })
	return h
}

func (h *host) start() {
	h.rec = recorder.Open(h.dir, recorder.Config{Boot: [16]byte{1}, Version: "v1", Now: func() time.Time { return h.wall }, Boottime: func() uint64 { return h.boot }})
}

func (h *host) pass(d time.Duration) {
	h.boot += uint64(d)
	h.wall = h.wall.Add(d)
}

func (h *host) stop(t *testing.T) {
	t.Helper()
	if err := h.rec.Close(); err != nil {
		t.Fatal(err)
	}
}

func (h *host) head(p *event.Process) event.Header { return event.Header{Time: h.boot, Process: p.Key} }

var (
	nginx  = &event.Process{Key: event.ProcessKey{PID: 10, Start: 100}, Image: "/usr/sbin/nginx", Argv: []string{"nginx", "-g", "daemon off;"}, User: "root"}
	shell  = &event.Process{Key: event.ProcessKey{PID: 20, Start: 200}, Parent: nginx, Image: "/usr/bin/nc", Argv: []string{"nc", "192.0.2.7", "4444"}, UID: 33, User: "www-data", Anchor: nginx.Key, Cwd: "/tmp/\xff"}
	lonely = &event.Process{Key: event.ProcessKey{PID: 30, Start: 300}, Parent: &event.Process{Key: event.ProcessKey{PID: 29, Start: 290}}, Image: "/usr/bin/curl"}
	remote = netip.MustParseAddrPort("203.0.113.7:443")
	local  = netip.MustParseAddrPort("10.0.0.5:50000")
)

// day records one of each, a minute apart.
func (h *host) day() {
	h.pass(time.Minute)
	h.rec.Record(&event.Exec{Header: h.head(shell)}, shell, nil)
	h.pass(time.Minute)
	h.rec.Record(&event.FlowOpen{Header: h.head(lonely), Proto: 6, Local: local, Remote: remote}, lonely,
		&event.Flow{Proto: 6, Local: local, Remote: remote, Name: "evil.example"})
	h.pass(time.Minute)
	h.rec.Record(&event.FlowClose{Header: h.head(lonely), Proto: 6, Local: local, Remote: remote, BytesOut: 5000, Opened: h.boot - 60e9}, lonely,
		&event.Flow{Proto: 6, Local: local, Remote: remote, BytesOut: 5000})
	h.pass(time.Minute)
	h.rec.Record(&event.DNS{Header: h.head(shell), Name: "evil.example", Response: true, Addrs: []netip.Addr{remote.Addr()}, Local: local, Remote: netip.MustParseAddrPort("10.0.0.1:53")}, shell, nil)
	h.rec.Record(&event.File{Header: h.head(shell), Op: event.FileWrite, Class: event.FilePersistence, Path: []byte("/etc/cron.d/x"), Mode: 0o100644}, shell, nil)
	h.rec.Record(&event.Privilege{Header: h.head(shell), Operation: event.OpPtrace, Call: "ptrace", Target: nginx.Key}, shell, nil)
	h.rec.Record(&event.Login{Header: h.head(shell), User: "alice", Via: "sshd", Source: remote}, shell, nil)
	h.rec.Record(&event.Exit{Header: h.head(shell), Code: 1}, shell, nil)
}

func (h *host) config() Config {
	return Config{Dir: h.dir, Process: func(key event.ProcessKey) *event.Process {
		if key == nginx.Key {
			return nginx
		}
		return nil
	}}
}

// ask puts the pieces together.
func ask(t *testing.T, cfg Config, a *sensorv1.Ask) *sensorv1.Answer {
	t.Helper()
	var rows []*sensorv1.Sighting
	var end *sensorv1.Answer
	err := Run(t.Context(), cfg, a, func(p *sensorv1.Answer) error {
		if end != nil {
			t.Error("a piece behind the last")
		}
		if rows = append(rows, p.GetRows()...); p.GetDone() {
			end = p
		}
		return nil
	})
	if err != nil || end == nil {
		t.Fatalf("%v, %v", err, end)
	}
	end.Rows = rows
	return end
}

func expression(text string) *sensorv1.Ask {
	return &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: text}}
}

func typesOf(a *sensorv1.Answer) string {
	var types []string
	for _, row := range a.GetRows() {
		types = append(types, row.GetType())
	}
	return strings.Join(types, " ")
}

// Ensure every field finds its record.
func TestExpressions(t *testing.T) {
	h := newHost(t)
	h.day()
	h.stop(t)
	for text, want := range map[string]string{
		`process where image endswith "/nc" and parent.image endswith "/nginx"`:             "exec",
		`process where parent.command_line contains "daemon off" and parent.user == "root"`: "exec",
		`process where parent.pid == 10 and uid == 33 and user == "www-data" and pid == 20`: "exec",
		`process where argument == "4444" and cwd == "/tmp/\xff" and storyline == "10.100"`: "exec",
		`network where remote.address == "203.0.113.0/24" and remote.port == 443`:           "flow-open flow-close",
		`network where remote.name == "evil.example" and direction == "out"`:                "flow-open",
		`network where bytes_out > 4k`: "flow-close",
		`network where local.port == 50000 and protocol == "tcp" and failed == false`:          "flow-open flow-close",
		`dns where name == "evil.example" and answer == "203.0.113.7" and remote.port == 53`:   "dns",
		`file where path startswith "/etc/cron" and operation == "write" and mode == 0o100644`: "file",
		`file where class == "persistence" and image == "/usr/bin/nc"`:                         "file",
		`privilege where operation == "ptrace" and target.pid == 10`:                           "privilege",
		`privilege where target.image == "/usr/sbin/nginx" and gained == false`:                "privilege",
		`login where account == "alice" and via == "sshd" and source.address == "203.0.113.7"`: "login",
		`any where image == "/usr/bin/nc"`:                                                     "exec dns file privilege login exit",
		`any where type == "exit"`:                                                             "exit",
		`process where image == "/usr/bin/curl"`:                                               "",
		`network where not image == "/usr/bin/curl"`:                                           "",
	} {
		if got := ask(t, h.config(), expression(text)); typesOf(got) != want || got.GetError() != "" {
			t.Errorf("%s: got %q (%s), want %q", text, typesOf(got), got.GetError(), want)
		}
	}
	got := ask(t, h.config(), expression(`process`))
	row := got.GetRows()[0]
	if p := row.GetProcess(); p.GetPid() != 20 || string(p.GetCwd()) != "/tmp/\xff" || string(row.GetParentImage()) != "/usr/sbin/nginx" || len(row.GetParentArgv()) != 3 ||
		row.GetParentPid() != 10 || row.GetStoryline() != "10.100" || row.GetKind() != "process" || p.GetStartTime() >= row.GetTime() {
		t.Errorf("got %v", row)
	}
	if got.GetScanned() < 8 || got.GetLimited() != "" || got.GetCoveredFrom() == 0 || got.GetCoveredFrom() != got.GetReachesBack() {
		t.Errorf("end: %v", got)
	}
}

// Ensure an unknown parent is not passed over in silence.
func TestUnknownParent(t *testing.T) {
	h := newHost(t)
	h.day()
	h.stop(t)
	got := ask(t, h.config(), expression(`network where parent.image endswith "/bash"`))
	if got.GetParentUnknown() != 2 || len(got.GetRows()) != 0 {
		t.Errorf("got %v", got)
	}
	if got = ask(t, h.config(), expression(`network where remote.port == 1`)); got.GetParentUnknown() != 0 {
		t.Errorf("got %v", got)
	}
}

// Ensure limits hold, and are told; nothing that is asked for lifts the host's own.
func TestLimits(t *testing.T) {
	h := newHost(t)
	for i := range 3000 {
		p := *shell
		p.Argv = []string{"nc", fmt.Sprint(i), strings.Repeat("x", 100)}
		h.rec.Record(&event.Exec{Header: h.head(&p)}, &p, nil)
		h.pass(time.Second)
	}
	h.stop(t)
	limited := func(change func(*sensorv1.Ask)) *sensorv1.Answer {
		a := expression(`process`)
		change(a)
		return ask(t, h.config(), a)
	}
	if got := limited(func(a *sensorv1.Ask) { a.MaxRows = 7 }); len(got.GetRows()) != 7 || got.GetLimited() != "rows" {
		t.Errorf("rows: %d, %s", len(got.GetRows()), got.GetLimited())
	}
	got := limited(func(a *sensorv1.Ask) { a.MaxBytes = 10_000 })
	size := 0
	for _, row := range got.GetRows() {
		size += proto.Size(row)
	}
	if size > 10_000 || size < 8_000 || got.GetLimited() != "bytes" {
		t.Errorf("bytes: %d, %s", size, got.GetLimited())
	}
	// All of them, in pieces that are not large.
	largest, pieces := 0, 0
	if err := Run(t.Context(), h.config(), expression(`process`), func(p *sensorv1.Answer) error {
		largest, pieces = max(largest, proto.Size(p)), pieces+1
		return nil
	}); err != nil || largest > pieceBytes+4<<10 || pieces < 5 {
		t.Errorf("%v: %d pieces, the largest of %d bytes", err, pieces, largest)
	}
	if got := limited(func(a *sensorv1.Ask) { a.MaxRows = 1 << 30; a.MaxBytes = 1 << 60 }); len(got.GetRows()) != 3000 || got.GetLimited() != "" {
		t.Errorf("all: %d, %s", len(got.GetRows()), got.GetLimited())
	}
	middle := h.wall.Add(-1500 * time.Second).UnixNano()
	if got := limited(func(a *sensorv1.Ask) { a.Since, a.Until = middle, middle+10e9 }); len(got.GetRows()) != 11 || got.GetCoveredFrom() != middle {
		t.Errorf("span: %d, %d", len(got.GetRows()), got.GetCoveredFrom())
	}
	// Time: whoever rests for ever is ended, and it is told whether the budget was why.
	for slowed, want := range map[bool]string{false: "time", true: "budget"} {
		cfg := h.config()
		cfg.Rest = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		cfg.Slowed = func() bool { return slowed }
		a := expression(`process`)
		a.MaxMillis = 50
		if got := ask(t, cfg, a); got.GetLimited() != want || got.GetError() != "" {
			t.Errorf("time: %v", got.GetLimited())
		}
	}
	// Who does not want it any more gets nothing more.
	ctx, cancel := context.WithCancel(t.Context())
	cfg := h.config()
	cfg.Rest = func(ctx context.Context) error { cancel(); return ctx.Err() }
	if err := Run(ctx, cfg, expression(`process where uid == 1`), func(p *sensorv1.Answer) error { t.Errorf("got %v", p); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone := errors.New("gone")
	if err := Run(t.Context(), h.config(), expression(`process`), func(*sensorv1.Answer) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// Ensure what the sensor did not see is part of the answer.
func TestGaps(t *testing.T) {
	h := newHost(t)
	h.rec.NoteLosses([]event.Loss{{Where: "ring:bulk", Cause: "full", Count: 3}})
	h.pass(time.Minute)
	h.rec.NoteLosses([]event.Loss{{Where: "ring:bulk", Cause: "full", Count: 8}})
	h.day()
	h.stop(t)
	stopped := h.wall
	h.pass(time.Hour)
	h.start()
	started := h.wall
	h.day()
	h.stop(t)
	got := ask(t, h.config(), expression(`process`))
	if len(got.GetLosses()) != 1 || got.GetLosses()[0].GetCount() != 8 || got.GetLosses()[0].GetWhere() != "ring:bulk" {
		t.Errorf("losses: %v", got.GetLosses())
	}
	gaps := got.GetUnwatched()
	if len(gaps) != 2 || gaps[0].GetFrom() != 0 || gaps[1].GetFrom() != stopped.UnixNano() || gaps[1].GetUntil() != started.UnixNano() {
		t.Errorf("gaps: %v; stopped %d, started %d", gaps, stopped.UnixNano(), started.UnixNano())
	}
	// Before and after it there is none.
	later := expression(`process`)
	later.Since = started.Add(time.Second).UnixNano()
	if got := ask(t, h.config(), later); len(got.GetUnwatched()) != 0 || len(got.GetLosses()) != 0 {
		t.Errorf("later: %v, %v", got.GetUnwatched(), got.GetLosses())
	}
}

// Ensure a rule is judged over what was recorded, and what cannot be asked is an error that says so.
func TestRulesAndErrors(t *testing.T) {
	h := newHost(t)
	h.day()
	h.stop(t)
	cfg := h.config()
	cfg.Rule = func(text string) (func(*event.Observation) bool, []string, error) {
		if text == "bad" {
			return nil, nil, errors.New("line 1: no detection")
		}
		return func(o *event.Observation) bool {
			_, exec := o.Event.(*event.Exec)
			return exec && o.Process.Parent.Image == "/usr/sbin/nginx"
		}, []string{"vedette.Known"}, nil
	}
	rule := func(text string) *sensorv1.Ask { return &sensorv1.Ask{What: &sensorv1.Ask_Rule{Rule: text}} }
	if got := ask(t, cfg, rule("good")); typesOf(got) != "exec" || len(got.GetUntold()) != 1 {
		t.Errorf("got %v", got)
	}
	none := cfg
	none.Dir = filepath.Join(h.dir, "none")
	backwards := expression(`process`)
	backwards.Since, backwards.Until = 9, 5
	for _, tt := range []struct {
		cfg  Config
		ask  *sensorv1.Ask
		want string
	}{
		{cfg, rule("bad"), "cannot use the rule: line 1"}, {cfg, expression("imag"), "does not understand"}, {cfg, &sensorv1.Ask{}, "upgrade it"},
		{none, expression("process"), "records nothing"}, {cfg, backwards, "ends before it begins"},
	} {
		if got := ask(t, tt.cfg, tt.ask); !strings.Contains(got.GetError(), tt.want) {
			t.Errorf("want %q, got %q", tt.want, got.GetError())
		}
	}
}
