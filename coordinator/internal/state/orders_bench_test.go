package state_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// BenchmarkOrder is what a node does for one order to a thousand hosts: it goes out
// with the second signature, and every host answers. Every node does it, one entry
// after another, so that this is what an order's speed ends at.
func BenchmarkOrder(b *testing.B) {
	const hosts, inEntry = 1000, 125 // answers that come together, near 64 KiB
	l := fleet(b, hosts)
	names := make([]string, hosts)
	for i := range names {
		names[i] = hostName(i)
	}
	boot, sequence := []byte("0123456789abcdef"), uint64(0)
	var out, answers time.Duration
	for i := 0; b.Loop(); i++ {
		for _, action := range []sensorv1.Action{isolate, release} {
			operation := fmt.Sprintf("op-%s-%d", action, i)
			state := applied
			if action == release {
				state = released
			}
			b.StopTimer()
			l.want("", request(action, operation, timed(0, 2), names...))
			b.StartTimer()
			began := time.Now()
			l.want("", approve(operation, "bob"))
			out += time.Since(began)
			began = time.Now()
			for first := 0; first < hosts; first += inEntry {
				in := &raftv1.Ingest{}
				for _, name := range names[first : first+inEntry] {
					in.Batches = append(in.Batches, &raftv1.HostBatch{Host: name, Batch: &sensorv1.Batch{Boot: boot, Prev: sequence, Records: []*sensorv1.Record{
						{Sequence: sequence + 1, Time: now, Body: &sensorv1.Record_Isolation{Isolation: &sensorv1.IsolationStatus{
							Operation: operation, State: state, AppliedAt: now, LeaseExpires: now, Detail: strings.Repeat("d", 200), SelfTest: strings.Repeat("s", 100)}}}}}})
				}
				l.want("", command(in))
			}
			answers += time.Since(began)
			sequence++
		}
	}
	per := float64(2*hosts*b.N) * 1000
	b.ReportMetric(float64(out)/per, "µs/host-ordered")
	b.ReportMetric(float64(answers)/per, "µs/host-answered")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOperation is one look of a waiting operator at an order to a thousand hosts.
func BenchmarkOperation(b *testing.B) {
	const hosts = 1000
	l := fleet(b, hosts)
	names := make([]string, hosts)
	for i := range names {
		names[i] = hostName(i)
	}
	l.want("", request(isolate, "op-1", timed(0, 2), names...))
	l.want("", approve("op-1", "bob"))
	for b.Loop() {
		if rows, err := l.db.Operation(b.Context(), "op-1"); err != nil || len(rows) != hosts {
			b.Fatalf("%d rows, %v", len(rows), err)
		}
	}
}
