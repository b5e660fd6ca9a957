package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// SketchKeys is how many of a host's known behaviours are compared: those with the smallest
// keys. Keys are hashes, so that they are a fair sample, and the same ones of hosts that do the
// same (bottom-k; Cohen and Kaplan, 2007).
const SketchKeys = 128

func hexList(keys [][]byte) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = hex.EncodeToString(key)
	}
	list, _ := json.Marshal(texts) // strings
	return string(list)
}

// HostSketch is what roles are found by.
type HostSketch struct {
	N     int64
	ID    string
	Label string // the operators' value of the group label; empty: none
	Own   string // the host's own word for it
	Role  string // that it has; empty: none
	// Keys are the first 8 bytes of its smallest keys, ascending, at most SketchKeys: of what is
	// known there, or when that is little (Fresh) of all that it does.
	Keys  []uint64
	Fresh bool
}

// Sketches reads those of some hosts, behind a row, in the order of their rows; next is 0 at the end.
func (db *DB) Sketches(ctx context.Context, after int64, limit int) (out []HostSketch, last int64, err error) {
	label := defaultGroupLabel
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&label) }, "SELECT group_label FROM governor"); err != nil {
		return nil, 0, err
	}
	err = db.each(ctx, func(s scanner) error {
		h, facts := HostSketch{}, &sensorv1.HostFacts{}
		var operators map[string]string
		if err := s.Scan(&h.N, &h.ID, labelsColumn{&operators}, protoColumn{facts}, &h.Role); err != nil {
			return err
		}
		h.Label, h.Own = operators[label], facts.GetLabels()[label]
		out = append(out, h)
		return nil
	}, "SELECT h.n, h.id, h.labels, h.facts, coalesce(r.role, '') FROM hosts h LEFT JOIN host_roles r ON r.host = h.n WHERE h.n > ? AND h.removed = 0 ORDER BY h.n LIMIT ?", after, limit)
	if err != nil {
		return nil, 0, err
	}
	for i := range out {
		h := &out[i]
		if h.Keys, err = db.sketch(ctx, h.N, true); err != nil {
			return nil, 0, err
		}
		if h.Fresh = len(h.Keys) < FewKnown; h.Fresh {
			if h.Keys, err = db.sketch(ctx, h.N, false); err != nil {
				return nil, 0, err
			}
		}
	}
	if len(out) == limit {
		last = out[len(out)-1].N
	}
	return out, last, nil
}

// FewKnown is how many known behaviours make a host more than a fresh one.
const FewKnown = 20

// sketch reads the first shelves, as many as it takes.
func (db *DB) sketch(ctx context.Context, host int64, knownOnly bool) (keys []uint64, err error) {
	from := shelfRow(host, 0)
	for len(keys) < SketchKeys {
		row := int64(-1)
		err := db.each(ctx, func(s scanner) error {
			var body []byte
			if err := s.Scan(&row, &body); err != nil {
				return err
			}
			for len(body) > 0 && len(keys) < SketchKeys {
				one, rest, err := next(body)
				if err != nil {
					return err
				}
				if body = rest; (one.known() || !knownOnly) && len(one.key()) >= 8 {
					keys = append(keys, binary.BigEndian.Uint64(one.key()))
				}
			}
			return nil
		}, "SELECT n, body FROM sightings WHERE n BETWEEN ? AND ? ORDER BY n LIMIT 4", from, shelfRow(host+1, 0)-1)
		if err != nil {
			return nil, err
		}
		if row < 0 {
			break
		}
		from = row + 1
	}
	return keys, nil
}

// RoleGroups are the role groups, by name, with their sketches.
func (db *DB) RoleGroups(ctx context.Context) (out []*raftv1.RoleGroup, err error) {
	err = db.each(ctx, func(s scanner) error {
		g := &raftv1.RoleGroup{}
		out = append(out, g)
		return s.Scan(&g.Name, &g.Basis, &g.Sketch)
	}, "SELECT name, basis, sketch FROM roles ORDER BY name")
	return out, err
}

