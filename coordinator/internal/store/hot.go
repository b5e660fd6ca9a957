package store

import (
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what the writer remembers; beyond, it forgets all and reads again.
const (
	maxHotHosts = 65_536
	maxHotRows  = 16_384 // more hosts than one order can name
)

// hot is what the writer remembers of the rows that every batch and every order asks
// for: each would be a statement a host, and those are most of what an order costs.
//
// Invariant: it says what the tables say, and what the transaction has yet to write. A
// transaction that fails leaves none of it.
type hot struct {
	hosts      map[string]int64  // numbers by id; a host keeps its number for ever
	positions  map[int64]hotBoot // of the boot that a host was last asked for, or wrote
	rows       map[int64][]Row   // what HostRows answers
	behaviours map[int64]int     // how many a host has
	newest     int64             // the highest number of an isolation; 0: not known
	audited    *chainEnd         // the audit's end; nil: not known
	partitions map[string]bool   // those of history that exist
	began      *int64            // when history did; nil: not known
}

type hotBoot struct {
	boot     string
	sequence uint64
	stored   bool
}

func newHot() hot {
	return hot{hosts: make(map[string]int64), positions: make(map[int64]hotBoot), rows: make(map[int64][]Row), behaviours: make(map[int64]int), partitions: make(map[string]bool)}
}

// HostNumber is a host's row number, by its id.
func (tx *Tx) HostNumber(id string) (n int64, ok bool, err error) {
	known := tx.db.hot.hosts
	if n, ok = known[id]; ok {
		return n, true, nil
	}
	ok, err = tx.one("SELECT n FROM hosts WHERE id = ? AND removed = 0", func(v []val) { n = asInt(v[0]) }, id)
	if ok && err == nil {
		if len(known) >= maxHotHosts {
			clear(known)
		}
		known[id] = n
	}
	return n, ok, err
}

// Position is the last sequence stored of a host's boot; 0 when there is none.
func (tx *Tx) Position(host int64, boot []byte) (uint64, error) {
	if known, ok := tx.db.hot.positions[host]; ok && known.boot == string(boot) {
		return known.sequence, nil
	}
	p := hotBoot{boot: string(boot)}
	var err error
	p.stored, err = tx.one("SELECT sequence FROM positions WHERE host = ? AND boot = ?",
		func(v []val) { p.sequence = uint64(asInt(v[0])) }, host, blob(boot))
	if err == nil {
		tx.db.hot.position(host, p)
	}
	return p.sequence, err
}

func (h *hot) position(host int64, p hotBoot) {
	if _, ok := h.positions[host]; !ok && len(h.positions) >= maxHotHosts {
		clear(h.positions)
	}
	h.positions[host] = p
}

// SetPosition moves a boot's position. A host's oldest boots beyond MaxBoots are forgotten.
func (tx *Tx) SetPosition(host int64, boot []byte, sequence, index uint64) error {
	tx.note(notePosition, host, blob(boot), int64(sequence), int64(index))
	known := tx.db.hot.positions[host]
	if known.stored && known.boot == string(boot) {
		tx.later.positions = append(tx.later.positions, host, blob(boot), int64(sequence), int64(index))
	} else {
		n, err := tx.unnoted("UPDATE positions SET sequence = ?, idx = ? WHERE host = ? AND boot = ?",
			int64(sequence), int64(index), host, blob(boot))
		if err == nil && n == 0 {
			err = tx.addPosition(host, boot, sequence, index)
		}
		if err != nil {
			return err
		}
	}
	tx.db.hot.position(host, hotBoot{string(boot), sequence, true})
	return nil
}

func (tx *Tx) addPosition(host int64, boot []byte, sequence, index uint64) error {
	if _, err := tx.unnoted("INSERT INTO positions (host, boot, sequence, idx) VALUES (?, ?, ?, ?)",
		host, blob(boot), int64(sequence), int64(index)); err != nil {
		return err
	}
	_, err := tx.unnoted(`DELETE FROM positions WHERE host = ?1 AND boot IN (
		SELECT boot FROM positions WHERE host = ?1 ORDER BY idx DESC, boot LIMIT -1 OFFSET ?2)`, host, int64(MaxBoots))
	return err
}

// HostRows are a host's rows, oldest first: the pending and applied ones, and the newest of all.
func (tx *Tx) HostRows(host int64) ([]Row, error) {
	rows, ok := tx.db.hot.rows[host]
	if !ok {
		err := tx.rows(`SELECT i.n, o.id, i.host, o.action, o.undoes, i.state, i.detail FROM isolations i JOIN operations o ON o.n = i.operation
			WHERE i.host = ?1 AND (i.state IN (1, 2) OR i.n = (SELECT max(n) FROM isolations WHERE host = ?1)) ORDER BY i.n`,
			func(v []val) error { rows = append(rows, scanRow(v)); return nil }, host)
		if err != nil {
			return nil, err
		}
		if len(tx.db.hot.rows) >= maxHotRows {
			clear(tx.db.hot.rows)
		}
		tx.db.hot.rows[host] = rows
	}
	return slices.Clone(rows), nil
}

// OperationRow is a host's row of an operation, nil when there is none.
func (tx *Tx) OperationRow(operation string, host int64) (row *Row, err error) {
	rows, err := tx.HostRows(host)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		if rows[i].Operation == operation {
			return &rows[i], nil
		}
	}
	_, err = tx.one(`SELECT i.n, o.id, i.host, o.action, o.undoes, i.state, i.detail FROM isolations i JOIN operations o ON o.n = i.operation
		WHERE o.id = ? AND i.host = ?`, func(v []val) { r := scanRow(v); row = &r }, operation, host)
	return row, err
}

