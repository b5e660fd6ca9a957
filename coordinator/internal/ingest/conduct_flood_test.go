package ingest

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// keptLog keeps what was proposed.
type keptLog struct {
	fakeLog
	kept []*raftv1.Command
}

func (l *keptLog) Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error) {
	res, err := l.fakeLog.Propose(ctx, cmd)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, proto.CloneOf(cmd))
	return res, err
}

// reported counts the reports of isolations that the log has, and their bytes.
func (l *keptLog) reported() (reports, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cmd := range l.kept {
		for _, b := range cmd.GetIngest().GetBatches() {
			for _, r := range b.GetBatch().GetRecords() {
				if r.GetIsolation() != nil {
					reports++
					bytes += proto.Size(r.GetIsolation())
				}
			}
		}
	}
	return reports, bytes
}

// Ensure what stays in the state for ever of one host's reports is bounded and told, whatever it
// reports, and that a host whose isolation is broken again and again is believed.
func TestReportsOfIsolations(t *testing.T) {
	for name, c := range map[string]struct {
		each    *sensorv1.IsolationStatus
		batches int
		size    int
		every   time.Duration
		flood   bool
	}{
		"orders to a fleet":         {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED}, batches: 1, size: 20},
		"broken for an hour":        {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED, Detail: "changed by another program, 5 times"}, batches: 720, size: 1, every: 5 * time.Second},
		"broken for a day":          {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_APPLIED}, batches: 24 * 72, size: 10, every: 50 * time.Second},
		"ends of what never was":    {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_RELEASED}, batches: 10, size: maxBatchRecords, flood: true},
		"its own, which failed":     {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_FAILED, Local: true}, batches: 10, size: maxBatchRecords, flood: true},
		"few, of very many letters": {each: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_RELEASED, Detail: strings.Repeat("x", 60<<10)}, batches: 10, size: 10, flood: true},
	} {
		t.Run(name, func(t *testing.T) {
			log, now := &keptLog{}, time.Unix(1_700_000_000, 0)
			s, n, node, sensor := taker(t, log, func() time.Time { return now })
			s.batcher.cfg.CoalesceDelay = 0
			go answers(sensor)
			for i := range c.batches {
				b := bodies(c.size, func() *sensorv1.Record {
					return &sensorv1.Record{Body: &sensorv1.Record_Isolation{Isolation: proto.CloneOf(c.each)}}
				})
				for _, r := range b.GetRecords() {
					r.Sequence += uint64(i * c.size)
				}
				b.Prev = uint64(i * c.size)
				if err := s.batch(t.Context(), n, node, b, proto.Size(b)); err != nil {
					t.Fatal(err)
				}
				now = now.Add(c.every)
			}
			reports, bytes := log.reported()
			if !c.flood && reports != c.batches*c.size {
				t.Errorf("%d of %d honest reports are kept", reports, c.batches*c.size)
			}
			if c.flood && (reports > maxReports || bytes > maxReports<<10 || reports == 0) {
				t.Errorf("%d reports of %d bytes are kept", reports, bytes)
			}
			var told []string
			for _, one := range s.suspects.take() {
				told = append(told, one.GetConduct())
				if !strings.Contains(one.GetDetail(), "reports of isolations") {
					t.Errorf("it is told as %q", one.GetDetail())
				}
			}
			if got := strings.Join(told, " "); c.flood != (got == state.SuspectFlood) || !c.flood && got != "" {
				t.Errorf("told: %q", got)
			}
		})
	}
}

// Ensure a host cannot push out in a moment what was found about it, and is told long before; and
// that one on which much is found is held back at no time.
func TestPushingOutFindings(t *testing.T) {
	const stored = store.MaxFindings + 256
	for name, c := range map[string]struct {
		batches, size int
		every         time.Duration
		told          bool
		least, most   time.Duration // held back
	}{
		"a batch of nothing else":       {batches: 1, size: maxBatchRecords},
		"a spool of an attack":          {batches: 3, size: maxBatchRecords},
		"thirty a minute":               {batches: 24 * 60, size: 30, every: time.Minute},
		"as many as a sensor may make":  {batches: 24 * 60, size: 120, every: time.Minute, told: true},
		"all that a host has is pushed": {batches: stored/maxBatchRecords + 1, size: maxBatchRecords, told: true, least: 15 * time.Minute, most: 30 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			did, now, held, told := &conduct{}, time.Unix(1_700_000_000, 0), time.Duration(0), false
			for i := range uint64(c.batches) {
				b := bodies(c.size, findings)
				b.Prev = i * uint64(c.size)
				for _, r := range b.GetRecords() {
					r.Sequence += b.GetPrev()
				}
				if flood := did.admit(b, proto.Size(b), now); flood != "" {
					told = true
					if !strings.Contains(flood, "findings") {
						t.Errorf("it is told as %q", flood)
					}
				} else if (i+1)*uint64(c.size) > maxFindings && c.every == 0 {
					t.Errorf("%d in a moment are not told", (i+1)*uint64(c.size))
				}
				did.odd(b, false, now)
				// Records that come again are stored already.
				if flood := did.admit(b, 0, now); flood != "" {
					t.Errorf("told of what came again: %q", flood)
				}
				held += did.debt(now)
				now = now.Add(did.debt(now) + c.every)
			}
			if told != c.told || held < c.least || held > c.most {
				t.Errorf("told: %v, held back for %s", told, held)
			}
		})
	}
}
