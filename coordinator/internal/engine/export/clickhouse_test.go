package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

func someRecords(t *testing.T, n int) (out []Record) {
	t.Helper()
	for i := range n {
		r, err := ofFinding("c-1", &operatorv1.FindingRow{Host: "h-1", HostName: "web1", Finding: aFinding(fmt.Sprintf("f-%d", i), epoch)})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	r, err := ofIncident("c-1", anIncident())
	if err != nil {
		t.Fatal(err)
	}
	return append(out, r)
}

func secretFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t *testing.T, cfg SinkConfig) Sink {
	t.Helper()
	sink, err := open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	return sink
}

// Ensure exactly one INSERT goes out, with each record as a row of the documented columns,
// and the password in a header alone.
func TestInsert(t *testing.T) {
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, body = r, must(io.ReadAll(r.Body))
	}))
	defer server.Close()
	sink := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: server.URL, User: "vedette", PasswordFile: secretFile(t, "s3cret\n", 0o600), Table: "r2"}})
	if err := sink.Send(t.Context(), someRecords(t, 2)); err != nil {
		t.Fatal(err)
	}
	q := got.URL.Query()
	if got.Method != http.MethodPost || q.Get("query") != "INSERT INTO vedette.r2 FORMAT JSONEachRow" || q.Get("wait_end_of_query") != "1" {
		t.Errorf("%s %s", got.Method, got.URL)
	}
	if got.Header.Get("X-ClickHouse-User") != "vedette" || got.Header.Get("X-ClickHouse-Key") != "s3cret" || strings.Contains(got.URL.String(), "s3cret") {
		t.Errorf("headers %v, %s", got.Header, got.URL)
	}
	lines := bytes.Split(bytes.TrimSpace(body), []byte("\n"))
	if len(lines) != 3 {
		t.Fatalf("%d lines: %s", len(lines), body)
	}
	doc := string(must(os.ReadFile("../../../../docs/export.md")))
	var row map[string]string
	if err := json.Unmarshal(lines[0], &row); err != nil {
		t.Fatal(err)
	}
	for column := range row {
		if !strings.Contains(doc, "\n        "+column+" ") {
			t.Errorf("docs/export.md's table has no column %s", column)
		}
	}
	if row["id"] != "finding/f-0" || row["type"] != "finding" || row["time"] != "1700000000000000000" || row["host_name"] != "web1" || row["kind"] != "rule" || !strings.Contains(row["raw"], `"argv":["sh","-c"]`) {
		t.Errorf("row: %v", row)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Ensure every answer but a whole 200 without words is a failure that says what to do, and
// that nothing of it is the password.
func TestInsertFails(t *testing.T) {
	const password = "s3cret-9f2"
	hang := make(chan struct{})
	defer close(hang)
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		says   []string
	}{
		"500": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "Code: 241. DB::Exception: Memory limit\x1b[2J%s", strings.Repeat("x", 1<<20))
		}, []string{"500", "Code: 241", "look at its log, memory"}},
		"no table": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "Code: 60. DB::Exception: Table does not exist")
		}, []string{"make vedette.records as docs/export.md says"}},
		"auth": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-ClickHouse-Exception-Code", "516")
			w.WriteHeader(http.StatusForbidden)
		}, []string{"compare user and password_file"}},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, []string{"307", "nothing is followed"}},
		"an error behind a 200": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Code: 27. DB::Exception: Cannot parse") },
			[]string{"and then: Code: 27", "compare the columns"}},
		"half a body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "  ")
		}, []string{"its answer broke off"}},
		"reads half and hangs up": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 100)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}, []string{"inserting into vedette.records", "look whether it runs"}},
		"no answer": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, []string{"no answer in time"}},
		"an endless answer": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, []string{"and then:"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(tt.answer))
			defer server.Close()
			sink := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: server.URL, User: "vedette", PasswordFile: secretFile(t, password, 0o600)}})
			wait := 10 * time.Second
			if name == "no answer" {
				wait = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			err := sink.Send(ctx, someRecords(t, 1))
			sink.Close()
			refused, ok := err.(*refusal)
			if !ok {
				t.Fatalf("got %v", err)
			}
			for _, want := range tt.says {
				if !strings.Contains(refused.Error()+": "+refused.advice, want) {
					t.Errorf("%v: %s; want %q", err, refused.advice, want)
				}
			}
			if strings.Contains(err.Error()+refused.advice, password) || len(err.Error()) > 1000 {
				t.Errorf("it says %v", err)
			}
		})
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	sink := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: "http://" + listener.Addr().String()}})
	if err := sink.Send(t.Context(), someRecords(t, 1)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody there: %v", err)
	}
}

