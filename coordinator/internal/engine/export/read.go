package export

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// read is what waits behind the feed's place, a page of each kind at most, the place
// behind that, and how many records were removed before.
func (f *feed) read(ctx context.Context) (next *raftv1.ExportPlace, records []Record, lost int64, more bool, err error) {
	db, cluster := f.engine.cfg.DB, f.engine.cfg.Cluster
	next = proto.Clone(f.place).(*raftv1.ExportPlace) //nolint:forcetypeassert // a clone's type is its origin's
	add := func(r Record, err error) error {
		records = append(records, r)
		return err
	}
	if f.cfg.wants(Findings) {
		rows, at, gone, err := db.FindingsAfter(ctx, next.GetFindings(), f.row.FindingsFrom, page)
		if err != nil {
			return nil, nil, 0, false, fmt.Errorf("reading findings: %w", err)
		}
		for _, row := range rows {
			if err := add(ofFinding(cluster, row)); err != nil {
				return nil, nil, 0, false, err
			}
		}
		next.Findings, lost, more = at, lost+gone, more || len(rows) == page
	}
	if f.cfg.wants(Incidents) {
		rows, err := db.IncidentsChanged(ctx, next.GetIncidentIndex(), next.GetIncidentRow(), page)
		if err != nil {
			return nil, nil, 0, false, fmt.Errorf("reading incidents: %w", err)
		}
		for _, row := range rows {
			if err := add(ofIncident(cluster, row)); err != nil {
				return nil, nil, 0, false, err
			}
			next.IncidentIndex, next.IncidentRow = row.Index, row.N
		}
		more = more || len(rows) == page
	}
	if f.cfg.wants(Audit) {
		rows, further, err := db.Audit(ctx, uint64(next.GetAudit()), page) //nolint:gosec // an index of the audit
		if err != nil {
			return nil, nil, 0, false, fmt.Errorf("reading the audit: %w", err)
		}
		for _, row := range rows {
			if err := add(ofAudit(cluster, row)); err != nil {
				return nil, nil, 0, false, err
			}
			next.Audit = int64(row.GetIndex()) //nolint:gosec // as above
		}
		more = more || further
	}
	if f.cfg.wants(Flows) {
		rows, at, gone, err := db.FlowsAfter(ctx, next.GetFlows(), f.row.FlowsFrom, page)
		if err != nil {
			return nil, nil, 0, false, fmt.Errorf("reading flow notes: %w", err)
		}
		for _, row := range rows {
			if err := add(ofFlow(cluster, row)); err != nil {
				return nil, nil, 0, false, err
			}
		}
		next.Flows, lost, more = at, lost+gone, more || len(rows) == page
	}
	return next, records, lost, more, nil
}

// passed is a place with the kinds that a sink does not get at their end.
func (e *Engine) passed(ctx context.Context, at *raftv1.ExportPlace, sink SinkConfig) (*raftv1.ExportPlace, error) {
	end, err := e.cfg.DB.ExportEnd(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the end of what is held: %w", err)
	}
	place := proto.Clone(at).(*raftv1.ExportPlace) //nolint:forcetypeassert // as above
	if !sink.wants(Findings) {
		place.Findings = max(place.GetFindings(), end.GetFindings())
	}
	if !sink.wants(Audit) {
		place.Audit = max(place.GetAudit(), end.GetAudit())
	}
	if !sink.wants(Flows) {
		place.Flows = max(place.GetFlows(), end.GetFlows())
	}
	if !sink.wants(Incidents) && end.GetIncidentIndex() >= place.GetIncidentIndex() {
		place.IncidentIndex, place.IncidentRow = end.GetIncidentIndex(), end.GetIncidentRow()
	}
	return place, nil
}

// waiting is how many records a sink does not have yet, at most (some may have been
// removed), and when the oldest of them was stored (Unix ns; 0: none waits).
func (e *Engine) waiting(ctx context.Context, at *raftv1.ExportPlace, sink SinkConfig) (n, oldest int64, err error) {
	place, err := e.passed(ctx, at, sink)
	if err != nil {
		return 0, 0, err
	}
	end, err := e.cfg.DB.ExportEnd(ctx)
	if err != nil {
		return 0, 0, err
	}
	if n, err = e.cfg.DB.IncidentsWaiting(ctx, place); err != nil {
		return 0, 0, err
	}
	n += max(0, end.GetFindings()-place.GetFindings()) + max(0, end.GetAudit()-place.GetAudit()) + max(0, end.GetFlows()-place.GetFlows())
	if n > 0 {
		oldest, err = e.cfg.DB.ExportOldest(ctx, place)
	}
	return n, oldest, err
}
