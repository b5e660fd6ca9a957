package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxBehaviours is less in a test.
var maxBehaviours = MaxBehaviours

// told is one thing that a summary says of a behaviour: what it is, or how often it was seen.
type told struct {
	start uint64 // of the key: most comparisons need no more
	key   []byte
	order int // in the summary
	delta *sensorv1.BehaviourDelta
	first int64
}

func tell(key []byte, order int, delta *sensorv1.BehaviourDelta, first int64) told {
	var start [8]byte
	copy(start[:], key)
	return told{binary.BigEndian.Uint64(start[:]), key, order, delta, first}
}

func (t told) compare(u told) int {
	if c := cmp.Compare(t.start, u.start); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(t.key, u.key), cmp.Compare(t.order, u.order))
}

// newcomer is a behaviour that the host had not shown: told in all[from:to], and whether there is room for it.
type newcomer struct {
	from, to int
	taken    bool
}

// Summarise stores what a summary says of a host's behaviours: which ones are new, and what is to
// be added to the counts. One that was never described (its summary was dropped from
// a full spool) is kept with kind 0 until a description comes. Of a host that is at its limit
// new ones are not kept, a stated loss.
func (tx *Tx) Summarise(host int64, found []*sensorv1.Behaviour, deltas []*sensorv1.BehaviourDelta) error {
	all := make([]told, 0, len(found)+len(deltas))
	for _, b := range found {
		tx.note(noteSight, host, blob(b.GetKey()), int64(b.GetKind()), blob(b.GetSubject()), blob(b.GetObject()), b.GetFirstSeen())
	}
	for _, d := range deltas {
		tx.counted(host, d.GetKey(), clamp(d.GetCount()), d.GetLastSeen(), d.GetKnown())
	}
	for i, b := range found {
		all = append(all, tell(b.GetKey(), i, nil, b.GetFirstSeen()))
	}
	for i, d := range deltas {
		all = append(all, tell(d.GetKey(), len(found)+i, d, d.GetLastSeen()))
	}
	for _, t := range all {
		if len(t.key) > maxKey {
			return fmt.Errorf("a behaviour's key has %d bytes, at most %d", len(t.key), maxKey)
		}
	}
	slices.SortFunc(all, told.compare)
	have, err := tx.behaviours(host)
	if err != nil {
		return err
	}
	fresh, err := tx.count(host, level(have), all)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		if err := tx.addSightings(host, have, all, fresh); err != nil {
			return err
		}
	}
	taken := int64(0)
	for _, f := range fresh {
		if f.taken {
			taken++
		}
	}
	tx.tally(host, Tally{Summaries: 1, Events: eventsOf(deltas), Fresh: taken})
	return tx.describe(found, deltas, all, fresh)
}

// behaviours is how many a host has.
func (tx *Tx) behaviours(host int64) (n int, err error) {
	known := tx.db.hot.behaviours
	if n, ok := known[host]; ok {
		return n, nil
	}
	ok, err := tx.one("SELECT behaviours FROM hosts WHERE n = ?", func(v []val) { n = int(asInt(v[0])) }, host)
	if err != nil || !ok {
		return maxBehaviours, err // of no host, nothing is kept
	}
	tx.db.hot.setBehaviours(host, n)
	return n, nil
}

func (h *hot) setBehaviours(host int64, n int) {
	if len(h.behaviours) >= maxHotHosts {
		clear(h.behaviours)
	}
	h.behaviours[host] = n
}

// count adds to what is there, and answers what is not.
func (tx *Tx) count(host int64, bits int, all []told) (fresh []newcomer, err error) {
	var body []byte
	for i := 0; i < len(all); {
		shelf := shelfOf(all[i].key, bits)
		if body, err = tx.shelf(body[:0], shelfRow(host, shelf)); err != nil {
			return nil, err
		}
		changed := false
		at, rest, err := next(body)
		for i < len(all) && shelfOf(all[i].key, bits) == shelf {
			to := i + 1
			for to < len(all) && bytes.Equal(all[to].key, all[i].key) {
				to++
			}
			for err == nil && at != nil && bytes.Compare(at.key(), all[i].key) < 0 {
				at, rest, err = next(rest)
			}
			if err != nil {
				return nil, err
			}
			if at == nil || !bytes.Equal(at.key(), all[i].key) {
				fresh = append(fresh, newcomer{from: i, to: to})
			} else if at.tell(all[i:to]) {
				changed = true
			}
			i = to
		}
		if changed {
			if _, err := tx.unnoted("UPDATE sightings SET body = ? WHERE n = ?", body, shelfRow(host, shelf)); err != nil {
				return nil, err
			}
		}
	}
	return fresh, nil
}

// tell adds what is told of a sighting, and says whether that changed it.
func (s sighting) tell(all []told) (changed bool) {
	for _, t := range all {
		if t.delta != nil {
			s.add(clamp(t.delta.GetCount()), t.delta.GetLastSeen(), t.delta.GetKnown())
			changed = true
		}
	}
	return changed
}

// shelf appends a row's body; there may be no such row.
func (tx *Tx) shelf(to []byte, row int64) ([]byte, error) {
	_, err := tx.one("SELECT body FROM sightings WHERE n = ?", func(v []val) { to = append(to, asBytes(v[0])...) }, row)
	return to, err
}

