package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// BaselineFilter limits a host's behaviours. The zero value is all of them.
type BaselineFilter struct {
	Kind    sensorv1.BehaviourKind
	Subject string // a part of it
	NewOnly bool   // not known on the host
	Since   int64  // first seen at or after
}

// named is a behaviour's place in a list: by kind, subject, object and, for those that nobody
// described, key.
type named struct {
	kind                 sensorv1.BehaviourKind
	subject, object, key []byte
}

func (n named) compare(m named) int {
	return cmp.Or(cmp.Compare(n.kind, m.kind), bytes.Compare(n.subject, m.subject), bytes.Compare(n.object, m.object), bytes.Compare(n.key, m.key))
}

// token is where a list goes on: behind this one, whether or not it is still there.
func (n named) token() string {
	raw := []byte{byte(n.kind)}
	for _, part := range [][]byte{n.subject, n.object} {
		raw = binary.AppendUvarint(raw, uint64(len(part)))
		raw = append(raw, part...)
	}
	return base64.RawURLEncoding.EncodeToString(append(raw, n.key...))
}

func namedBy(token string) (n named, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) == 0 {
		return n, ErrBadPage
	}
	n.kind, raw = sensorv1.BehaviourKind(raw[0]), raw[1:]
	for _, part := range []*[]byte{&n.subject, &n.object} {
		length, used := binary.Uvarint(raw)
		if used <= 0 || length > uint64(len(raw)-used) {
			return n, ErrBadPage
		}
		*part, raw = raw[used:used+int(length)], raw[used+int(length):] //nolint:gosec // bounded by what is there
	}
	n.key = raw
	return n, nil
}

// listed sorts rows by name and cuts out the page that a token asks for.
func listed[T any](rows []T, name func(T) named, p Page) ([]T, string, error) {
	slices.SortFunc(rows, func(a, b T) int { return name(a).compare(name(b)) })
	if p.Token != "" {
		after, err := namedBy(p.Token)
		if err != nil {
			return nil, "", err
		}
		at, found := slices.BinarySearchFunc(rows, after, func(row T, n named) int { return name(row).compare(n) })
		if found {
			at++
		}
		rows = rows[at:]
	}
	if len(rows) <= p.limit() {
		return rows, "", nil
	}
	rows = rows[:p.limit()]
	return rows, name(rows[len(rows)-1]).token(), nil
}

// Baseline lists a host's behaviours, by kind, subject and object. It reads all that the host
// has, MaxBehaviours at most, for each page.
func (db *DB) Baseline(ctx context.Context, host string, f BaselineFilter, p Page) ([]*operatorv1.BehaviourRow, string, error) {
	kept, known, err := db.sightings(ctx, host, func(all []sighting) []sighting {
		return slices.DeleteFunc(all, func(s sighting) bool { return f.NewOnly && s.known() || s.first() < f.Since })
	})
	if err != nil {
		return nil, "", err
	}
	var rows []*operatorv1.BehaviourRow
	for _, s := range kept {
		d := known[string(s.key())]
		if f.Kind != 0 && d.kind != f.Kind || f.Subject != "" && !bytes.Contains(d.subject, []byte(f.Subject)) {
			continue
		}
		rows = append(rows, &operatorv1.BehaviourRow{Behaviour: d.behaviour(s.key(), s.first()), Count: uint64(s.count()), //nolint:gosec // not negative
			LastSeen: s.last(), Known: s.known(), Hosts: d.hosts, Host: host})
	}
	return listed(rows, func(r *operatorv1.BehaviourRow) named { return nameOf(r.GetBehaviour()) }, p)
}

func (d described) behaviour(key []byte, first int64) *sensorv1.Behaviour {
	return &sensorv1.Behaviour{Key: key, Kind: d.kind, Subject: blob(d.subject), Object: blob(d.object), FirstSeen: first}
}

func nameOf(b *sensorv1.Behaviour) named {
	return named{b.GetKind(), b.GetSubject(), b.GetObject(), b.GetKey()}
}

// tally is on how many hosts a behaviour was seen, and known, and the first of them.
type tally struct {
	hosts, known uint32
	first        int64
}

// maxTallied bounds the different behaviours that are counted at once: some 60 MiB. Honest hosts of a
// group have a tenth of it together; what comes beyond, of hosts that make behaviours up, is not counted.
const maxTallied = 500_000