// AddIsolation adds a host's pending row of an operation, whose number is operation.
// countedAt is when the governor counts it, 0 for what it does not.
func (tx *Tx) AddIsolation(operation int64, row Row, leaseExpires, countedAt int64) error {
	h := &tx.db.hot
	if h.newest == 0 {
		if _, err := tx.one("SELECT coalesce(max(n), 0) FROM isolations", func(v []val) { h.newest = asInt(v[0]) }); err != nil {
			return err
		}
	}
	h.newest++
	row.N, row.State, row.Detail = h.newest, sensorv1.IsolationState_ISOLATION_STATE_PENDING, ""
	if rows, ok := h.rows[row.Host]; ok {
		h.rows[row.Host] = openRows(append(rows, row))
	}
	tx.note(noteIsolation, row.N, operation, row.Host, leaseExpires, countedAt)
	tx.later.rows = append(tx.later.rows, row.N, operation, row.Host, leaseExpires, countedAt)
	return nil
}

// SetRowState ends or moves a row for a reason of the coordinator's own.
func (tx *Tx) SetRowState(row Row, state sensorv1.IsolationState, detail string) error {
	if err := tx.changeRow(row, state, detail); err != nil {
		return err
	}
	tx.note(noteState, row.N, int64(state), detail)
	tx.later.reports = append(tx.later.reports, row.N, int64(state), detail, "", int64(0), int64(0), []byte{})
	return nil
}

// ReportRow writes what a host says about its row. A lease or time that it does not state is kept.
func (tx *Tx) ReportRow(row Row, s *sensorv1.IsolationStatus) error {
	var own []byte
	if s.GetLocal() {
		kept := &sensorv1.IsolationStatus{Action: s.GetAction(), Target: s.GetTarget(), Level: s.GetLevel(), Local: true,
			Evidence: s.GetEvidence(), IntentVersion: s.GetIntentVersion(), Policies: s.GetPolicies()}
		var err error
		if own, err = encode(kept); err != nil {
			return fmt.Errorf("encoding report: %w", err)
		}
	}
	if err := tx.changeRow(row, s.GetState(), s.GetDetail()); err != nil {
		return err
	}
	report := []val{row.N, int64(s.GetState()), s.GetDetail(), s.GetSelfTest(), s.GetAppliedAt(), s.GetLeaseExpires(), blob(own)}
	tx.note(noteReport, report...)
	tx.later.reports = append(tx.later.reports, report...)
	return nil
}

// changeRow remembers a change and makes room for it: what is written at once changes
// each row once, as SQL does not say which of two would count.
func (tx *Tx) changeRow(row Row, state sensorv1.IsolationState, detail string) error {
	if tx.later.changed[row.N] {
		if err := tx.settle(); err != nil {
			return err
		}
	}
	if tx.later.changed == nil {
		tx.later.changed = make(map[int64]bool)
	}
	tx.later.changed[row.N] = true
	tx.db.hot.setRow(row, state, detail)
	return nil
}

func (h *hot) setRow(row Row, state sensorv1.IsolationState, detail string) {
	rows, ok := h.rows[row.Host]
	if !ok {
		return
	}
	i := slices.IndexFunc(rows, func(r Row) bool { return r.N == row.N })
	if i < 0 { // an old one, which may count again
		delete(h.rows, row.Host)
		return
	}
	rows[i].State, rows[i].Detail = state, detail
	h.rows[row.Host] = openRows(rows)
}

// openRows leaves the rows that HostRows answers.
func openRows(rows []Row) []Row {
	newest := rows[max(len(rows)-1, 0):]
	kept := rows[:0]
	for _, r := range rows[:len(rows)-len(newest)] {
		if r.State == sensorv1.IsolationState_ISOLATION_STATE_PENDING || r.State == sensorv1.IsolationState_ISOLATION_STATE_APPLIED {
			kept = append(kept, r)
		}
	}
	return append(kept, newest...)
}
