package query

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

var (
	began  = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	bootAt = uint64(5_000_000_000)
	shell  = &event.Process{
		Key: event.ProcessKey{PID: 42, Start: 420}, Parent: &event.Process{Key: event.ProcessKey{PID: 1, Start: 1}},
		Image: "/usr/bin/bash", Argv: []string{"bash", "-c", "echo \x1b[31m\"hi\" \xff"}, ArgvBytes: 20, UID: 0, User: "root",
		Cwd: "/tmp/\u202e", Traits: []string{"set-id"}, Anchor: event.ProcessKey{PID: 40, Start: 400}, Hashed: true, SHA256: [32]byte{0xab},
	}
	client = &event.Process{Key: event.ProcessKey{PID: 43, Start: 430}, Image: "/usr/bin/curl\xff", UID: 1000, Anchor: shell.Anchor}
	local  = netip.MustParseAddrPort("10.0.0.5:50000")
	remote = netip.MustParseAddrPort("203.0.113.7:443")
	six    = netip.MustParseAddrPort("[2001:db8::7]:53")
)

// recorded is a folder with one of each, a second apart: exec fork flow-open dns exit.
func recorded(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "recorder")
	r := recorder.Open(dir, recorder.Config{
		Version: "v1", Boot: [16]byte{0xaa},
		Now: func() time.Time { return began }, Boottime: func() uint64 { return bootAt },
	})
	head := func(second int, p *event.Process) event.Header {
		return event.Header{Time: bootAt + uint64(second)*1e9, Process: p.Key}
	}
	r.Record(&event.Exec{Header: head(1, shell), Path: []byte(shell.Image), Filename: []byte("./b\xff")}, shell, nil)
	r.Record(&event.Fork{Header: head(2, shell), Child: client.Key}, shell, nil)
	r.Record(&event.FlowOpen{Header: head(3, client), Proto: 6, Local: local, Remote: remote}, client,
		&event.Flow{Proto: 6, Local: local, Remote: remote, Name: "evil.example"})
	r.Record(&event.DNS{Header: head(4, client), Name: "evil.example", Local: local, Remote: six}, client, nil)
	r.Record(&event.Exit{Header: event.Header{Time: bootAt + 5e9, Process: event.ProcessKey{PID: 99, Start: 9}}, Code: 1}, nil, nil)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ask(t *testing.T, dir string, f Flags) (string, Answer) {
	t.Helper()
	var out bytes.Buffer
	answer, err := Run(t.Context(), dir, f, began.Add(10*time.Second), &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), answer
}

// Ensure each flag finds what it says, alone and together.
func TestFilters(t *testing.T) {
	dir := recorded(t)
	const everything = "sensor-start exec fork flow-open dns exit sensor-stop"
	for _, tt := range []struct {
		name  string
		flags Flags
		want  string
	}{
		{"nothing", Flags{}, everything},
		{"since", Flags{Since: "2026-05-01T12:00:03Z"}, "flow-open dns exit"},
		{"since, another zone", Flags{Since: "2026-05-01T14:00:03+02:00"}, "flow-open dns exit"},
		{"since, back", Flags{Since: "8s", Until: "6s"}, "fork flow-open dns"},
		{"until", Flags{Until: "2026-05-01T12:00:01Z"}, "sensor-start exec sensor-stop"},
		{"pid", Flags{PID: "42"}, "exec fork"},
		{"pid of a child", Flags{PID: "43"}, "fork flow-open dns"},
		{"process", Flags{Process: "43.430"}, "fork flow-open dns"},
		{"process, another start", Flags{Process: "43.431"}, ""},
		{"storyline", Flags{Storyline: "40.400"}, "exec fork flow-open dns"},
		{"flow, remote", Flags{Flow: "203.0.113.7:443"}, "flow-open"},
		{"flow, local", Flags{Flow: "10.0.0.5:50000"}, "flow-open dns"},
		{"flow, any port", Flags{Flow: "203.0.113.7"}, "flow-open"},
		{"flow, another port", Flags{Flow: "203.0.113.7:80"}, ""},
		{"flow, IPv6", Flags{Flow: "2001:db8::7"}, "dns"},
		{"flow, IPv6 and port", Flags{Flow: "[2001:db8::7]:53"}, "dns"},
		{"flow, mapped", Flags{Flow: "::ffff:203.0.113.7"}, "flow-open"},
		{"types", Flags{Types: []string{"exit", "dns"}}, "dns exit"},
		{"image", Flags{Image: "ba*"}, "exec fork"},
		{"image, path", Flags{Image: "/usr/*/bas?"}, "exec fork"},
		{"image, odd byte", Flags{Image: "curl?"}, "flow-open dns"},
		{"together", Flags{Storyline: "40.400", Types: []string{"dns", "exit"}, Flow: "2001:db8::7"}, "dns"},
		{"limit", Flags{Limit: 2}, "sensor-start exec"},
		{"limit of as many", Flags{Limit: 7}, everything},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.flags.Output = "jsonl"
			out, answer := ask(t, dir, tt.flags)
			var types []string
			for line := range strings.Lines(out) {
				var r struct{ Type string }
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				types = append(types, r.Type)
			}
			if got := strings.Join(types, " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if answer.Records != uint64(len(types)) || answer.Limited != (tt.flags.Limit == 2) {
				t.Errorf("%+v", answer)
			}
		})
	}
}