// tallied counts the behaviours of some hosts, by key.
func (db *DB) tallied(ctx context.Context, hosts []int64) (map[string]tally, error) {
	counts := make(map[string]tally)
	for _, n := range hosts {
		err := db.each(ctx, func(s scanner) error {
			var body []byte
			if err := s.Scan(&body); err != nil {
				return err
			}
			for len(body) > 0 {
				one, rest, err := next(body)
				if err != nil {
					return err
				}
				body = rest
				t, had := counts[string(one.key())]
				if !had && len(counts) >= maxTallied {
					continue
				}
				t.hosts++
				if one.known() {
					t.known++
				}
				if !had || one.first() < t.first {
					t.first = one.first()
				}
				counts[string(one.key())] = t
			}
			return nil
		}, "SELECT body FROM sightings WHERE n BETWEEN ? AND ? ORDER BY n", shelfRow(n, 0), shelfRow(n+1, 0)-1)
		if err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// Of a group's hosts, so few have what is none of its behaviours, and so many what is one.
const (
	strangePermille = 50
	commonPermille  = 500
)

// Difference says what a host does and others do not, and the other way round: of one other host
// exactly, of several what fewer than one in twenty or at least half of them do.
func (db *DB) Difference(ctx context.Context, host string, others []int64, p Page) (*operatorv1.DiffBaselinesResponse, error) {
	theirs, err := db.tallied(ctx, others)
	if err != nil {
		return nil, err
	}
	of := len(others)
	out := &operatorv1.DiffBaselinesResponse{Of: uint32(of)} //nolint:gosec // a sample
	var rows []*operatorv1.DifferenceRow
	_, mine, err := db.sightings(ctx, host, func(all []sighting) []sighting {
		for _, s := range all {
			t := theirs[string(s.key())]
			delete(theirs, string(s.key()))
			if t.hosts > 0 {
				out.Common++
			}
			if int(t.hosts)*1000 < strangePermille*of || t.hosts == 0 {
				rows = append(rows, &operatorv1.DifferenceRow{Here: true, Others: t.hosts, Count: uint64(s.count()), LastSeen: s.last(), //nolint:gosec // not negative
					Behaviour: &sensorv1.Behaviour{Key: s.key(), FirstSeen: s.first()}})
			}
		}
		return all
	})
	if err != nil {
		return nil, err
	}
	for key, t := range theirs {
		if int(t.hosts)*1000 >= commonPermille*of {
			rows = append(rows, &operatorv1.DifferenceRow{Others: t.hosts, Behaviour: &sensorv1.Behaviour{Key: []byte(key), FirstSeen: t.first}})
		}
	}
	var missing [][]byte
	for _, r := range rows {
		if !r.GetHere() {
			missing = append(missing, r.GetBehaviour().GetKey())
		}
	}
	known, err := db.described(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		from := known
		if r.GetHere() {
			from = mine
		}
		d := from[string(r.GetBehaviour().GetKey())]
		r.Behaviour, r.Hosts = d.behaviour(r.GetBehaviour().GetKey(), r.GetBehaviour().GetFirstSeen()), d.hosts
	}
	out.Rows, out.PageToken, err = listed(rows, func(r *operatorv1.DifferenceRow) named { return nameOf(r.GetBehaviour()) }, p)
	return out, err
}

// HostRow is the number of a host's row, by its id.
func (db *DB) HostRow(ctx context.Context, host string) (n int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&n) }, "SELECT n FROM hosts WHERE id = ? AND removed = 0", host)
	if err == nil && n == 0 {
		err = fmt.Errorf("host %q: %w", host, ErrNotFound)
	}
	return n, err
}

// described reads what the fleet knows of some behaviours.
func (db *DB) described(ctx context.Context, keys [][]byte) (known map[string]described, err error) {
	known = make(map[string]described, len(keys))
	for some := range slices.Chunk(keys, describedAtOnce) {
		err := db.each(ctx, func(s scanner) error {
			var key []byte
			var d described
			err := s.Scan(&key, &d.kind, &d.subject, &d.object, &d.hosts)
			known[string(key)] = d
			return err
		}, "SELECT key, kind, subject, object, hosts FROM behaviours WHERE key IN (SELECT unhex(value) FROM json_each(?))", hexList(some))
		if err != nil {
			return nil, fmt.Errorf("reading what behaviours are: %w", err)
		}
	}
	return known, nil
}

// describedAtOnce is of how many behaviours one query asks.
const describedAtOnce = 2000

var errNoPack = errors.New("no behaviours to make a pack of")
