package store

import (
	"context"
	"fmt"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func scanCampaign(s scanner, n *int64) (*raftv1.Campaign, error) {
	c := &raftv1.Campaign{}
	return c, s.Scan(n, protoColumn{c})
}

// Campaigns lists campaigns, the last begun first; the filter is as for incidents.
func (db *DB) Campaigns(ctx context.Context, f IncidentFilter, p Page) ([]*raftv1.Campaign, string, error) {
	before, err := p.before()
	if err != nil {
		return nil, "", err
	}
	q, args := "SELECT n, body FROM campaigns WHERE n < ?", []any{before}
	if f.Status != "" {
		q += " AND status = ?"
		args = append(args, f.Status)
	}
	if f.Since != 0 {
		q += " AND last_seen >= ? AND n >= (SELECT coalesce(min(+n), 9223372036854775807) FROM campaigns WHERE last_seen >= ?)"
		args = append(args, f.Since, f.Since)
	}
	return paged(ctx, db, p, scanCampaign, q+" ORDER BY n DESC LIMIT ?", args...)
}

// Campaign reads one campaign.
func (db *DB) Campaign(ctx context.Context, id string) (c *raftv1.Campaign, err error) {
	err = db.each(ctx, func(s scanner) error {
		var n int64
		c, err = scanCampaign(s, &n)
		return err
	}, "SELECT n, body FROM campaigns WHERE id = ?", id)
	if err == nil && c == nil {
		err = fmt.Errorf("campaign %q: %w", id, ErrNotFound)
	}
	return c, err
}

// maxUsers bounds the behaviours that are looked at to say how usual an object is.
const maxUsers = 2000

// Usual is on how many hosts at least an object of behaviours is seen: an image, a domain, a
// peer. Whoever uses it most says so; hosts on which others use it are not added.
func (db *DB) Usual(ctx context.Context, kind sensorv1.BehaviourKind, object string) (hosts uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&hosts) },
		"SELECT coalesce(max(hosts), 0) FROM (SELECT hosts FROM behaviours WHERE kind = ? AND object = ? LIMIT ?)", int64(kind), []byte(object), maxUsers)
	return hosts, err
}

// Reach is a flow behaviour of a host: what a program of it connects to.
type Reach struct {
	Subject, Object string // the program; "out tcp 10.0.0.7 22"
	Count           uint64
	First, Last     int64 // Unix ns
}

// Reaches are a host's outbound flow behaviours.
func (db *DB) Reaches(ctx context.Context, host string) (out []Reach, err error) {
	kept, known, err := db.sightings(ctx, host, func(all []sighting) []sighting { return all })
	if err != nil {
		return nil, err
	}
	for _, s := range kept {
		d := known[string(s.key())]
		if d.kind == sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW && len(d.object) > 4 && string(d.object[:4]) == "out " {
			out = append(out, Reach{string(d.subject), string(d.object), uint64(s.count()), s.first(), s.last()})
		}
	}
	return out, nil
}

// HostCount is how many hosts are enrolled.
func (db *DB) HostCount(ctx context.Context) (n int, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&n) }, "SELECT count(*) FROM hosts WHERE removed = 0")
	return n, err
}
