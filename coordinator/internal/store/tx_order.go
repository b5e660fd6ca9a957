package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// States of an operation.
const (
	// OrderWaiting: another operator has to sign.
	OrderWaiting = "waiting"
	// OrderWindow: automation's, until its veto window closes.
	OrderWindow = "window"
	// OrderOrdered: it has gone out to its hosts.
	OrderOrdered = "ordered"
	OrderVetoed  = "vetoed"
)

// Order is an operation as a whole.
type Order struct {
	N     int64
	State string
	// Signed is what goes to the hosts; it has its signatures but for those that wait.
	Signed *sensorv1.SignedGrant
	// Body is what people are shown, without grant and state.
	Body *operatorv1.Operation
}

// AddOrder stores an operation; false when its id or nonce was used before.
func (tx *Tx) AddOrder(g *sensorv1.Grant, o *Order, now int64) (bool, error) {
	signed, err := encode(o.Signed)
	if err != nil {
		return false, fmt.Errorf("encoding grant: %w", err)
	}
	body, err := encode(o.Body)
	if err != nil {
		return false, fmt.Errorf("encoding operation: %w", err)
	}
	return tx.one(`INSERT INTO operations (id, nonce, action, requested_by, requested_at, reason, signed, state, epoch, undoes, window_ends, body)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING n`, func(v []val) { o.N = asInt(v[0]) },
		g.GetOperation(), blob(g.GetNonce()), int64(g.GetAction()), o.Body.GetRequestedBy(), now, g.GetReason(), signed,
		o.State, epochColumn(g.GetEpoch()), g.GetUndoes(), o.Body.GetWindowEnds(), body)
}

// Order reads an operation, nil when there is none.
func (tx *Tx) Order(id string) (o *Order, err error) {
	err = tx.rows("SELECT n, state, signed, body FROM operations WHERE id = ?", func(v []val) error {
		o = &Order{N: asInt(v[0]), State: asText(v[1]), Signed: &sensorv1.SignedGrant{}, Body: &operatorv1.Operation{}}
		if err := proto.Unmarshal(asBlob(v[2]), o.Signed); err != nil {
			return err
		}
		return proto.Unmarshal(asBlob(v[3]), o.Body)
	}, id)
	return o, err
}

// SetOrder writes an operation's state, grant and body anew. The nonce is that of
// the grant, which an approval of automation's proposal replaces.
func (tx *Tx) SetOrder(g *sensorv1.Grant, o *Order) error {
	signed, err := encode(o.Signed)
	if err != nil {
		return fmt.Errorf("encoding grant: %w", err)
	}
	body, err := encode(o.Body)
	if err != nil {
		return fmt.Errorf("encoding operation: %w", err)
	}
	_, err = tx.exec("UPDATE operations SET state = ?, signed = ?, body = ?, nonce = ?, epoch = ?, requested_by = ? WHERE n = ?",
		o.State, signed, body, blob(g.GetNonce()), epochColumn(g.GetEpoch()), o.Body.GetRequestedBy(), o.N)
	return err
}

// epochColumn is an epoch as SQLite holds it: times fit.
func epochColumn(epoch uint64) int64 { return int64(min(epoch, math.MaxInt64)) } //nolint:gosec // bounded

// FleetHost is what the governor knows of a host.
type FleetHost struct {
	N      int64
	ID     string
	Name   string
	Epoch  uint64
	Labels map[string]string
	Group  string // its value of the intent's group label
}

// Fleet is how many hosts there are, in all and in each role group.
type Fleet struct {
	Hosts  int
	Groups map[string]int
}

// ContainedHost is one on which something that the governor counts began.
type ContainedHost struct {
	N     int64
	At    int64 // Unix ns, the last time
	Group string
}

