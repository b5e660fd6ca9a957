package correlate

import (
	"fmt"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// busy is a window of campaigns of four hosts each, which three hops join, and what is open of them.
func busy(b *testing.B, edges int) (*window, []*raftv1.Incident) {
	b.Helper()
	w := newWindow()
	for i := range edges / 3 {
		addCampaign(w, i)
	}
	return w, apply(nil, planned(w, nil, facts{}))
}

// addCampaign has an intruder go from a first host over two to a fourth.
func addCampaign(w *window, n int) {
	at := func(hop int) string { return fmt.Sprintf("10.%d.%d.%d", n>>6&0xff, n&0x3f, hop+1) }
	var came *sensorv1.Flow
	for hop := range 4 {
		host := fmt.Sprintf("c%d-%d", n, hop)
		options := []option{severity("high")}
		if came != nil {
			options = append(options, cameBy(came))
		}
		if hop < 3 {
			port := uint32(4000 + hop)
			options = append(options, sends(tcp(false, at(hop), port, at(hop+1), 22, hop)))
			came = tcp(true, at(hop+1), 22, at(hop), port, hop)
		}
		w.addFinding(row(host, "s", hop, options...))
	}
}

// BenchmarkEdge is what one more hop of a campaign costs the leader when so many are known: it
// is taken in, and what it joins is planned.
func BenchmarkEdge(b *testing.B) {
	for _, edges := range []int{300, 3000} {
		b.Run(fmt.Sprint(edges), func(b *testing.B) {
			w, open := busy(b, edges)
			if len(open) == 0 {
				b.Fatal("no campaign is an incident")
			}
			l := newLedger(open)
			for n := edges; b.Loop(); n++ {
				clear(w.changed)
				addCampaign(w, n%20_000)
				for _, put := range plan(w.components(l, 120), l, facts{}) {
					l.put(put.GetIncident())
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/3, "µs/edge")
		})
	}
}

// BenchmarkTakeOver is what a new leader reads into its window before it can plan: more
// storylines than the window holds.
func BenchmarkTakeOver(b *testing.B) {
	const findings = 50_000
	for b.Loop() {
		w := newWindow()
		for i := range findings {
			r := row(fmt.Sprintf("h%d", i%10_000), fmt.Sprint(i/10_000), 0, score(10))
			r.StoredAt = t0.Add(time.Duration(i) * time.Millisecond).UnixNano()
			w.addFinding(r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/findings, "µs/finding")
	b.ReportMetric(0, "ns/op")
}