// Ensure an object has every key, keeps every byte and nothing that a terminal obeys.
func TestJSONL(t *testing.T) {
	out, _ := ask(t, recorded(t), Flags{Output: "jsonl", Types: []string{"exec", "flow-open", "exit", "sensor-start"}})
	lines := slices.Collect(strings.Lines(out))
	if len(lines) != 4 {
		t.Fatalf("got %s", out)
	}
	if strings.ContainsAny(out, "\x1b\u202e") {
		t.Errorf("a terminal would obey: %q", out)
	}
	want := `{"time":"2026-05-01T12:00:01Z","boot_ns":6000000000,"boot":"aa000000-0000-0000-0000-000000000000","type":"exec",` +
		`"process":{"id":"42.420","pid":42,"start":420,"parent_pid":1,"parent_start":1,"image":"/usr/bin/bash",` +
		`"argv":["bash","-c",{"base64":"` + base64.StdEncoding.EncodeToString([]byte(shell.Argv[2])) + `"}],"argv_bytes":20,"argv_truncated":false,` +
		`"uid":0,"user":"root","login_uid":0,"cwd":"/tmp/\u202e","unit":"","container":"","interpreter":"","script":"","traits":["set-id"],` +
		`"sha256":"ab` + strings.Repeat("00", 31) + `"},"storyline":"40.400","flow":null,"filename":{"base64":"Li9i/w=="},`
	if !strings.HasPrefix(lines[1], want) {
		t.Errorf("exec:\n got %s\nwant %s…", lines[1], want)
	}
	var flow, exit, start map[string]any
	for i, to := range map[int]*map[string]any{0: &start, 2: &flow, 3: &exit} {
		if err := json.Unmarshal([]byte(lines[i]), to); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]any{
		"protocol": "tcp", "direction": "out", "local": "10.0.0.5:50000", "remote": "203.0.113.7:443", "name": "evil.example",
		"bytes_in": 0.0, "bytes_out": 0.0, "failed": false,
	}, flow["flow"]); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
	p, _ := exit["process"].(map[string]any)
	q, _ := flow["process"].(map[string]any)
	if len(p) != len(q) || p["image"] != nil || p["pid"] != 99.0 || exit["storyline"] != nil || exit["code"] != 1.0 {
		t.Errorf("exit of an unknown process: %v", exit)
	}
	if start["process"] != nil || start["version"] != "v1" {
		t.Errorf("start: %v", start)
	}
}

// Ensure no event's attribute hides a key of the record.
func TestReservedNames(t *testing.T) {
	for _, name := range reserved {
		line := jsonLine(nil, &recorder.Record{Type: "x", Attrs: []recorder.Attr{{Name: name, Kind: recorder.KindUint, Uint: 7}}})
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil || got["event_"+name] != 7.0 || got["type"] != "x" {
			t.Errorf("%s: %s, %v", name, line, err)
		}
	}
}

