package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// HostFilter limits a list of hosts. The zero value is every host.
type HostFilter struct {
	IDs    []string          // ids or names; a name takes every host that has it
	Labels map[string]string // all must match
}

const hostColumns = "n, id, name, address, node, connected, last_seen, enrolled_at, version, isolation, ended, ended_detail, labels, facts, health, removed, two_places, two_places_at"

func scanHost(s scanner, n *int64) (*operatorv1.Host, error) {
	h := &operatorv1.Host{Facts: &sensorv1.HostFacts{}, Health: &sensorv1.Health{}}
	var connected bool
	var removed int64
	var labels map[string]string
	if err := s.Scan(n, &h.Id, &h.Name, &h.Address, &h.Node, &connected, &h.LastSeen, &h.EnrolledAt,
		&h.SensorVersion, &h.Isolation, &h.Ended, &h.EndedDetail, labelsColumn{&labels}, protoColumn{h.Facts}, protoColumn{h.Health}, &removed, &h.TwoPlaces, &h.TwoPlacesAt); err != nil {
		return nil, err
	}
	h.Labels = mergeLabels(h.Facts.GetLabels(), labels)
	switch {
	case removed > 0:
		h.State = "removed"
	case connected && h.Health.GetBlind():
		h.State = "blind"
	case connected:
		h.State = "online"
	case h.LastSeen == 0:
		h.State = "never-seen"
	case h.Ended == "stopped":
		h.State = "stopped"
	default:
		h.State = "silent"
	}
	h.EventsTotal, h.EventsSuppressed, h.EventsLost = h.Health.GetEventsTotal(), h.Health.GetEventsSuppressed(), h.Health.GetEventsLost()
	h.Baseline = h.Health.GetBaseline()
	if empty(h.Health) {
		h.Health = nil
	}
	return h, nil
}

// mergeLabels: an operator's label wins over what a host says about itself.
func mergeLabels(own, operators map[string]string) map[string]string {
	labels := maps.Clone(own)
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.Copy(labels, operators)
	return labels
}

// query is the filter's, from behind a row number on, without its end; everything in it begins at an index.
func (f HostFilter) query(after int64) (q string, args []any, err error) {
	q = "SELECT " + hostColumns + " FROM hosts WHERE removed = 0"
	keys := slices.Sorted(maps.Keys(f.Labels))
	switch {
	case len(keys) > 0:
		q = "SELECT " + hostColumns + " FROM host_labels l CROSS JOIN hosts ON n = l.host WHERE l.key = ? AND l.value = ? AND l.host > ? AND removed = 0"
		args = append(args, keys[0], f.Labels[keys[0]], after)
		for _, key := range keys[1:] {
			q += " AND EXISTS (SELECT 1 FROM host_labels o WHERE o.host = l.host AND o.key = ? AND o.value = ?)"
			args = append(args, key, f.Labels[key])
		}
	case len(f.IDs) > 0:
		q += " AND +n > ?"
		args = append(args, after)
	default:
		q += " AND n > ?"
		args = append(args, after)
	}
	if len(f.IDs) > 0 {
		list, err := json.Marshal(f.IDs)
		if err != nil {
			return "", nil, err
		}
		// A host chooses its name: one that is another's id must not bring it into what is done to that one.
		q += ` AND n IN (SELECT h.n FROM json_each(?) j CROSS JOIN hosts h ON h.id = j.value
			UNION SELECT h.n FROM json_each(?) j CROSS JOIN hosts h ON h.name = j.value WHERE NOT EXISTS (SELECT 1 FROM hosts o WHERE o.id = j.value))`
		args = append(args, string(list), string(list))
	}
	if len(keys) > 0 {
		return q + " ORDER BY l.host", args, nil
	}
	return q + " ORDER BY n", args, nil
}

// Hosts lists hosts in the order of their enrolment, with their loss totals.
func (db *DB) Hosts(ctx context.Context, f HostFilter, p Page) ([]*operatorv1.Host, string, error) {
	after := int64(-1)
	if p.Token != "" {
		n, err := p.before()
		if err != nil {
			return nil, "", err
		}
		after = n
	}
	q, args, err := f.query(after)
	if err != nil {
		return nil, "", err
	}
	var numbers []int64
	hosts, next, err := paged(ctx, db, p, func(s scanner, n *int64) (*operatorv1.Host, error) {
		h, err := scanHost(s, n)
		numbers = append(numbers, *n)
		return h, err
	}, q+" LIMIT ?", args...)
	if err != nil {
		return nil, "", err
	}
	return hosts, next, db.addLosses(ctx, f, hosts, numbers)
}

