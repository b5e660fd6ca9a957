package clusterlab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// suspected waits until the cluster tells exactly this of its sensors' own conduct: for each
// host the kinds, each once. Who is not in it must not be suspected.
func (c *trio) suspected(t *testing.T, want map[string][]string) {
	t.Helper()
	c.until(15*time.Second, fmt.Sprintf("the findings %v about sensors", want), func(ctx context.Context) (bool, error) {
		got, err := c.suspects(ctx)
		return err == nil && reflect.DeepEqual(got, want), fmt.Errorf("told is %v (%v)", got, err)
	})
}

func (c *trio) suspects(ctx context.Context) (map[string][]string, error) {
	var all []struct {
		Host     string `json:"host"`
		Kind     string `json:"kind"`
		Evidence struct {
			Rule string `json:"rule"`
		} `json:"evidence"`
	}
	if err := c.JSON(ctx, &all, "finding", "list", "--limit", "1000"); err != nil {
		return nil, err
	}
	got := map[string][]string{}
	for _, f := range all {
		if f.Kind == "suspect-sensor" {
			got[f.Host] = append(got[f.Host], f.Evidence.Rule)
		}
	}
	for _, kinds := range got {
		slices.Sort(kinds)
	}
	return got, nil
}

// Ensure each kind of lie of an enrolled host is a finding about that host, with its kind, and
// that what honest sensors go through is none: a spool of a month, a clock that was wrong, a
// dead one, a spool that overflowed, records that come again.
//
// A sensor that sends without end is not among them: it is told when it was held back for a
// quarter of an hour (coordinator/internal/ingest's tests).
func TestClusterTellsLies(t *testing.T) {
	c := newTrio(t, 1, "")
	writers, stop := c.write(t, 2, 200*time.Millisecond)
	const day, years = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	honest := map[string]func(*liar){
		"a spool of a month, then now": func(l *liar) { l.summaries(-30*day, -20*day, -10*day, 0) },
		"a clock set wrong and right":  func(l *liar) { l.summaries(0, -years, 0, -2*day, 0) },
		"boots with a dead clock": func(l *liar) {
			for i := range 6 {
				l.boot = []byte(fmt.Sprintf("boot %011d", i))
				l.seq = 0
				l.summaries(-years, 0)
			}
		},
		"a spool that overflowed": func(l *liar) {
			l.records(&sensorv1.Record{Sequence: 1, Time: time.Now().UnixNano(), Body: count().Body})
			l.records(&sensorv1.Record{Sequence: 1_000_000, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Summary{Summary: &sensorv1.Summary{
				Losses: []*sensorv1.Loss{{Where: "spool", Cause: "full:bulk", Count: 999_998}}}}})
		},
		"records that come again": func(l *liar) {
			batch := l.batch(news(0, 9000))
			for range 3 { // more than a flood, were each counted
				l.sends(batch)
			}
		},
		"behind a restored cluster": func(l *liar) { l.behind(4) },
	}
	hostile := map[string]struct {
		lie  func(*liar)
		kind string
	}{
		"times of next year":           {func(l *liar) { l.summaries(365 * day) }, "time"},
		"times that go back and forth": {func(l *liar) { l.summaries(0, -years, 0, -years, 0, -years, 0, -years) }, "clock"},
		"a leap of sequences": {func(l *liar) {
			l.records(&sensorv1.Record{Sequence: 1 << 40, Time: time.Now().UnixNano(), Body: count().Body})
		}, "sequence"},
		"never from where the node is":   {func(l *liar) { l.behind(40) }, "sequence"},
		"a flood of behaviours":          {func(l *liar) { l.floods(false) }, "behaviour-flood"},
		"a flood, a session a batch":     {func(l *liar) { l.floods(true) }, "behaviour-flood"},
		"a finding in the node's name":   {func(l *liar) { l.records(l.finding("sil-aaaaaaaaaaaaaaaa", "rule")) }, "forged"},
		"a finding of the node's kind":   {func(l *liar) { l.records(l.finding("01JABCDEFGHJKMNPQRSTVWXYZ0", "suspect-sensor")) }, "forged"},
		"records whose sequences fall":   {func(l *liar) { l.breaks(&sensorv1.Record{Sequence: 9}, &sensorv1.Record{Sequence: 8}) }, "malformed"},
		"a batch without a single thing": {func(l *liar) { l.breaks() }, "malformed"},
	}
	for _, name := range slices.Sorted(maps.Keys(honest)) {
		l := c.liar(t)
		t.Logf("%s: %s", l.id, name)
		honest[name](l)
	}
	want := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(hostile)) {
		l := c.liar(t)
		t.Logf("%s: %s", l.id, name)
		hostile[name].lie(l)
		want[l.id] = []string{hostile[name].kind}
		if name == "a finding of the node's kind" {
			// It is kept as the host's word, and so listed as one of the kind.
			want[l.id] = append([]string{""}, want[l.id]...)
		}
	}
	c.suspected(t, want)
	stop()
	c.countedOnce(t, writers)
}