const (
	fleetHostQuery = "SELECT n, id, name, epoch, labels, facts, grp FROM hosts WHERE id = ? AND removed = 0"
	// fleetHostsQuery is the same for a JSON list of ids: a query for each of ten
	// thousand hosts would be compiled as often.
	fleetHostsQuery = `SELECT h.n, h.id, h.name, h.epoch, h.labels, h.facts, h.grp FROM json_each(?) j CROSS JOIN hosts h ON h.id = j.value AND h.removed = 0 ORDER BY j.key`
	// orderedHostsQuery is it without what only automation asks for: labels and facts.
	orderedHostsQuery = "SELECT h.n, h.id, h.epoch, h.grp FROM json_each(?) j CROSS JOIN hosts h ON h.id = j.value AND h.removed = 0"
	fleetQuery        = "SELECT grp, count(*) FROM hosts WHERE removed = 0 GROUP BY grp"
	// The rows of a day are many more than the hosts: they are put together first.
	containedQuery = `SELECT c.host, c.at, h.grp FROM (SELECT host, max(counted_at) AS at FROM isolations
		WHERE counted_at >= ? AND counted_at > 0 GROUP BY +host) c JOIN hosts h ON h.n = c.host`
)

// FleetHost reads one enrolled host; false when it is not.
func (tx *Tx) FleetHost(id string) (h FleetHost, ok bool, err error) {
	err = tx.rows(fleetHostQuery, func(v []val) error {
		h, ok = FleetHost{N: asInt(v[0]), ID: asText(v[1]), Name: asText(v[2]), Epoch: uint64(asInt(v[3])), Group: asText(v[6])}, true //nolint:gosec // stored by epochColumn
		facts := &sensorv1.HostFacts{}
		if err := proto.Unmarshal(asBlob(v[5]), facts); err != nil {
			return err
		}
		var labels map[string]string
		if err := decodeLabels(asBlob(v[4]), &labels); err != nil {
			return err
		}
		h.Labels = mergeLabels(facts.GetLabels(), labels)
		return nil
	}, id)
	return h, ok, err
}

// OrderedHosts reads those of some hosts that are enrolled, by id, without name and labels.
func (tx *Tx) OrderedHosts(ids []string) (map[string]FleetHost, error) {
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	hosts := make(map[string]FleetHost, len(ids))
	return hosts, tx.rows(orderedHostsQuery, func(v []val) error {
		id := asText(v[1])
		hosts[id] = FleetHost{N: asInt(v[0]), ID: id, Epoch: uint64(asInt(v[2])), Group: asText(v[3])} //nolint:gosec // stored by epochColumn
		return nil
	}, string(list))
}

// Fleet counts the enrolled hosts.
func (tx *Tx) Fleet() (f Fleet, err error) {
	f.Groups = make(map[string]int)
	err = tx.rows(fleetQuery, func(v []val) error {
		f.Hosts += int(asInt(v[1]))
		f.Groups[asText(v[0])] = int(asInt(v[1]))
		return nil
	})
	return f, err
}

// Contained are the hosts on which something that the governor counts began at or
// after a time.
func (tx *Tx) Contained(since int64) (hosts []ContainedHost, err error) {
	err = tx.rows(containedQuery, func(v []val) error {
		hosts = append(hosts, ContainedHost{N: asInt(v[0]), At: asInt(v[1]), Group: asText(v[2])})
		return nil
	}, since)
	return hosts, err
}

// groupLabel is the label whose values make the role groups.
func (tx *Tx) groupLabel() (label string, err error) {
	found, err := tx.one("SELECT group_label FROM governor", func(v []val) { label = asText(v[0]) })
	if !found {
		label = defaultGroupLabel
	}
	return label, err
}

// defaultGroupLabel is package intent's, for before there is one.
const defaultGroupLabel = "role"

func (tx *Tx) groupOf(labels map[string]string) (string, error) {
	label, err := tx.groupLabel()
	return labels[label], err
}