// addLosses reads the losses of listed hosts, with one look: an order for a whole fleet waits for it.
func (db *DB) addLosses(ctx context.Context, f HostFilter, hosts []*operatorv1.Host, numbers []int64) error {
	if len(hosts) == 0 {
		return nil
	}
	q, args := "host BETWEEN ? AND ?", []any{numbers[0], numbers[len(numbers)-1]}
	if len(f.IDs)+len(f.Labels) > 0 { // there may be many between them
		list, err := json.Marshal(numbers)
		if err != nil {
			return err
		}
		q, args = "host IN (SELECT value FROM json_each(?))", []any{string(list)}
	}
	i := 0
	return db.each(ctx, func(s scanner) error {
		var host int64
		l := &sensorv1.Loss{}
		if err := s.Scan(&host, &l.Where, &l.Cause, &l.Count); err != nil {
			return err
		}
		for i < len(numbers) && numbers[i] < host {
			i++
		}
		if i < len(numbers) && numbers[i] == host {
			hosts[i].Losses = append(hosts[i].Losses, l)
		}
		return nil
	}, "SELECT host, place, cause, count FROM losses WHERE "+q+" ORDER BY host, place, cause", args...)
}

func (db *DB) losses(ctx context.Context, host int64) (out []*sensorv1.Loss, err error) {
	err = db.each(ctx, func(s scanner) error {
		l := &sensorv1.Loss{}
		out = append(out, l)
		return s.Scan(&l.Where, &l.Cause, &l.Count)
	}, "SELECT place, cause, count FROM losses WHERE host = ? ORDER BY place, cause", host)
	return out, err
}

// Host reads one host, by id or by a name that only one host has.
func (db *DB) Host(ctx context.Context, idOrName string) (*operatorv1.Host, error) {
	var host *operatorv1.Host
	var n int64
	exact, found := false, 0
	err := db.each(ctx, func(s scanner) error {
		var row int64
		h, err := scanHost(s, &row)
		if err != nil {
			return err
		}
		if h.GetId() == idOrName {
			host, n, exact = h, row, true
		} else if !exact {
			host, n = h, row
		}
		found++
		return nil
	}, "SELECT "+hostColumns+" FROM hosts WHERE id = ?1 OR name = ?1 AND removed = 0 ORDER BY id <> ?1 LIMIT 2", idOrName)
	switch {
	case err != nil:
		return nil, err
	case found == 0:
		return nil, fmt.Errorf("host %q: %w", idOrName, ErrNotFound)
	case found > 1 && !exact:
		return nil, fmt.Errorf("host %q: %w", idOrName, ErrAmbiguous)
	}
	host.Losses, err = db.losses(ctx, n)
	return host, err
}

// Session is the number of a host's newest session, 0 before the first, and
// whether it stands. The next session of that host must be higher.
func (db *DB) Session(ctx context.Context, host string) (session uint64, connected bool, err error) {
	found := false
	err = db.each(ctx, func(s scanner) error {
		found = true
		return s.Scan(&session, &connected)
	}, "SELECT session, connected FROM hosts WHERE id = ? AND removed = 0", host)
	if err == nil && !found {
		err = fmt.Errorf("host %q: %w", host, ErrNotFound)
	}
	return session, connected, err
}

// Position is the last sequence stored of a host's boot; 0 when there is none.
func (db *DB) Position(ctx context.Context, host string, boot []byte) (sequence uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&sequence) },
		"SELECT sequence FROM positions WHERE boot = ? AND host = (SELECT n FROM hosts WHERE id = ?)", blob(boot), host)
	return sequence, err
}

// Prevalence is on how many hosts a behaviour is seen.
func (db *DB) Prevalence(ctx context.Context, key []byte) (hosts uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&hosts) }, "SELECT hosts FROM behaviours WHERE key = ?", blob(key))
	return hosts, err
}

