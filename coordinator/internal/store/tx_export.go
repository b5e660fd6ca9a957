package store

import "github.com/vedette-edr/vedette/proto/raftv1"

// MaxExports bounds the sinks whose places are remembered: the one that was moved longest
// ago goes.
const MaxExports = 16

const exportColumns = "sink, findings, incident_idx, incident_n, audit, flows, findings_from, flows_from, lost, lost_at, moved_at"

// Export is how far a sink has what it is to have.
type Export struct {
	Sink  string
	Place *raftv1.ExportPlace
	// FindingsFrom and FlowsFrom are the newest rows when it began: what is missing up
	// to them was gone before.
	FindingsFrom, FlowsFrom int64
	// Lost is how many records were removed before the sink had them, and LostAt and
	// MovedAt when that was noted last and when the place moved last (Unix ns).
	Lost, LostAt, MovedAt int64
}

// Export reads it, nil when the sink is not known.
func (tx *Tx) Export(sink string) (e *Export, err error) {
	_, err = tx.one("SELECT "+exportColumns+" FROM exports WHERE sink = ?", func(v []val) {
		e = &Export{Sink: asText(v[0]), Place: &raftv1.ExportPlace{Findings: asInt(v[1]), IncidentIndex: asInt(v[2]), IncidentRow: asInt(v[3]), Audit: asInt(v[4]), Flows: asInt(v[5])},
			FindingsFrom: asInt(v[6]), FlowsFrom: asInt(v[7]), Lost: asInt(v[8]), LostAt: asInt(v[9]), MovedAt: asInt(v[10])}
	}, sink)
	return e, err
}

// BeginExport remembers a sink that has nothing yet.
func (tx *Tx) BeginExport(sink string) error {
	if _, err := tx.exec("DELETE FROM exports WHERE sink IN (SELECT sink FROM exports ORDER BY moved_at DESC, sink LIMIT -1 OFFSET ?)", int64(MaxExports-1)); err != nil {
		return err
	}
	_, err := tx.exec("INSERT INTO exports ("+exportColumns+`) SELECT ?, 0, -1, 0, 0, 0,
		coalesce((SELECT max(n) FROM findings), 0), coalesce((SELECT max(n) FROM flows), 0), 0, 0, ?`, sink, tx.Time)
	return err
}

// MoveExport notes that a sink has everything up to a place, but for what was lost.
func (tx *Tx) MoveExport(sink string, to *raftv1.ExportPlace, lost int64) error {
	_, err := tx.exec(`UPDATE exports SET findings = ?2, incident_idx = ?3, incident_n = ?4, audit = ?5, flows = ?6,
		lost = min(lost + ?7, 1152921504606846976), lost_at = CASE ?7 WHEN 0 THEN lost_at ELSE ?8 END, moved_at = ?8 WHERE sink = ?1`,
		sink, to.GetFindings(), to.GetIncidentIndex(), to.GetIncidentRow(), to.GetAudit(), to.GetFlows(), lost, tx.Time)
	return err
}

// exported says whether any sink was ever begun: from then on incidents say when they changed.
func (tx *Tx) exported() (bool, error) {
	return tx.one("SELECT 1 FROM exports LIMIT 1", func([]val) {})
}

// loseIncidents counts what each sink will not get of the incidents that are about to go:
// their numbers do not tell, as an incident comes again when it changes.
func (tx *Tx) loseIncidents(free string, args ...val) error {
	if some, err := tx.exported(); err != nil || !some {
		return err
	}
	type place struct {
		sink     string
		index, n int64
	}
	var sinks []place
	if err := tx.rows("SELECT sink, incident_idx, incident_n FROM exports ORDER BY sink", func(v []val) error {
		sinks = append(sinks, place{asText(v[0]), asInt(v[1]), asInt(v[2])})
		return nil
	}); err != nil {
		return err
	}
	for _, s := range sinks {
		var lost int64
		if _, err := tx.one("SELECT count(*) FROM incidents WHERE n IN ("+free+") AND (changed, n) > (?4, ?5)",
			func(v []val) { lost = asInt(v[0]) }, append(args, s.index, s.n)...); err != nil {
			return err
		}
		if lost == 0 {
			continue
		}
		if _, err := tx.exec("UPDATE exports SET lost = lost + ?, lost_at = ? WHERE sink = ?", lost, tx.Time, s.sink); err != nil {
			return err
		}
	}
	return nil
}