// Roles are the role groups as operators see them, and how many hosts have none.
func (db *DB) Roles(ctx context.Context) (out *operatorv1.ListRolesResponse, err error) {
	out = &operatorv1.ListRolesResponse{}
	err = db.each(ctx, func(s scanner) error {
		r := &operatorv1.RoleRow{}
		out.Roles = append(out.Roles, r)
		return s.Scan(&r.Name, &r.Basis, &r.MadeAt, &r.Hosts, &r.PackOperator, &r.PackMadeAt, &r.PackNotAfter)
	}, `SELECT r.name, r.basis, r.made_at, (SELECT count(*) FROM host_roles h WHERE h.role = r.name), coalesce(p.operator, ''), coalesce(p.made_at, 0), coalesce(p.not_after, 0)
		FROM roles r LEFT JOIN packs p ON p.role = r.name ORDER BY r.name`)
	if err != nil {
		return nil, err
	}
	// The fleet's pack belongs to no group, and is shown as one.
	err = db.each(ctx, func(s scanner) error {
		r := &operatorv1.RoleRow{Name: pack.Fleet, Basis: "fleet"}
		out.Roles = append(out.Roles, r)
		return s.Scan(&r.Hosts, &r.PackOperator, &r.PackMadeAt, &r.PackNotAfter)
	}, "SELECT (SELECT count(*) FROM hosts WHERE removed = 0), operator, made_at, not_after FROM packs WHERE role = ?", pack.Fleet)
	if err != nil {
		return nil, err
	}
	err = db.each(ctx, func(s scanner) error { return s.Scan(&out.Without) },
		"SELECT count(*) FROM hosts h WHERE h.removed = 0 AND NOT EXISTS (SELECT 1 FROM host_roles r WHERE r.host = h.n)")
	return out, err
}

// RoleOf is a host's role group, "" for none. One that the engine has not come to yet has that of
// its operators' label.
func (db *DB) RoleOf(ctx context.Context, host string) (role string, err error) {
	label := defaultGroupLabel
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&label) }, "SELECT group_label FROM governor"); err != nil {
		return "", err
	}
	var operators map[string]string
	err = db.each(ctx, func(s scanner) error { return s.Scan(labelsColumn{&operators}, &role) },
		"SELECT h.labels, coalesce(r.role, '') FROM hosts h LEFT JOIN host_roles r ON r.host = h.n WHERE h.id = ? AND h.removed = 0", host)
	if role == pack.Fleet {
		role = "" // an older release could have one of this name
	}
	if role == "" && pack.ValidGroup(operators[label]) {
		role = operators[label]
	}
	return role, err
}

// RoleMembers are at most limit rows of a role group's hosts, or of all hosts for pack.Fleet, evenly from
// all of them, and how many there are.
func (db *DB) RoleMembers(ctx context.Context, role string, limit int) (rows []int64, of int, err error) {
	var all []int64
	err = db.each(ctx, func(s scanner) error {
		var n int64
		err := s.Scan(&n)
		all = append(all, n)
		return err
	}, `SELECT host FROM host_roles WHERE role = ?1 AND ?1 <> ?2
		UNION ALL SELECT n FROM hosts WHERE ?1 = ?2 AND removed = 0 ORDER BY 1`, role, pack.Fleet)
	if err != nil || len(all) <= limit {
		return all, len(all), err
	}
	for i := range limit {
		rows = append(rows, all[i*len(all)/limit])
	}
	return rows, len(all), nil
}

// RoleHosts are the ids of a role group's hosts, ascending.
func (db *DB) RoleHosts(ctx context.Context, role string) (ids []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		var id string
		err := s.Scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT h.id FROM host_roles r JOIN hosts h ON h.n = r.host WHERE r.role = ? AND h.removed = 0 ORDER BY h.id", role)
	return ids, err
}

