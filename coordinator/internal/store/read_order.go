package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const orderColumns = "o.n, o.state, o.signed, o.body"

// scanOrder reads an operation as a whole. A grant's end is judged by now: what
// waited for too long cannot be approved any more.
func scanOrder(now time.Time) func(s scanner, n *int64) (*operatorv1.Operation, error) {
	return func(s scanner, n *int64) (*operatorv1.Operation, error) {
		o := &operatorv1.Operation{}
		signed := &sensorv1.SignedGrant{}
		var state string
		if err := s.Scan(n, &state, protoColumn{signed}, protoColumn{o}); err != nil {
			return nil, err
		}
		o.State = state
		if len(signed.GetPayload()) == 0 {
			return o, nil // begun by a host
		}
		o.Grant = signed
		g, err := grant.Decode(signed.GetPayload())
		if err != nil {
			return nil, fmt.Errorf("decoding operation %s: %w", o.GetId(), err)
		}
		if state == OrderWaiting || state == OrderWindow {
			if missing := max(1, int(g.GetApprovals())) - len(o.GetApprovedBy()); missing > 0 {
				o.ApprovalsMissing = uint32(missing) //nolint:gosec // at most grant.MaxSigners
			}
			if g.GetNotAfter() <= now.UnixNano() {
				o.State = "expired"
			}
		}
		return o, nil
	}
}

// Orders lists operations as wholes, the last requested first; open ones alone are
// those that wait for somebody.
func (db *DB) Orders(ctx context.Context, open bool, now time.Time, p Page) ([]*operatorv1.Operation, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q := "SELECT " + orderColumns + " FROM operations o WHERE o.n < ?"
	if open {
		q += " AND o.state IN ('waiting', 'window')"
	}
	return paged(ctx, db, p, scanOrder(now), q+" ORDER BY o.n DESC LIMIT ?", before)
}

// Order reads one operation as a whole.
func (db *DB) Order(ctx context.Context, id string, now time.Time) (out *operatorv1.Operation, err error) {
	err = db.each(ctx, func(s scanner) (err error) {
		var n int64
		out, err = scanOrder(now)(s, &n)
		return err
	}, "SELECT "+orderColumns+" FROM operations o WHERE o.id = ?", id)
	if err == nil && out == nil {
		err = fmt.Errorf("operation %q: %w", id, ErrNotFound)
	}
	return out, err
}

// WindowsEnding are the operations whose veto window has ended by now, oldest first.
func (db *DB) WindowsEnding(ctx context.Context, now int64) (ids []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		ids = append(ids, "")
		return s.Scan(&ids[len(ids)-1])
	}, "SELECT id FROM operations WHERE state = 'window' AND window_ends <= ? ORDER BY n LIMIT 100", now)
	return ids, err
}

// LastEpoch is the highest place in the order of grants that was given.
func (db *DB) LastEpoch(ctx context.Context) (epoch uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&epoch) }, "SELECT coalesce(max(epoch), 0) FROM operations")
	return epoch, err
}

// Governed is what the governor looks at, as the log's application does: the fleet,
// which of it is contained since a time, and the hosts of an order.
func (db *DB) Governed(ctx context.Context, since int64, ids []string) (fleet Fleet, contained []ContainedHost, hosts []FleetHost, err error) {
	fleet.Groups = make(map[string]int)
	err = db.each(ctx, func(s scanner) error {
		var group string
		var n int
		if err := s.Scan(&group, &n); err != nil {
			return err
		}
		fleet.Hosts += n
		fleet.Groups[group] = n
		return nil
	}, fleetQuery)
	if err != nil {
		return fleet, nil, nil, err
	}
	err = db.each(ctx, func(s scanner) error {
		var h ContainedHost
		if err := s.Scan(&h.N, &h.At, &h.Group); err != nil {
			return err
		}
		contained = append(contained, h)
		return nil
	}, containedQuery, since)
	if err != nil {
		return fleet, nil, nil, err
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return fleet, nil, nil, fmt.Errorf("encoding ids: %w", err)
	}
	err = db.each(ctx, func(s scanner) error {
		h := FleetHost{}
		facts := &sensorv1.HostFacts{}
		var labels map[string]string
		if err := s.Scan(&h.N, &h.ID, &h.Name, &h.Epoch, labelsColumn{&labels}, protoColumn{facts}, &h.Group); err != nil {
			return err
		}
		h.Labels = mergeLabels(facts.GetLabels(), labels)
		hosts = append(hosts, h)
		return nil
	}, fleetHostsQuery, string(list))
	return fleet, contained, hosts, err
}

// Intent is a version of the intent, the newest for 0; nil when there is none.
func (db *DB) Intent(ctx context.Context, version uint64) (signed *sensorv1.SignedIntent, err error) {
	q := "SELECT signed FROM intents WHERE version = ?"
	if version == 0 {
		q = "SELECT signed FROM intents WHERE version > ? ORDER BY version DESC LIMIT 1"
	}
	err = db.each(ctx, func(s scanner) error {
		signed = &sensorv1.SignedIntent{}
		return s.Scan(protoColumn{signed})
	}, q, clamp(version))
	if err == nil && signed == nil && version != 0 {
		err = fmt.Errorf("intent version %d: %w", version, ErrNotFound)
	}
	return signed, err
}

// SignedNodes is the newest signed list of nodes, nil when there is none.
func (db *DB) SignedNodes(ctx context.Context) (signed *sensorv1.SignedNodes, err error) {
	err = db.each(ctx, func(s scanner) error {
		signed = &sensorv1.SignedNodes{}
		return s.Scan(protoColumn{signed})
	}, "SELECT signed FROM signed_nodes")
	return signed, err
}

// Intents lists the versions, the newest first.
func (db *DB) Intents(ctx context.Context, p Page) ([]*sensorv1.SignedIntent, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	return paged(ctx, db, p, func(s scanner, n *int64) (*sensorv1.SignedIntent, error) {
		signed := &sensorv1.SignedIntent{}
		return signed, s.Scan(n, protoColumn{signed})
	}, "SELECT version, signed FROM intents WHERE version < ? ORDER BY version DESC LIMIT ?", before)
}

// IntentSpread is how many hosts there are, and how many judge by a version.
func (db *DB) IntentSpread(ctx context.Context, version uint64) (hosts, current uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&hosts, &current) },
		"SELECT count(*), coalesce(sum(intent = ?), 0) FROM hosts WHERE removed = 0", clamp(version))
	return hosts, current, err
}