// Nodes are the coordinator nodes, by id.
func (db *DB) Nodes(ctx context.Context) (out []*sensorv1.Node, err error) {
	err = db.each(ctx, func(s scanner) error {
		n := &sensorv1.Node{}
		out = append(out, n)
		return s.Scan(&n.Id, &n.Address, &n.OperatorAddress)
	}, "SELECT id, address, operator_address FROM nodes ORDER BY id")
	return out, err
}

// Operator is an operator's role.
func (db *DB) Operator(ctx context.Context, name string) (role string, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&role) }, "SELECT role FROM operators WHERE name = ?", name)
	if err == nil && role == "" {
		err = fmt.Errorf("operator %q: %w", name, ErrNotFound)
	}
	return role, err
}

// ClusterID is the cluster's id, empty before it has one.
func (db *DB) ClusterID(ctx context.Context) (id string, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&id) }, "SELECT id FROM cluster")
	return id, err
}

// Tokens are the join tokens, newest first, without their secrets (only a hash is kept).
func (db *DB) Tokens(ctx context.Context) (out []*Token, err error) {
	err = db.each(ctx, func(s scanner) error {
		t := &Token{}
		out = append(out, t)
		return s.Scan(&t.ID, &t.SecretSHA256, &t.Kind, &t.Expires, &t.Created, &t.UsedAt, &t.UsedBy, labelsColumn{&t.Labels})
	}, "SELECT "+tokenColumns+" FROM tokens ORDER BY created DESC, id LIMIT ?", MaxPage)
	return out, err
}

// Enrolled is the host that a sensor's token was spent on, with the hash of its newest key
// and the token's end; "" when the token was spent on none, or the host was removed.
func (db *DB) Enrolled(ctx context.Context, token string) (host string, key []byte, expires int64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&host, &key, &expires) },
		"SELECT h.id, h.key_sha256, t.expires FROM tokens t JOIN hosts h ON h.id = t.used_by AND h.removed = 0 WHERE t.id = ? AND t.used_at > 0 AND t.kind = ?",
		token, int64(sensorv1.EnrollKind_ENROLL_KIND_SENSOR))
	return host, key, expires, err
}

// Counts are the figures of a status page.
type Counts struct {
	Hosts, HostsSilent, FindingsSince, IncidentsOpen, Isolated uint64
	// Hosts that are not as they were ordered to be: whose newest order to isolate or release was
	// refused or failed, and that have not answered one.
	IsolationsFailed, IsolationsPending uint64
}

// Counts reads the figures; findings are those stored since the given time.
func (db *DB) Counts(ctx context.Context, since int64) (c Counts, err error) {
	// Not by hosts.isolation: a later order of another kind takes "failed" out of it. A host's newest order
	// is its index's last entry, and what is pending is few. A host that was only asked what it would do
	// is in no budget, and that it has not answered says nothing of how it is.
	const (
		ofIsolation = "(o.action = 1 AND (i.state <> 1 OR i.counted_at > 0) OR o.action = 2 AND o.undoes = '')"
		newest      = "SELECT i.state FROM isolations i JOIN operations o ON o.n = i.operation WHERE i.host = hosts.n AND i.state <> 7 AND " + ofIsolation + " ORDER BY i.n DESC LIMIT 1"
	)
	err = db.each(ctx, func(s scanner) error {
		return s.Scan(&c.Hosts, &c.HostsSilent, &c.Isolated, &c.IsolationsFailed, &c.IsolationsPending, &c.FindingsSince, &c.IncidentsOpen)
	}, `SELECT count(*) FILTER (WHERE removed = 0),
		count(*) FILTER (WHERE connected = 0 AND last_seen > 0 AND ended NOT IN ('stopped', 'removed')),
		count(*) FILTER (WHERE isolation = 'applied' AND removed = 0),
		count(*) FILTER (WHERE removed = 0 AND (`+newest+`) IN (4, 5)),
		(SELECT count(DISTINCT +i.host) FROM isolations i JOIN operations o ON o.n = i.operation WHERE i.state IN (1, 2) AND i.state = 1 AND `+ofIsolation+`),
		(SELECT count(*) FROM findings WHERE stored_at >= ?),
		(SELECT count(*) FROM incidents WHERE status = 'open') FROM hosts`, since)
	return c, err
}