// RolePack is the pack that an operator signed for a role, nil when there is none that counts.
func (db *DB) RolePack(ctx context.Context, role string, now int64) (signed *sensorv1.SignedPack, err error) {
	err = db.each(ctx, func(s scanner) error {
		signed = &sensorv1.SignedPack{}
		return s.Scan(protoColumn{signed})
	}, "SELECT signed FROM packs WHERE role = ? AND not_after > ?", role, now)
	return signed, err
}

// IdlePacks is how many packs count for roles, but for one, that no host has.
func (db *DB) IdlePacks(ctx context.Context, but string, now int64) (n int, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&n) }, `SELECT count(*) FROM packs p WHERE p.role <> ? AND p.role <> ? AND p.not_after > ?
		AND NOT EXISTS (SELECT 1 FROM host_roles r WHERE r.role = p.role)`, but, pack.Fleet, now)
	return n, err
}

// PackOf is what so great a share of some hosts do, unsigned and without a name: what is known
// on at least one of them. What is beyond a pack's bounds is left out, the rarest first.
func (db *DB) PackOf(ctx context.Context, hosts []int64, permille uint32) (p *sensorv1.Pack, leftOut int, err error) {
	counts, err := db.tallied(ctx, hosts)
	if err != nil {
		return nil, 0, err
	}
	var keys [][]byte
	for key, t := range counts {
		if t.known > 0 && int(t.hosts)*1000 >= int(permille)*len(hosts) {
			keys = append(keys, []byte(key))
		}
	}
	slices.SortFunc(keys, func(a, b []byte) int {
		return cmp.Or(cmp.Compare(counts[string(b)].hosts, counts[string(a)].hosts), strings.Compare(string(a), string(b)))
	})
	known, err := db.described(ctx, keys[:min(len(keys), pack.MaxBehaviours)])
	if err != nil {
		return nil, 0, err
	}
	p = &sensorv1.Pack{Of: uint32(len(hosts)), Permille: permille} //nolint:gosec // a sample
	room := pack.MaxPayload - 4<<10
	for _, key := range keys {
		d, t := known[string(key)], counts[string(key)]
		b := &sensorv1.PackBehaviour{Kind: d.kind, Subject: d.subject, Object: d.object, Hosts: t.hosts, Known: t.known}
		// A host names its behaviours itself, and the first to show a key says what it is: words
		// that do not make the key could be of anything.
		if d.kind < sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC || d.kind > sensorv1.BehaviourKind_BEHAVIOUR_KIND_PRIVILEGE ||
			len(d.subject) > pack.MaxName || len(d.object) > pack.MaxName || !pack.Is(key, b) {
			leftOut++
			continue
		}
		size := proto.Size(b) + 4
		if len(p.GetBehaviours()) == pack.MaxBehaviours || size > room {
			leftOut++
			continue
		}
		room -= size
		p.Behaviours = append(p.Behaviours, b)
	}
	slices.SortFunc(p.GetBehaviours(), pack.Order)
	p.Behaviours = slices.CompactFunc(p.GetBehaviours(), func(a, b *sensorv1.PackBehaviour) bool { return pack.Order(a, b) == 0 })
	if len(p.GetBehaviours()) == 0 {
		return nil, leftOut, fmt.Errorf("%w: %w", errNoPack, ErrNotFound)
	}
	return p, leftOut, nil
}

// packOf is of how many hosts of a role group a pack is made at most.
const packOf = 64

// MadePack is what most hosts of a role group do; nil when fewer than pack.MinHosts of them
// have no open incident, or have nothing in common.
func (db *DB) MadePack(ctx context.Context, role string) (*sensorv1.Pack, error) {
	rows, _, err := db.RoleMembers(ctx, role, packOf)
	if err != nil {
		return nil, err
	}
	if rows, err = db.Trusted(ctx, rows); err != nil || len(rows) < pack.MinHosts {
		return nil, err
	}
	p, _, err := db.PackOf(ctx, rows, pack.DefaultPermille)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return p, err
}

