package store

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// later is what a transaction has yet to write of the tables that batches and orders
// change for every host. It is written at once, before anything reads those tables and
// before the transaction ends: one statement for many hosts costs a fraction of one each.
type later struct {
	hosts     []int64 // in the order of their first change
	changes   map[int64]hostChange
	positions []val // rows of them, flat
	rows      []val
	reports   []val
	audits    []val
	changed   map[int64]bool // isolations that are in reports
}

// hostChange is what becomes of a host's row; what is zero stays.
type hostChange struct {
	seen  int64
	epoch int64
	word  string
}

func (l *later) host(host int64, change func(*hostChange)) {
	if l.changes == nil {
		l.changes = make(map[int64]hostChange)
	}
	c, known := l.changes[host]
	if !known {
		l.hosts = append(l.hosts, host)
	}
	change(&c)
	l.changes[host] = c
}

// Seen moves a host's last contact.
func (tx *Tx) Seen(host, now int64) error {
	tx.note(noteSeen, host, now)
	tx.later.host(host, func(c *hostChange) { c.seen = max(c.seen, now) })
	return nil
}

// SetHostIsolation writes the one word that a host list shows.
func (tx *Tx) SetHostIsolation(host int64, word string) error {
	tx.note(noteWord, host, word)
	tx.later.host(host, func(c *hostChange) { c.word = word })
	return nil
}

// SetHostOrdered notes the newest order for a host, and what its host list's word is then.
func (tx *Tx) SetHostOrdered(host int64, epoch uint64, word string) error {
	tx.note(noteOrdered, host, epochColumn(epoch), word)
	tx.later.host(host, func(c *hostChange) { c.epoch, c.word = epochColumn(epoch), word })
	return nil
}

// Audit appends to the audit chain; Index, Previous and Hash are set here.
func (tx *Tx) Audit(e *operatorv1.AuditEntry) error {
	h := &tx.db.hot
	if h.audited == nil {
		end := &chainEnd{hash: audit.Genesis()}
		if _, err := tx.one("SELECT idx, hash FROM audit ORDER BY idx DESC LIMIT 1", func(v []val) {
			end = &chainEnd{index: asInt(v[0]), hash: asBlob(v[1])}
		}); err != nil {
			return err
		}
		h.audited = end
	}
	index := h.audited.index + 1
	e.Index, e.Previous = uint64(index), h.audited.hash //nolint:gosec // counts from one
	e.Hash = audit.Hash(e)
	h.audited = &chainEnd{index: index, hash: e.GetHash()}
	tx.note(noteAudit, index, e.GetHash())
	tx.later.audits = append(tx.later.audits,
		index, e.GetTime(), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(), e.GetPrevious(), e.GetHash())
	return nil
}

// chainEnd is the newest audit entry.
type chainEnd struct {
	index int64
	hash  []byte
}

// late are the tables and columns that later writes.
var late = regexp.MustCompile(`\b(isolations|positions|audit)\b|\bhosts\b(?s:.*)(\bisolation\b|\bepoch\b|\blast_seen = |= last_seen\b)|(\bepoch\b|\bisolation\b)(?s:.*)\bhosts\b`)

// bulk is a statement that takes any number of rows.
type bulk struct {
	head, row, tail string
	width           int // values of a row
}

var (
	addPositions = bulk{"INSERT INTO positions (host, boot, sequence, idx) VALUES ", "(?, ?, ?, ?)",
		" ON CONFLICT (host, boot) DO UPDATE SET sequence = excluded.sequence, idx = excluded.idx", 4}
	addRows = bulk{"INSERT INTO isolations (n, operation, host, state, lease_expires, applied_at, self_test, detail, counted_at) VALUES ",
		"(?, ?, ?, 1, ?, 0, '', '', ?)", "", 5}
	setRows = bulk{"UPDATE isolations SET state = v.column2, detail = v.column3, self_test = CASE v.column4 WHEN '' THEN self_test ELSE v.column4 END, " +
		"applied_at = CASE v.column5 WHEN 0 THEN applied_at ELSE v.column5 END, " +
		"lease_expires = CASE v.column6 WHEN 0 THEN lease_expires ELSE v.column6 END, " +
		"own = CASE length(v.column7) WHEN 0 THEN own ELSE v.column7 END FROM (VALUES ",
		"(?, ?, ?, ?, ?, ?, ?)", ") AS v WHERE isolations.n = v.column1", 7}
	addAudits = bulk{"INSERT INTO audit (idx, time, actor, action, subject, detail, previous, hash) VALUES ", "(?, ?, ?, ?, ?, ?, ?, ?)", "", 8}
)

// settle writes what is left to be written.
func (tx *Tx) settle() error {
	l := tx.later
	tx.later = later{}
	if err := tx.changeHosts(&l); err != nil {
		return err
	}
	for _, b := range []struct {
		bulk   *bulk
		values []val
	}{{&addPositions, l.positions}, {&addRows, l.rows}, {&setRows, l.reports}, {&addAudits, l.audits}} {
		if err := tx.many(b.bulk, b.values); err != nil {
			return err
		}
	}
	return nil
}

// changeHosts writes hosts that change in the same way with one statement.
func (tx *Tx) changeHosts(l *later) error {
	var order []hostChange
	lists := make(map[hostChange][]byte)
	for _, host := range l.hosts {
		c := l.changes[host]
		list, known := lists[c]
		if !known {
			order, list = append(order, c), []byte{'['}
		} else {
			list = append(list, ',')
		}
		lists[c] = strconv.AppendInt(list, host, 10)
	}
	for _, c := range order {
		if _, err := tx.run(`UPDATE hosts SET last_seen = max(last_seen, ?1), epoch = CASE ?2 WHEN 0 THEN epoch ELSE ?2 END,
			isolation = CASE ?3 WHEN '' THEN isolation ELSE ?3 END WHERE n IN (SELECT value FROM json_each(+?4))`,
			c.seen, c.epoch, c.word, string(append(lists[c], ']'))); err != nil {
			return err
		}
	}
	return nil
}

// chunks of rows have a statement each, which is compiled once.
var chunks = []int{64, 16, 4, 1}

// many runs a bulk statement over rows.
func (tx *Tx) many(b *bulk, values []val) error {
	for _, chunk := range chunks {
		for n := chunk * b.width; len(values) >= n; values = values[n:] {
			if err := tx.runBulk(b, chunk, values[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (tx *Tx) runBulk(b *bulk, chunk int, values []val) error {
	key := bulkKey{b, chunk}
	s, ok := tx.db.bulks[key]
	if !ok {
		var err error
		if s, err = tx.prepare(b.head + strings.Repeat(b.row+", ", chunk-1) + b.row + b.tail); err != nil {
			return err
		}
		tx.db.bulks[key] = s
	}
	// Not Exec, which crosses into C for every value.
	rows, err := s.QueryContext(unending, tx.named(values))
	if err != nil {
		return err
	}
	return rows.Close()
}

type bulkKey struct {
	bulk  *bulk
	chunk int
}
