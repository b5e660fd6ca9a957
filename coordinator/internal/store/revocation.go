package store

import (
	"context"
	"encoding/base64"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// HostExists says whether a host has this id, or had it before it was removed.
func (tx *Tx) HostExists(id string) (exists bool, err error) {
	return tx.one("SELECT 1 FROM hosts WHERE id = ?", func([]val) {}, id)
}

// SetHostKey notes the hash of the key that a host uses; an empty one says nothing.
func (tx *Tx) SetHostKey(host int64, sum []byte) error {
	if len(sum) == 0 {
		return nil
	}
	_, err := tx.exec("UPDATE hosts SET key_sha256 = ?1 WHERE n = ?2 AND key_sha256 <> ?1", blob(sum), host)
	return err
}

// RemoveHost ends a host's identity: from here on no host has its id, and its key
// enrols no more. Nobody will be told that it is silent.
func (tx *Tx) RemoveHost(id string, host, now int64) error {
	if _, err := tx.exec(`INSERT INTO revoked_keys (key_sha256, host, at)
		SELECT key_sha256, id, ?1 FROM hosts WHERE n = ?2 AND key_sha256 <> x'' ON CONFLICT DO NOTHING`, now, host); err != nil {
		return err
	}
	delete(tx.db.hot.hosts, id)
	if err := tx.dropLearning(host); err != nil {
		return err
	}
	if err := tx.dropLabels(host); err != nil {
		return err
	}
	_, err := tx.exec(`UPDATE hosts SET removed = ?1, connected = 0, ended = 'removed', ended_detail = '', ended_at = ?1, silence = '', blind = '' WHERE n = ?2`, now, host)
	return err
}

// RevokedKey is whose key it was, "" when it is nobody's who was removed.
func (tx *Tx) RevokedKey(sum []byte) (host string, err error) {
	_, err = tx.one("SELECT host FROM revoked_keys WHERE key_sha256 = ?", func(v []val) { host = asText(v[0]) }, blob(sum))
	return host, err
}

// Revocations is the newest list of revoked operators, nil when nobody ever was.
func (tx *Tx) Revocations() (signed *sensorv1.SignedRevocations, err error) {
	err = tx.rows("SELECT signed FROM revocations", func(v []val) error {
		signed = &sensorv1.SignedRevocations{}
		return proto.Unmarshal(asBlob(v[0]), signed)
	})
	return signed, err
}

// Revoked are the operators whose word counts no more.
func (tx *Tx) Revoked() (names revocation.Revoked, err error) {
	err = tx.rows("SELECT name, at FROM revoked_operators", func(v []val) error {
		if names == nil {
			names = make(revocation.Revoked)
		}
		names[asText(v[0])] = asInt(v[1])
		return nil
	})
	return names, err
}

// PutRevocations replaces the list, and adds its names to those that are revoked.
func (tx *Tx) PutRevocations(signed *sensorv1.SignedRevocations, list *sensorv1.Revocations, reason string) error {
	body, err := encode(signed)
	if err != nil {
		return fmt.Errorf("encoding list of revoked operators: %w", err)
	}
	if _, err := tx.exec("INSERT INTO revocations (one, signed) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET signed = excluded.signed", body); err != nil {
		return err
	}
	for _, o := range list.GetOperators() {
		if _, err := tx.exec("INSERT INTO revoked_operators (name, at, by, reason) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
			o.GetName(), o.GetAt(), list.GetOperator(), reason); err != nil {
			return err
		}
	}
	return nil
}

// CountOperators is how many operators were ever seen.
func (tx *Tx) CountOperators() (n int64, err error) {
	_, err = tx.one("SELECT count(*) FROM operators", func(v []val) { n = asInt(v[0]) })
	return n, err
}

// PutOperator makes an operator or changes what is known of one; false when nothing
// changed: an older certificate says nothing new.
func (tx *Tx) PutOperator(o *raftv1.PutOperator, now int64) (bool, error) {
	n, err := tx.exec(`INSERT INTO operators (name, role, not_after, made_by, first_seen) VALUES (?1, ?2, ?3, ?4, ?5)
		ON CONFLICT DO UPDATE SET role = ?2, not_after = ?3, made_by = ?4
		WHERE ?3 >= not_after AND (role <> ?2 OR not_after <> ?3 OR made_by <> ?4)`, o.GetName(), o.GetRole(), o.GetNotAfter(), o.GetMadeBy(), now)
	return n > 0, err
}

// Revocations is the newest list of revoked operators, nil when nobody ever was.
func (db *DB) Revocations(ctx context.Context) (signed *sensorv1.SignedRevocations, err error) {
	err = db.each(ctx, func(s scanner) error {
		signed = &sensorv1.SignedRevocations{}
		return s.Scan(protoColumn{signed})
	}, "SELECT signed FROM revocations")
	return signed, err
}

// Revoked are the operators whose word counts no more, as far as this node knows.
func (db *DB) Revoked(ctx context.Context) (names revocation.Revoked, err error) {
	err = db.each(ctx, func(s scanner) error {
		var name string
		var at int64
		err := s.Scan(&name, &at)
		if names == nil {
			names = make(revocation.Revoked)
		}
		names[name] = at
		return err
	}, "SELECT name, at FROM revoked_operators")
	return names, err
}

// Operators are those who were seen, and those who were revoked, by name; a page goes on behind a name.
func (db *DB) Operators(ctx context.Context, p Page) (out []*operatorv1.OperatorRow, token string, err error) {
	after, err := base64.RawURLEncoding.DecodeString(p.Token)
	if err != nil {
		return nil, "", ErrBadPage
	}
	limit := p.limit()
	err = db.each(ctx, func(s scanner) error {
		o := &operatorv1.OperatorRow{}
		if len(out) == limit { // the row beyond says that there is a next page
			token = base64.RawURLEncoding.EncodeToString([]byte(out[limit-1].GetName()))
			return nil
		}
		out = append(out, o)
		return s.Scan(&o.Name, &o.Role, &o.NotAfter, &o.MadeBy, &o.FirstSeen, &o.RevokedAt, &o.RevokedBy, &o.Reason)
	}, `SELECT n.name, coalesce(o.role, ''), coalesce(o.not_after, 0), coalesce(o.made_by, ''), coalesce(o.first_seen, 0),
		coalesce(r.at, 0), coalesce(r.by, ''), coalesce(r.reason, '')
		FROM (SELECT name FROM operators WHERE name > ?1 UNION SELECT name FROM revoked_operators WHERE name > ?1 ORDER BY name LIMIT ?2) n
		LEFT JOIN operators o ON o.name = n.name LEFT JOIN revoked_operators r ON r.name = n.name ORDER BY n.name`, string(after), limit+1)
	return out, token, err
}

// RemovedHosts are the ids of all hosts that were removed.
func (db *DB) RemovedHosts(ctx context.Context) (out []string, err error) {
	err = db.each(ctx, func(s scanner) error {
		var id string
		err := s.Scan(&id)
		out = append(out, id)
		return err
	}, "SELECT id FROM hosts WHERE removed > 0 ORDER BY n")
	return out, err
}