// Ensure the table is one safe line a record.
func TestTable(t *testing.T) {
	out, _ := ask(t, recorded(t), Flags{Until: "5s"})
	want := `TIME                      TYPE              PID  USER       WHAT
2026-05-01T12:00:00.000Z  sensor-start        -  -          version=v1
2026-05-01T12:00:01.000Z  exec               42  root       /usr/bin/bash: bash -c 'echo \x1b[31m"hi" \xff'  [set-id]  filename='./b\xff'  login_uid=0
2026-05-01T12:00:02.000Z  fork               42  root       /usr/bin/bash  child_pid=43
2026-05-01T12:00:03.000Z  flow-open          43  1000       /usr/bin/curl\xff  tcp 10.0.0.5:50000 → 203.0.113.7:443 (evil.example)
2026-05-01T12:00:04.000Z  dns                43  1000       /usr/bin/curl\xff  udp 10.0.0.5:50000 → [2001:db8::7]:53  query=evil.example  response=false
2026-05-01T12:00:05.000Z  exit               99  -          code=1  acting_uid=0
2026-05-01T12:00:00.000Z  sensor-stop         -  -
`
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Ensure a wrong question says what would be right, all of it at once.
func TestWrongQuestions(t *testing.T) {
	for _, tt := range []struct {
		flags Flags
		want  string
	}{
		{Flags{Since: "yesterday"}, `--since "yesterday": want a time such as`},
		{Flags{Until: "-5m"}, `--until "-5m"`},
		{Flags{Since: "1m", Until: "2m"}, "--until 2m is before --since 1m"},
		{Flags{PID: "x"}, `--pid "x"`},
		{Flags{Process: "42"}, `--process "42": want PID.START`},
		{Flags{Storyline: "4.x"}, `--storyline "4.x"`},
		{Flags{Flow: "example.org:443"}, `--flow "example.org:443": want ADDRESS`},
		{Flags{Limit: -1}, "--limit -1"},
		{Flags{Types: []string{""}}, "--type"},
		{Flags{Output: "xml"}, `-o "xml"`},
		{Flags{PID: "x", Output: "xml"}, `-o "xml"`},
	} {
		var out bytes.Buffer
		_, err := Run(t.Context(), "/nowhere", tt.flags, began, &out)
		if err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
			t.Errorf("%+v: got %v, want %s", tt.flags, err, tt.want)
		}
	}
	_, err := Run(t.Context(), "/nowhere", Flags{}, began, &bytes.Buffer{})
	if !errors.Is(err, recorder.ErrNone) || !strings.Contains(err.Error(), "recorder.enabled") {
		t.Errorf("without a folder: %v", err)
	}
}

// Ensure what was asked for in vain is answered with what there is.
func TestTypesThere(t *testing.T) {
	out, answer := ask(t, recorded(t), Flags{Types: []string{"forks"}, Since: "9s", Until: "7s"})
	if out != "" || answer.Records != 0 || !slices.Equal(answer.Types, []string{"exec", "flow-open", "fork"}) {
		t.Errorf("got %q, %+v", out, answer)
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"", "", true}, {"", "x", false}, {"a*c", "abbbc", true}, {"a*c", "abbbd", false},
		{"*/bin/*", "/usr/bin/x", true}, {"a?c", "ac", false}, {"*a*b*", "xxaxxbxx", true}, {"*ab", "aab", true}, {"x**", "x", true},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q): got %v", tt.pattern, tt.s, got)
		}
	}
}

// FuzzLine renders any bytes: always one line, always JSON, never an escape sequence.
func FuzzLine(f *testing.F) {
	f.Add("exec", "/bin/sh", "a\x1b]0;x\a", "\xff\xfe", "name")
	f.Add("", "", "\u2028\u202e", "\x00\n", "type")
	f.Fuzz(func(t *testing.T, kind, image, arg, text, name string) {
		r := &recorder.Record{
			Type: kind, Process: &recorder.Process{Described: true, Image: image, Argv: []string{arg}, User: text},
			Flow: &event.Flow{Name: text},
			Attrs: []recorder.Attr{
				{Name: name, Kind: recorder.KindText, Text: text}, {Name: name, Kind: recorder.KindBytes, Text: text},
				{Name: name, Kind: recorder.KindTexts, List: []string{arg, text}},
			},
		}
		line := jsonLine(nil, r)
		if !json.Valid(line) {
			t.Fatalf("no JSON: %q", line)
		}
		for _, out := range [][]byte{line, tableLine(nil, r)} {
			if bytes.Count(out, []byte("\n")) != 1 || bytes.ContainsAny(out, "\x1b\r\x00\x07\u202e\u009b") {
				t.Fatalf("not one safe line: %q", out)
			}
		}
	})
}
