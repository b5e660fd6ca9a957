package ingest

import (
	"context"
	"math"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// refusals are the codes that a session or an enrolment is refused with; any other one,
// which the log may give, is counted with those that are not foreseen.
var refusals = []string{
	"bad-certificate", "bad-hello", "bad-request", "busy", "clock", "hello-expected", "internal", "no-leader", "node-exists", "rate-limited",
	"unknown-host", "unknown-protocol",
	state.RejectBadToken, state.RejectTokenExpired, state.RejectTokenUsed, state.RejectTokenKind, state.RejectStaleSession, meter.Other,
}

// taken counts what a batch brought. A host can say that it lost any number, but not
// make a sum of it that is none.
func (s *Server) taken(batch *sensorv1.Batch, size int) {
	m := s.cfg.Meter
	m.Batches.Inc()
	m.BatchBytes.Add(float64(size))
	var summaries, findings, containments, notes, lost float64
	for _, r := range batch.GetRecords() {
		switch body := r.GetBody().(type) {
		case *sensorv1.Record_Summary:
			summaries++
			for _, l := range body.Summary.GetLosses() {
				lost += float64(min(l.GetCount(), math.MaxUint32))
			}
		case *sensorv1.Record_Finding:
			findings++
		case *sensorv1.Record_Isolation:
			containments++
		case *sensorv1.Record_FlowNote:
			notes++
		}
	}
	for _, c := range []struct {
		to interface{ Add(float64) }
		n  float64
	}{{m.Summaries, summaries}, {m.Findings, findings}, {m.Containments, containments}, {m.FlowNotes, notes}, {m.EventsLost, lost}} {
		if c.n > 0 {
			c.to.Add(c.n)
		}
	}
}

func (s *Server) figures() {
	s.cfg.Meter.Read(meter.Cheap, s.readFigures,
		meter.Family{Name: "vedette_sessions", Help: "Sessions of sensors at this node."},
		meter.Family{Name: "vedette_sessions_replaced_total", Help: "Sessions that ended because the same host opened another one here."},
		meter.Family{Name: "vedette_sessions_slow_total", Help: "Sessions that ended because the sensor did not read."},
		meter.Family{Name: "vedette_sessions_malformed_total", Help: "Sessions and enrolments that ended because of what was sent."},
		meter.Family{Name: "vedette_certificate_renewals_total", Help: "Certificates of hosts that were renewed."},
		meter.Family{Name: "vedette_enrolments_total", Help: "Hosts and nodes that were enrolled."},
		meter.Family{Name: "vedette_enrolments_refused_total", Help: "Enrolments that were refused."},
		meter.Family{Name: "vedette_refusals_total", Help: "Sessions and enrolments that were refused.", Label: "code", Values: refusals},
		meter.Family{Name: "vedette_uncommitted_bytes", Help: "Batches that wait for the log at this node."},
	)
}

func (s *Server) readFigures(_ context.Context, set meter.Set) {
	stats := s.Stats()
	set("vedette_sessions", "", float64(stats.Sessions))
	for name, n := range map[string]uint64{
		"vedette_sessions_replaced_total": stats.Replaced, "vedette_sessions_slow_total": stats.Slow, "vedette_sessions_malformed_total": stats.Malformed,
		"vedette_certificate_renewals_total": stats.Renewals, "vedette_enrolments_total": stats.Enrolled,
		"vedette_enrolments_refused_total": s.counts.enrolRefused.Load(),
	} {
		set(name, "", float64(n))
	}
	for _, code := range refusals {
		set("vedette_refusals_total", code, 0)
	}
	for code, n := range stats.Refused {
		set("vedette_refusals_total", code, float64(n))
	}
	s.batcher.mu.Lock()
	held := s.batcher.inflight
	s.batcher.mu.Unlock()
	set("vedette_uncommitted_bytes", "", float64(held))
}