// Ensure a server whose certificate nobody vouches for gets nothing, and one that the file
// vouches for does.
func TestInsertTLS(t *testing.T) {
	had := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { had++; _, _ = io.Copy(io.Discard, r.Body) }))
	defer server.Close()
	sink := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: server.URL}})
	err := sink.Send(t.Context(), someRecords(t, 1))
	if refused, ok := err.(*refusal); !ok || !strings.Contains(refused.advice, "tls.ca") || had > 0 {
		t.Errorf("%v, %d requests", err, had)
	}
	sink = mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: server.URL, TLS: &TLSConfig{CA: pemFile(t, server.Certificate().Raw)}}})
	if err := sink.Send(t.Context(), someRecords(t, 1)); err != nil || had != 1 {
		t.Errorf("%v, %d requests", err, had)
	}
}

// Ensure the documented table of a real server takes what is sent, and drops what comes
// twice. VEDETTE_CLICKHOUSE is http://USER:PASSWORD@HOST:PORT on the loopback, of a server in which a
// database "vedette" may be made and removed.
func TestClickHouse(t *testing.T) {
	text := os.Getenv("VEDETTE_CLICKHOUSE")
	if text == "" {
		t.Skip("SKIP: needs a ClickHouse server (VEDETTE_CLICKHOUSE=http://USER:PASSWORD@127.0.0.1:8123)")
	}
	at, err := url.Parse(text)
	if err != nil || !loopback(at.Hostname()) {
		t.Fatalf("VEDETTE_CLICKHOUSE: %v, or not on the loopback", err)
	}
	password, _ := at.User.Password()
	user := at.User.Username()
	at.User = nil
	ask := func(query string) string {
		t.Helper()
		request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, at.String(), strings.NewReader(query)))
		request.SetBasicAuth(user, password)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		said := string(must(io.ReadAll(answer.Body)))
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", query, said)
		}
		return strings.TrimSpace(said)
	}
	defer http.DefaultClient.CloseIdleConnections()
	_, ddl, _ := strings.Cut(string(must(os.ReadFile("../../../../docs/export.md"))), "    CREATE TABLE")
	ddl, _, _ = strings.Cut(ddl, "\n\n")
	var plain []string
	for line := range strings.Lines("CREATE TABLE" + ddl) {
		line, _, _ = strings.Cut(line, "--") // old servers know no comments there
		plain = append(plain, line)
	}
	ask("DROP DATABASE IF EXISTS vedette")
	sink := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: at.String(), User: user, PasswordFile: secretFile(t, password, 0o600)}})
	err = sink.Send(t.Context(), someRecords(t, 1))
	if refused, ok := err.(*refusal); !ok || !strings.Contains(refused.advice, "make vedette.records") {
		t.Errorf("without a table: %v", err)
	}
	ask("CREATE DATABASE vedette")
	defer ask("DROP DATABASE vedette")
	ask(strings.Join(plain, "\n"))
	for range 2 {
		if err := sink.Send(t.Context(), someRecords(t, 500)); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask("SELECT count() FROM vedette.records FINAL"); got != "501" {
		t.Errorf("%s records, want 501", got)
	}
	records := someRecords(t, 1)
	if got := ask("SELECT raw FROM vedette.records FINAL WHERE id = 'finding/f-0' FORMAT TabSeparatedRaw"); got != string(records[0].JSON) {
		t.Errorf("got %s, want %s", got, records[0].JSON)
	}
	if got := ask("SELECT subject, argMax(kind, version) AS status, argMax(title, version) FROM vedette.records WHERE type = 'incident' GROUP BY subject"); got != "inc-1\topen\tt" {
		t.Errorf("the documented query answers %q", got)
	}
	wrong := mustOpen(t, SinkConfig{ClickHouse: &ClickHouseConfig{URL: at.String(), User: user, PasswordFile: secretFile(t, "no", 0o600)}})
	err = wrong.Send(t.Context(), records)
	if refused, ok := err.(*refusal); !ok || !strings.Contains(refused.advice, "compare user and password_file") {
		t.Errorf("a wrong password: %v", err)
	}
	t.Logf("ClickHouse %s", ask("SELECT version()"))
}
