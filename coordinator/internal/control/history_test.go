package control

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a host's history is answered in the grain that was asked for or the finest that reaches so far,
// page by page with every row once, and says what is kept.
func TestHostHistory(t *testing.T) {
	db := emptyStore(t)
	began := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	now := began.Add(50 * time.Hour)
	s := &Server{cfg: Config{DB: db, Now: func() time.Time { return now }}}
	index := uint64(0)
	at := func(when time.Time, fn func(*store.Tx) error) {
		t.Helper()
		index++
		if err := db.Update(index, func(tx *store.Tx) error { tx.Time = when.UnixNano(); return fn(tx) }); err != nil {
			t.Fatal(err)
		}
	}
	at(began, func(tx *store.Tx) error {
		if err := tx.BeginHistory(); err != nil {
			return err
		}
		return tx.AddHost("h-1", &sensorv1.HostFacts{Name: "web1"}, nil, 1)
	})
	for i := range 300 { // one every ten minutes
		at(began.Add(time.Duration(i)*10*time.Minute), func(tx *store.Tx) error {
			_, err := tx.AddFinding(1, index, 1, &sensorv1.Finding{Id: fmt.Sprintf("f-%d", i)})
			return err
		})
	}
	for _, tt := range []struct {
		name  string
		since time.Duration // before now; 0: not said
		grain string
		want  string
	}{
		{"nothing said", 0, "", "hour 24, 144 findings"},
		{"two hours", 2 * time.Hour, "", "minute 12, 12 findings"},
		{"two days", 48 * time.Hour, "", "hour 48, 288 findings"},
		{"a week", 7 * 24 * time.Hour, "", "day 3, 300 findings"},
		{"minutes", 0, "minute", "minute 6, 6 findings"},
		{"all minutes", 50 * time.Hour, "minute", "minute 300, 300 findings"},
		{"days", 0, "day", "day 3, 300 findings"},
	} {
		r := &operatorv1.GetHostHistoryRequest{Host: "web1", Grain: tt.grain, PageSize: 7}
		if tt.since > 0 {
			r.Since = now.Add(-tt.since).UnixNano()
		}
		rows, findings, last := 0, uint64(0), int64(0)
		for {
			res, err := s.GetHostHistory(t.Context(), r)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			for _, row := range res.GetRows() {
				if row.GetTime() <= last {
					t.Errorf("%s: row %d does not come after the one before", tt.name, rows)
				}
				rows, findings, last = rows+1, findings+row.GetFindings(), row.GetTime()
			}
			r.Grain, r.Since, r.Until, r.PageToken = res.GetGrain(), res.GetSince(), res.GetUntil(), res.GetPageToken()
			if res.GetBegan() != began.UnixNano() || len(res.GetReaches()) != 3 || res.GetReaches()[0].GetOldest() != began.UnixNano() {
				t.Fatalf("%s: began %d, reaches %v", tt.name, res.GetBegan(), res.GetReaches())
			}
			if r.PageToken == "" {
				break
			}
		}
		if got := fmt.Sprintf("%s %d, %d findings", r.GetGrain(), rows, findings); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	// Minutes that began after that time are all that there ever were.
	early, err := s.GetHostHistory(t.Context(), &operatorv1.GetHostHistoryRequest{Host: "h-1", Since: began.Add(-time.Hour).UnixNano(), Until: began.Add(time.Hour).UnixNano()})
	if err != nil || early.GetGrain() != "minute" || len(early.GetRows()) != 6 {
		t.Errorf("since before there was history: %d rows by the %s, %v", len(early.GetRows()), early.GetGrain(), err)
	}
	for name, tt := range map[string]struct {
		r    *operatorv1.GetHostHistoryRequest
		code connect.Code
	}{
		"no such host":      {&operatorv1.GetHostHistoryRequest{Host: "h-2"}, connect.CodeNotFound},
		"no such grain":     {&operatorv1.GetHostHistoryRequest{Host: "h-1", Grain: "week"}, connect.CodeInvalidArgument},
		"the end is before": {&operatorv1.GetHostHistoryRequest{Host: "h-1", Since: 2, Until: 1}, connect.CodeInvalidArgument},
		"before all times":  {&operatorv1.GetHostHistoryRequest{Host: "h-1", Since: -1}, connect.CodeInvalidArgument},
		"another's token":   {&operatorv1.GetHostHistoryRequest{Host: "h-1", PageToken: "!.1"}, connect.CodeInvalidArgument},
	} {
		if _, err := s.GetHostHistory(t.Context(), tt.r); connect.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %v", name, err, tt.code)
		}
	}
}
