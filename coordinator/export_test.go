package coordinator_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/export"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// lake is a sink that keeps what each id held, and loses every third answer.
type lake struct {
	mu        sync.Mutex
	raw       map[string]string
	rows      int // with those that came twice
	inserts   int
	different []string // ids that came with another content
}

func (l *lake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var row struct {
			ID  string `json:"id"`
			Raw string `json:"raw"`
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.rows++
		if before, known := l.raw[row.ID]; known && before != row.Raw {
			l.different = append(l.different, row.ID)
		}
		l.raw[row.ID] = row.Raw
	}
	if l.inserts++; l.inserts%3 == 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// has is how many ids of a kind came.
func (l *lake) has(prefix string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.raw {
		if strings.HasPrefix(id, prefix) {
			n++
		}
	}
	return n
}

// Ensure everything that was acknowledged comes to a sink although the leader ends in the
// middle and answers get lost, that what comes twice has one id and one content, and that a
// leader without the sink says so.
func TestExportFailover(t *testing.T) {
	const batches, each = 40, 25
	sink := &lake{raw: make(map[string]string)}
	server := httptest.NewServer(sink)
	t.Cleanup(server.Close)
	c := startClusterOf(t, 3, func(cfg *coordinator.Config) {
		cfg.Export = export.Sinks{{Name: "lake", ClickHouse: &export.ClickHouseConfig{URL: server.URL}}}
	})
	sensor, boot := c.enrol(0), newBoot()
	var sequence uint64
	tell := func(at, batches int) {
		session, _ := sensor.open(c.nodes[at].cfg.Advertise, boot)
		for range batches {
			var records []*sensorv1.Record
			for i := range uint64(each) {
				records = append(records, finding(sequence+i+1, &sensorv1.Finding{Title: "Shell from a service", Severity: "low", Kind: "rule", Score: 1, Storyline: "10.1"}))
			}
			session.batch(boot, sequence, records...)
			sequence += each
			session.wantAck(sequence)
		}
	}
	leader := func() (at int) {
		eventually(t, "a leader", func() error {
			for i, n := range c.nodes {
				if id, ok := n.leads(); ok && id == n.cfg.ID {
					at = i
					return nil
				}
			}
			return fmt.Errorf("none")
		})
		return at
	}
	first := leader()
	tell((first+1)%3, batches/2)
	eventually(t, "the first findings in the sink", func() error {
		if n := sink.has("finding/"); n == 0 {
			return fmt.Errorf("none came")
		}
		return nil
	})
	gone := c.nodes[first]
	gone.stop()
	c.nodes = append(c.nodes[:first:first], c.nodes[first+1:]...)
	c.connect()
	leader()
	tell(0, batches/2)
	eventually(t, "all findings in the sink", func() error {
		if n := sink.has("finding/"); n != batches*each {
			return fmt.Errorf("%d of %d", n, batches*each)
		}
		return nil
	})
	eventually(t, "the audit in the sink", func() error {
		if n := sink.has("audit/"); n < len(c.audited()) {
			return fmt.Errorf("%d of %d", n, len(c.audited()))
		}
		return nil
	})
	sink.mu.Lock()
	t.Logf("%d rows for %d ids in %d inserts, of which every third lost its answer", sink.rows, len(sink.raw), sink.inserts)
	if len(sink.different) > 0 || sink.rows <= len(sink.raw) {
		t.Errorf("%d ids came with another content; %d rows, %d ids", len(sink.different), sink.rows, len(sink.raw))
	}
	sink.mu.Unlock()

	last := leader()
	cfg := c.nodes[last].cfg
	for _, other := range c.nodes {
		other.stop()
	}
	gone.cfg.Export, cfg.Export = nil, nil
	c.nodes = []*testNode{start(t, gone.cfg), start(t, cfg)}
	c.connect()
	eventually(t, "the status", func() error {
		status, err := c.api.Status(t.Context())
		if err == nil && !strings.Contains(strings.Join(status.GetProblems(), "\n"), "leads and has no sink lake in its coordinator.yaml") {
			err = fmt.Errorf("problems: %q", status.GetProblems())
		}
		return err
	})
}