// liar is a host that sends what it likes and expects to be answered.
type liar struct {
	*raw
	t      *testing.T
	listen string
}

func (c *trio) liar(t *testing.T) *liar {
	t.Helper()
	l := &liar{c.enrolRaw(t, "liar"), t, c.Nodes[0].Listen}
	l.again()
	return l
}

// again begins another session.
func (l *liar) again() {
	l.t.Helper()
	l.close()
	if err := l.open(l.t.Context(), l.listen); err != nil {
		l.t.Fatal(err)
	}
}

// sends gets a batch acknowledged.
func (l *liar) sends(batch *sensorv1.Batch) {
	l.t.Helper()
	m, err := l.send(batch, 10*time.Second)
	if err != nil || m.GetAck() == nil {
		l.t.Fatalf("%s: %v, %v", l.id, m, err)
	}
	l.seq = m.GetAck().GetSequence()
}

// records are sent as they are, behind what is stored.
func (l *liar) records(records ...*sensorv1.Record) {
	l.t.Helper()
	l.sends(&sensorv1.Batch{Boot: l.boot, Prev: l.seq, Records: records})
}

// summaries are sent one by one, each so far from now.
func (l *liar) summaries(times ...time.Duration) {
	l.t.Helper()
	for _, at := range times {
		l.records(&sensorv1.Record{Sequence: l.seq + 1, Time: time.Now().Add(at).UnixNano(), Body: count().Body})
	}
}

// behind sends batches that do not follow what is stored, and goes on as it was.
func (l *liar) behind(times int) {
	l.t.Helper()
	for range times {
		m, err := l.send(&sensorv1.Batch{Boot: l.boot, Prev: l.seq + 1000, Records: []*sensorv1.Record{{Sequence: l.seq + 1001, Time: time.Now().UnixNano(), Body: count().Body}}}, 10*time.Second)
		if err != nil || m.GetResume() == nil {
			l.t.Fatalf("%s: %v, %v, want it told where to resume", l.id, m, err)
		}
	}
	l.summaries(0)
}

// floods brings more new behaviours than an hour may have.
func (l *liar) floods(anew bool) {
	l.t.Helper()
	for from := 0; from < 24_000; from += 3000 {
		if anew && from > 0 {
			l.again()
		}
		l.sends(l.batch(news(from, 3000)))
	}
}

func (l *liar) finding(id, kind string) *sensorv1.Record {
	return &sensorv1.Record{Sequence: l.seq + 1, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
		Id: id, Time: time.Now().UnixNano(), Kind: kind, Severity: "informational", Title: "nothing", Storyline: "1.1"}}}
}

// breaks sends what ends the session.
func (l *liar) breaks(records ...*sensorv1.Record) {
	l.t.Helper()
	_ = l.stream.SetDeadline(time.Now().Add(10 * time.Second))
	err := frame.Write(l.stream, &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Batch{Batch: &sensorv1.Batch{Boot: l.boot, Prev: l.seq, Records: records}}})
	for err == nil {
		err = frame.Read(l.stream, &sensorv1.CoordinatorMessage{})
	}
	l.t.Logf("%s: the node said: %v", l.id, err)
}

// news is a summary with new behaviours, numbered from a number on.
func news(from, n int) *sensorv1.Record {
	s := &sensorv1.Summary{}
	for i := range n {
		key := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(from+i)))
		s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{Key: key[:16], Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC,
			Subject: []byte("/bin/sh"), Object: []byte(fmt.Sprintf("/tmp/%d", from+i)), FirstSeen: 1})
	}
	return &sensorv1.Record{Body: &sensorv1.Record_Summary{Summary: s}}
}