// addSightings makes room for newcomers as far as there is any, those told first before the others.
func (tx *Tx) addSightings(host int64, have int, all []told, fresh []newcomer) error {
	whole, bits := []byte(nil), level(min(have+len(fresh), maxBehaviours))
	grows := bits != level(have)
	if grows {
		whole = []byte{}
		err := tx.rows("SELECT body FROM sightings WHERE n BETWEEN ? AND ? ORDER BY n", func(v []val) error {
			whole = append(whole, asBytes(v[0])...)
			return nil
		}, shelfRow(host, 0), shelfRow(host+1, 0)-1)
		if err != nil {
			return err
		}
	}
	taken, left, err := tx.choose(host, have, bits, whole, all, fresh)
	if err != nil {
		return err
	}
	if left > 0 {
		if err := tx.AddLoss(host, &sensorv1.Loss{Where: "store", Cause: "behaviour-limit", Count: uint64(left)}); err != nil { //nolint:gosec // a count
			return err
		}
	}
	if taken == 0 {
		return nil
	}
	var added []byte
	for _, f := range fresh {
		if f.taken {
			from := len(added)
			added = newSighting(added, all[f.from].key, all[f.from].first)
			sighting(added[from:]).tell(all[f.from:f.to])
		}
	}
	bits = level(have + taken)
	if grows {
		if _, err := tx.unnoted("DELETE FROM sightings WHERE n BETWEEN ? AND ?", shelfRow(host, 0), shelfRow(host+1, 0)-1); err != nil {
			return err
		}
		if whole, err = merge(nil, whole, added); err != nil {
			return err
		}
		err = shelve(whole, bits, func(shelf int, part []byte) error { return tx.setShelf(host, shelf, part) })
	} else {
		var body, merged []byte
		err = shelve(added, bits, func(shelf int, part []byte) error {
			if body, err = tx.shelf(body[:0], shelfRow(host, shelf)); err != nil {
				return err
			}
			if merged, err = merge(merged[:0], body, part); err != nil {
				return err
			}
			return tx.setShelf(host, shelf, merged)
		})
	}
	if err != nil {
		return err
	}
	_, err = tx.unnoted("UPDATE hosts SET behaviours = ? WHERE n = ?", int64(have+taken), host)
	tx.db.hot.setBehaviours(host, have+taken)
	return err
}

func (tx *Tx) setShelf(host int64, shelf int, body []byte) error {
	_, err := tx.unnoted("INSERT INTO sightings (n, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body", shelfRow(host, shelf), body)
	return err
}

// choose says which newcomers are taken, how many, and how often the others were told. A host that
// makes keys which all belong on one shelf fills that one alone. Whole is all that the host has,
// when its shelves are about to change.
func (tx *Tx) choose(host int64, have, bits int, whole []byte, all []told, fresh []newcomer) (taken, left int, err error) {
	filled := make(map[int]int)
	for rest := whole; len(rest) > 0; {
		var s sighting
		if s, rest, err = next(rest); err != nil {
			return 0, 0, err
		}
		filled[shelfOf(s.key(), bits)]++
	}
	asTold := make([]*newcomer, len(fresh))
	for i := range fresh {
		asTold[i] = &fresh[i]
	}
	slices.SortFunc(asTold, func(a, b *newcomer) int { return cmp.Compare(all[a.from].order, all[b.from].order) })
	var body []byte
	for _, f := range asTold {
		shelf := shelfOf(all[f.from].key, bits)
		if _, ok := filled[shelf]; !ok && whole == nil {
			if body, err = tx.shelf(body[:0], shelfRow(host, shelf)); err != nil {
				return 0, 0, err
			}
			for rest := body; len(rest) > 0; filled[shelf]++ {
				if _, rest, err = next(rest); err != nil {
					return 0, 0, err
				}
			}
		}
		if have+taken >= maxBehaviours || filled[shelf] >= maxShelf {
			left += f.to - f.from
			continue
		}
		filled[shelf]++
		taken++
		f.taken = true
	}
	return taken, left, nil
}

var (
	describeBehaviours = bulk{"INSERT INTO behaviours (key, kind, subject, object, first_seen, hosts) VALUES ", "(?, ?, ?, ?, ?, ?)",
		` ON CONFLICT (key) DO UPDATE SET hosts = hosts + excluded.hosts,
			first_seen = min(first_seen, excluded.first_seen),
			subject = CASE kind WHEN 0 THEN excluded.subject ELSE subject END,
			object = CASE kind WHEN 0 THEN excluded.object ELSE object END,
			kind = CASE kind WHEN 0 THEN excluded.kind ELSE kind END`, 6}
	countBehaviours = bulk{"INSERT INTO behaviours (key, kind, subject, object, first_seen, hosts) VALUES ", "(?, 0, x'', x'', ?, 1)",
		" ON CONFLICT (key) DO UPDATE SET hosts = hosts + 1", 2}
)

// describe notes for the fleet what behaviours are, and on how many hosts.
func (tx *Tx) describe(found []*sensorv1.Behaviour, deltas []*sensorv1.BehaviourDelta, all []told, fresh []newcomer) error {
	const added, refused = 1, 2 // neither: the host had it
	state := make([]byte, len(found)+len(deltas))
	for _, f := range fresh {
		for i, t := range all[f.from:f.to] {
			switch {
			case !f.taken:
				state[t.order] = refused
			case i == 0:
				state[t.order] = added
			}
		}
	}
	var described, counted []val
	for i, b := range found {
		if state[i] != refused {
			described = append(described, blob(b.GetKey()), int64(b.GetKind()), blob(b.GetSubject()), blob(b.GetObject()), b.GetFirstSeen(), int64(state[i]))
		}
	}
	for i, d := range deltas {
		if state[len(found)+i] == added {
			counted = append(counted, blob(d.GetKey()), d.GetLastSeen())
		}
	}
	if err := tx.many(&describeBehaviours, described); err != nil {
		return err
	}
	return tx.many(&countBehaviours, counted)
}