// Trusted leaves out the hosts with an open incident: they teach nobody.
func (db *DB) Trusted(ctx context.Context, rows []int64) ([]int64, error) {
	suspects, err := db.Suspects(ctx)
	if err != nil {
		return nil, err
	}
	bad := make(map[int64]bool, len(suspects))
	for id := range suspects {
		n, err := db.HostRow(ctx, id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		bad[n] = true
	}
	return slices.DeleteFunc(rows, func(n int64) bool { return bad[n] }), nil
}

// PendingUnlearns are the orders to forget that a host has not answered, oldest first.
func (db *DB) PendingUnlearns(ctx context.Context, host string, now int64) (out []*sensorv1.SignedUnlearn, err error) {
	err = db.each(ctx, func(s scanner) error {
		u := &sensorv1.SignedUnlearn{}
		out = append(out, u)
		return s.Scan(protoColumn{u})
	}, "SELECT u.signed FROM unlearns u WHERE u.host = (SELECT n FROM hosts WHERE id = ? AND removed = 0) AND u.answered_at = 0 AND u.not_after > ? ORDER BY u.n LIMIT 100", host, now)
	return out, err
}

// Unlearn is an order to forget as the store keeps it.
type Unlearn struct {
	Signed     *sensorv1.SignedUnlearn
	Host       string
	AnsweredAt int64
	Behaviours uint32
	Failure    string
}

// Unlearns are the orders to forget, newest first, of a host, or one by its id.
func (db *DB) Unlearns(ctx context.Context, host, id string, p Page) ([]Unlearn, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	return paged(ctx, db, p, func(s scanner, n *int64) (Unlearn, error) {
		u := Unlearn{Signed: &sensorv1.SignedUnlearn{}}
		err := s.Scan(n, protoColumn{u.Signed}, &u.Host, &u.AnsweredAt, &u.Behaviours, &u.Failure)
		return u, err
	}, `SELECT u.n, u.signed, h.id, u.answered_at, u.behaviours, u.failure FROM unlearns u JOIN hosts h ON h.n = u.host
		WHERE (?1 = '' OR h.id = ?1) AND (?2 = '' OR u.id = ?2) AND u.n < ?3 ORDER BY u.n DESC LIMIT ?4`, host, id, before)
}

// RollOuts are the noted ones, newest first.
func (db *DB) RollOuts(ctx context.Context, p Page) ([]*operatorv1.RollOutRow, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	return paged(ctx, db, p, func(s scanner, n *int64) (*operatorv1.RollOutRow, error) {
		r := &operatorv1.RollOutRow{RollOut: &raftv1.RollOut{}, Behaviour: &sensorv1.Behaviour{}}
		err := s.Scan(n, protoColumn{r.RollOut}, &r.NotedAt, &r.Behaviour.Kind, &r.Behaviour.Subject, &r.Behaviour.Object, &r.Behaviour.FirstSeen)
		r.Behaviour.Key = r.GetRollOut().GetKey()
		return r, err
	}, `SELECT r.n, r.body, r.noted_at, coalesce(b.kind, 0), coalesce(b.subject, x''), coalesce(b.object, x''), coalesce(b.first_seen, 0)
		FROM roll_outs r LEFT JOIN behaviours b ON b.key = r.key WHERE r.n < ? ORDER BY r.n DESC LIMIT ?`, before)
}

// Suspects are the ids of hosts with an open incident: they teach nobody.
func (db *DB) Suspects(ctx context.Context) (map[string]bool, error) {
	hosts := make(map[string]bool)
	err := db.each(ctx, func(s scanner) error {
		in := &raftv1.Incident{}
		if err := s.Scan(protoColumn{in}); err != nil {
			return err
		}
		for _, h := range in.GetHosts() {
			hosts[h] = true
		}
		return nil
	}, "SELECT body FROM incidents WHERE status = 'open'")
	return hosts, err
}
