package control

import (
	"context"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/nodelist"
)

func (s *Server) figures() {
	s.cfg.Meter.Read(meter.Costly, s.readState,
		meter.Family{Name: "vedette_hosts", Help: "Enrolled hosts by state.", Label: "state", Values: store.HostStates},
		meter.Family{Name: "vedette_hosts_isolated", Help: "Hosts that are isolated."},
		meter.Family{Name: "vedette_containments", Help: "Hosts' parts of orders by state.", Label: "state", Values: store.ContainmentStates},
		meter.Family{Name: "vedette_operations", Help: "Orders as a whole by state.", Label: "state", Values: store.OperationStates},
		meter.Family{Name: "vedette_incidents_open", Help: "Incidents that nobody has closed."},
		meter.Family{Name: "vedette_audit_entries", Help: "Entries of the audit record."},
	)
	s.cfg.Meter.Read(meter.Cheap, s.readOwn,
		meter.Family{Name: "vedette_certificate_expiry_seconds", Help: "Time until it ends; negative: since it ended.", Label: "certificate",
			Values: []string{"node", "cluster", "operators", "node-list"}},
		meter.Family{Name: "vedette_watchers", Help: "Operators that watch at this node."},
		meter.Family{Name: "vedette_watch_events_dropped_total", Help: "Events that were not shown to watchers that read too slowly."},
		meter.Family{Name: "vedette_operator_requests_denied_total", Help: "Requests of operators that were denied."},
		meter.Family{Name: "vedette_operator_handshakes_refused_total", Help: "Connections to the operators' port that ended in the TLS handshake: no operator's certificate."},
	)
}

func (s *Server) readState(ctx context.Context, set meter.Set) {
	f, err := s.cfg.DB.Figures(ctx, s.cfg.Now().Add(-s.cfg.SilentAfter).UnixNano())
	if err != nil {
		return
	}
	for _, by := range []struct {
		name   string
		values []string
		counts map[string]uint64
	}{{"vedette_hosts", store.HostStates, f.Hosts}, {"vedette_containments", store.ContainmentStates, f.Containments}, {"vedette_operations", store.OperationStates, f.Operations}} {
		for _, value := range by.values {
			set(by.name, value, float64(by.counts[value]))
		}
	}
	set("vedette_hosts_isolated", "", float64(f.Isolated))
	set("vedette_incidents_open", "", float64(f.IncidentsOpen))
	set("vedette_audit_entries", "", float64(f.Audit))
}

func (s *Server) readOwn(ctx context.Context, set meter.Set) {
	left := func(end time.Time) float64 { return end.Sub(s.cfg.Now()).Seconds() }
	if certificate, err := s.cfg.Certificate(); err == nil {
		set("vedette_certificate_expiry_seconds", "node", left(certificate.Leaf.NotAfter))
	}
	set("vedette_certificate_expiry_seconds", "cluster", left(s.cfg.Authority.Certificate().NotAfter))
	set("vedette_certificate_expiry_seconds", "operators", left(s.cfg.Operators().NotAfter))
	if signed, err := s.cfg.DB.SignedNodes(ctx); err == nil && signed != nil {
		if list, err := nodelist.Decode(signed.GetPayload()); err == nil {
			set("vedette_certificate_expiry_seconds", "node-list", left(time.Unix(0, list.GetNotAfter())))
		}
	}
	set("vedette_watchers", "", float64(s.watchers.Load()))
	set("vedette_watch_events_dropped_total", "", float64(s.dropped.Load()))
	set("vedette_operator_requests_denied_total", "", float64(s.deniedAll.Load()))
	set("vedette_operator_handshakes_refused_total", "", float64(s.unshaken.Load()))
}
