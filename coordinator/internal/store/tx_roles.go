package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// MaxRoles bounds the role groups, and the packs that operators signed for them.
	MaxRoles = 1024
	// maxUnlearns and maxRollOuts bound what is remembered: the oldest goes.
	maxUnlearns = 10_000
	maxRollOuts = 4096
)

// PutRole makes a role group, or changes what its hosts are compared with; false when there
// are MaxRoles others.
func (tx *Tx) PutRole(g *raftv1.RoleGroup) (bool, error) {
	var have int64
	if _, err := tx.one("SELECT count(*) FROM roles WHERE name <> ?", func(v []val) { have = asInt(v[0]) }, g.GetName()); err != nil {
		return false, err
	}
	if have >= MaxRoles {
		return false, nil
	}
	_, err := tx.exec("INSERT INTO roles (name, basis, sketch, made_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET basis = ?2, sketch = ?3",
		g.GetName(), g.GetBasis(), blob(g.GetSketch()), tx.Time)
	return true, err
}

// DropRole ends a role group; its hosts have none any more.
func (tx *Tx) DropRole(name string) error {
	if _, err := tx.exec("DELETE FROM host_roles WHERE role = ?", name); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM roles WHERE name = ?", name)
	return err
}

// RoleExists says whether there is a role group of that name.
func (tx *Tx) RoleExists(name string) (bool, error) {
	return tx.one("SELECT 1 FROM roles WHERE name = ?", func([]val) {}, name)
}

// SetHostRole puts a host into a role group, or with an empty name into none.
func (tx *Tx) SetHostRole(host int64, role string, permille uint32) error {
	if role == "" {
		_, err := tx.exec("DELETE FROM host_roles WHERE host = ?", host)
		return err
	}
	_, err := tx.exec(`INSERT INTO host_roles (host, role, permille, since) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (host) DO UPDATE SET since = CASE role WHEN ?2 THEN since ELSE ?4 END, role = ?2, permille = ?3`, host, role, int64(permille), tx.Time)
	return err
}

// PutPack replaces a role's pack, and drops those that have ended; false when there are MaxRoles others, or a newer one.
func (tx *Tx) PutPack(signed *sensorv1.SignedPack, p *sensorv1.Pack) (bool, error) {
	body, err := encode(signed)
	if err != nil {
		return false, fmt.Errorf("encoding pack: %w", err)
	}
	if _, err := tx.exec("DELETE FROM packs WHERE not_after <= ?", tx.Time); err != nil {
		return false, err
	}
	n, err := tx.exec(`INSERT INTO packs (role, signed, operator, made_at, not_after)
		SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT count(*) FROM packs WHERE role <> ?1) < ?6
		ON CONFLICT (role) DO UPDATE SET signed = ?2, operator = ?3, made_at = ?4, not_after = ?5 WHERE made_at < ?4`,
		p.GetRole(), body, p.GetOperator(), p.GetMadeAt(), p.GetNotAfter(), int64(MaxRoles))
	return n > 0, err
}

// AddUnlearn notes an order to a host; false when its id was used.
func (tx *Tx) AddUnlearn(host int64, signed *sensorv1.SignedUnlearn, u *sensorv1.Unlearn) (bool, error) {
	body, err := encode(signed)
	if err != nil {
		return false, fmt.Errorf("encoding order to unlearn: %w", err)
	}
	if _, err := tx.exec("DELETE FROM unlearns WHERE n <= (SELECT max(n) FROM unlearns) - ?", int64(maxUnlearns)); err != nil {
		return false, err
	}
	n, err := tx.exec(`INSERT INTO unlearns (id, host, signed, operator, given_at, not_after, answered_at, behaviours, failure)
		VALUES (?, ?, ?, ?, ?, ?, 0, 0, '') ON CONFLICT (id) DO NOTHING`, u.GetId(), host, body, u.GetOperator(), u.GetIssuedAt(), u.GetNotAfter())
	return n > 0, err
}

// AnswerUnlearn notes what a host says that became of one; false when it is none of its that waits.
func (tx *Tx) AnswerUnlearn(host int64, by *sensorv1.Unlearnt) (bool, error) {
	n, err := tx.exec("UPDATE unlearns SET answered_at = ?, behaviours = ?, failure = ? WHERE id = ? AND host = ? AND answered_at = 0",
		max(tx.Time, 1), int64(by.GetBehaviours()), by.GetFailure(), by.GetId(), host)
	return n > 0, err
}

// RollOut is what was noted of a behaviour, nil when nothing was.
func (tx *Tx) RollOut(key []byte) (r *raftv1.RollOut, err error) {
	err = tx.rows("SELECT body FROM roll_outs WHERE key = ?", func(v []val) error {
		r = &raftv1.RollOut{}
		return proto.Unmarshal(asBlob(v[0]), r)
	}, blob(key))
	return r, err
}

// PutRollOut notes one, or more hosts of it.
func (tx *Tx) PutRollOut(r *raftv1.RollOut) error {
	body, err := encode(r)
	if err != nil {
		return fmt.Errorf("encoding roll-out: %w", err)
	}
	if _, err := tx.exec("DELETE FROM roll_outs WHERE n <= (SELECT max(n) FROM roll_outs) - ?", int64(maxRollOuts)); err != nil {
		return err
	}
	_, err = tx.exec("INSERT INTO roll_outs (key, noted_at, body) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET body = ?3", blob(r.GetKey()), tx.Time, body)
	return err
}

// Behaviour is what the fleet knows a behaviour to be, nil when nothing.
func (tx *Tx) Behaviour(key []byte) (b *sensorv1.Behaviour, hosts int64, err error) {
	_, err = tx.one("SELECT kind, subject, object, first_seen, hosts FROM behaviours WHERE key = ?", func(v []val) {
		b = &sensorv1.Behaviour{Key: key, Kind: sensorv1.BehaviourKind(asInt(v[0])), Subject: asBlob(v[1]), Object: asBlob(v[2]), FirstSeen: asInt(v[3])} //nolint:gosec // a kind
		hosts = asInt(v[4])
	}, blob(key))
	return b, hosts, err
}

// dropLearning takes a removed host out of its role group, and its orders away.
func (tx *Tx) dropLearning(host int64) error {
	if _, err := tx.exec("DELETE FROM host_roles WHERE host = ?", host); err != nil {
		return err
	}
	if _, err := tx.exec("DELETE FROM unlearns WHERE host = ? AND answered_at = 0", host); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM dispositions WHERE host = ? AND answered_at = 0", host)
	return err
}
