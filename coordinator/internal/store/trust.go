package store

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Trusts are the newest lists of trusted authorities, the one in force first.
func (tx *Tx) Trusts(limit int) (all []*sensorv1.SignedTrust, err error) {
	err = tx.rows("SELECT signed FROM trust ORDER BY epoch DESC LIMIT ?", func(v []val) error {
		signed := &sensorv1.SignedTrust{}
		all = append(all, signed)
		return proto.Unmarshal(asBlob(v[0]), signed)
	}, int64(limit))
	return all, err
}

// PutTrust adds the list that is in force from now on.
func (tx *Tx) PutTrust(epoch uint64, signed *sensorv1.SignedTrust, reason string) error {
	body, err := encode(signed)
	if err != nil {
		return fmt.Errorf("encoding list of trusted authorities: %w", err)
	}
	_, err = tx.exec("INSERT INTO trust (epoch, signed, reason) VALUES (?, ?, ?)", clamp(epoch), body, reason)
	return err
}

// NodesBelow are the nodes that have not said that they hold a list of this epoch.
func (tx *Tx) NodesBelow(epoch uint64) (ids []string, err error) {
	err = tx.rows("SELECT id FROM nodes WHERE trust_epoch < ? ORDER BY id", func(v []val) error {
		ids = append(ids, asText(v[0]))
		return nil
	}, clamp(epoch))
	return ids, err
}

// readyHost is whether a host would stay when only some authorities do.
const readyHost = "trust_epoch >= ?1 AND trust_root IN (?2, ?3, ?4, ?5)"

// fourKeys are the names of authorities as readyHost takes them; nobody has the empty one.
func fourKeys(keys [][]byte) (four [4][]byte) {
	for i := range four {
		four[i] = []byte{0}
		if i < len(keys) {
			four[i] = keys[i]
		}
	}
	return four
}

// HostsUnready counts the hosts seen since then that do not hold a list of this epoch, or
// whose certificate is by none of the authorities. First spares those that never held one.
func (tx *Tx) HostsUnready(epoch uint64, keys [][]byte, since int64, first bool) (n int64, one string, err error) {
	k, least := fourKeys(keys), int64(0)
	if first {
		least = 1
	}
	_, err = tx.one("SELECT count(*), coalesce(min(id), '') FROM hosts WHERE removed = 0 AND last_seen >= ?6 AND trust_epoch >= ?7 AND NOT ("+readyHost+")",
		func(v []val) { n, one = asInt(v[0]), asText(v[1]) }, clamp(epoch), k[0], k[1], k[2], k[3], since, least)
	return n, one, err
}

// NoteTrust keeps who holds which list.
func (tx *Tx) NoteTrust(in *raftv1.NoteTrust) error {
	for _, h := range in.GetHosts() {
		if _, err := tx.exec("UPDATE hosts SET trust_epoch = ?1, trust_root = ?2 WHERE id = ?3 AND (trust_epoch <> ?1 OR trust_root <> ?2)",
			clamp(h.GetEpoch()), blob(h.GetRoot()), h.GetHost()); err != nil {
			return err
		}
	}
	for _, n := range in.GetNodes() {
		if _, err := tx.exec("UPDATE nodes SET trust_epoch = ?1 WHERE id = ?2 AND trust_epoch <> ?1", clamp(n.GetEpoch()), n.GetName()); err != nil {
			return err
		}
	}
	for _, o := range in.GetOperators() {
		if _, err := tx.exec("UPDATE operators SET trust_epoch = ?1 WHERE name = ?2 AND trust_epoch < ?1", clamp(o.GetEpoch()), o.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// Trusts are all lists of trusted authorities, the one in force first.
func (db *DB) Trusts(ctx context.Context) (all []*sensorv1.SignedTrust, err error) {
	err = db.each(ctx, func(s scanner) error {
		signed := &sensorv1.SignedTrust{}
		all = append(all, signed)
		return s.Scan(protoColumn{signed})
	}, "SELECT signed FROM trust ORDER BY epoch DESC")
	return all, err
}

// Trust is the one in force, nil when none was ever signed.
func (db *DB) Trust(ctx context.Context) (signed *sensorv1.SignedTrust, err error) {
	err = db.each(ctx, func(s scanner) error {
		signed = &sensorv1.SignedTrust{}
		return s.Scan(protoColumn{signed})
	}, "SELECT signed FROM trust ORDER BY epoch DESC LIMIT 1")
	return signed, err
}

// NodeTrust is the epoch that a node has said it holds.
func (db *DB) NodeTrust(ctx context.Context, id string) (epoch uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&epoch) }, "SELECT trust_epoch FROM nodes WHERE id = ?", id)
	return epoch, err
}

// TrustHolders are who holds which list: of the hosts those that were seen since then, in
// sums and some of those that are not ready (see Tx.HostsUnready).
func (db *DB) TrustHolders(ctx context.Context, epoch uint64, keys [][]byte, since int64, names int) (*operatorv1.GetTrustResponse, error) {
	out := &operatorv1.GetTrustResponse{}
	err := db.each(ctx, func(s scanner) error {
		c := &operatorv1.TrustCount{}
		if err := s.Scan(&c.Epoch, &c.Root, &c.Hosts); err != nil {
			return err
		}
		out.Counts = append(out.Counts, c)
		out.Hosts += c.GetHosts()
		return nil
	}, "SELECT trust_epoch, trust_root, count(*) FROM hosts WHERE removed = 0 AND last_seen >= ? GROUP BY trust_epoch, trust_root ORDER BY trust_epoch, trust_root", since)
	if err != nil {
		return nil, err
	}
	k := fourKeys(keys)
	args := []any{clamp(epoch), k[0], k[1], k[2], k[3], since}
	if err := db.each(ctx, func(s scanner) error { return s.Scan(&out.UnreadyCount) },
		"SELECT count(*) FROM hosts WHERE removed = 0 AND last_seen >= ?6 AND NOT ("+readyHost+")", args...); err != nil {
		return nil, err
	}
	if err := db.each(ctx, func(s scanner) error {
		var name string
		err := s.Scan(&name)
		out.Unready = append(out.Unready, name)
		return err
	}, "SELECT name || ' (' || id || ')' FROM hosts WHERE removed = 0 AND last_seen >= ?6 AND NOT ("+readyHost+") ORDER BY id LIMIT ?7", append(args, names)...); err != nil {
		return nil, err
	}
	holder := func(into *[]*operatorv1.TrustHolder) func(scanner) error {
		return func(s scanner) error {
			h := &operatorv1.TrustHolder{}
			*into = append(*into, h)
			return s.Scan(&h.Name, &h.Epoch)
		}
	}
	if err := db.each(ctx, holder(&out.Nodes), "SELECT id, trust_epoch FROM nodes ORDER BY id"); err != nil {
		return nil, err
	}
	err = db.each(ctx, holder(&out.Holders), "SELECT name, trust_epoch FROM operators WHERE name NOT IN (SELECT name FROM revoked_operators) ORDER BY name")
	return out, err
}