// SetGroupLabel puts every host into the group that another label gives it.
func (tx *Tx) SetGroupLabel(label string) error {
	current, err := tx.groupLabel()
	if err != nil || current == label {
		return err
	}
	if _, err := tx.exec("INSERT INTO governor (one, group_label) VALUES (1, ?1) ON CONFLICT DO UPDATE SET group_label = ?1", label); err != nil {
		return err
	}
	groups := make(map[int64]string)
	err = tx.rows("SELECT n, labels, facts FROM hosts", func(v []val) error {
		facts := &sensorv1.HostFacts{}
		if err := proto.Unmarshal(asBlob(v[2]), facts); err != nil {
			return err
		}
		var labels map[string]string
		if err := decodeLabels(asBlob(v[1]), &labels); err != nil {
			return err
		}
		groups[asInt(v[0])] = mergeLabels(facts.GetLabels(), labels)[label]
		return nil
	})
	if err != nil {
		return err
	}
	// In order: the chain is of what is written when.
	for _, n := range slices.Sorted(maps.Keys(groups)) {
		if _, err := tx.exec("UPDATE hosts SET grp = ? WHERE n = ?", groups[n], n); err != nil {
			return err
		}
	}
	return nil
}

// Uncount takes a row out of the governor's count: nothing came of it.
func (tx *Tx) Uncount(n int64) error {
	_, err := tx.exec("UPDATE isolations SET counted_at = 0 WHERE n = ? AND counted_at > 0", n)
	return err
}

// SetHostIntent notes the intent that a host says it judges by.
func (tx *Tx) SetHostIntent(host int64, version uint64) error {
	_, err := tx.exec("UPDATE hosts SET intent = ?1 WHERE n = ?2 AND intent <> ?1", clamp(version), host)
	return err
}

// Intent is the newest intent, nil when there is none.
func (tx *Tx) Intent() (signed *sensorv1.SignedIntent, err error) {
	err = tx.rows("SELECT signed FROM intents ORDER BY version DESC LIMIT 1", func(v []val) error {
		signed = &sensorv1.SignedIntent{}
		return proto.Unmarshal(asBlob(v[0]), signed)
	})
	return signed, err
}

// SignedNodes is the newest signed list of nodes, nil when there is none.
func (tx *Tx) SignedNodes() (signed *sensorv1.SignedNodes, err error) {
	err = tx.rows("SELECT signed FROM signed_nodes", func(v []val) error {
		signed = &sensorv1.SignedNodes{}
		return proto.Unmarshal(asBlob(v[0]), signed)
	})
	return signed, err
}

// PutSignedNodes replaces the signed list of nodes.
func (tx *Tx) PutSignedNodes(signed *sensorv1.SignedNodes) error {
	body, err := encode(signed)
	if err != nil {
		return fmt.Errorf("encoding list of nodes: %w", err)
	}
	_, err = tx.exec("INSERT INTO signed_nodes (one, signed) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET signed = excluded.signed", body)
	return err
}

// AddIntent stores the next version.
func (tx *Tx) AddIntent(version uint64, signed *sensorv1.SignedIntent, now int64) error {
	body, err := encode(signed)
	if err != nil {
		return fmt.Errorf("encoding intent: %w", err)
	}
	_, err = tx.exec("INSERT INTO intents (version, applied_at, signed) VALUES (?, ?, ?)", clamp(version), now, body)
	return err
}

// AutomaticIsolations is how often a host was isolated by automation, its own or
// the cluster's, since an operator last gave an order for it.
func (tx *Tx) AutomaticIsolations(host int64) (n int64, err error) {
	_, err = tx.one(`SELECT count(*) FROM isolations i JOIN operations o ON o.n = i.operation
		WHERE i.host = ?1 AND o.action = ?2 AND i.counted_at > 0 AND i.n > coalesce((SELECT max(p.n) FROM isolations p JOIN operations q ON q.n = p.operation
			WHERE p.host = ?1 AND q.requested_by NOT LIKE '%:%'), 0)`, func(v []val) { n = asInt(v[0]) },
		host, int64(sensorv1.Action_ACTION_ISOLATE))
	return n, err
}
