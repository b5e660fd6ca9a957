package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// States of a set of rules.
const (
	RulesRolling  = ruleset.Rolling
	RulesComplete = ruleset.Complete
	RulesHalted   = ruleset.Halted
	RulesReplaced = ruleset.Replaced
)

// RuleSet is a version with how far it has gone.
type RuleSet struct {
	Version   uint64
	Signed    *sensorv1.SignedRules
	IDs       []string
	Content   []byte
	Base      uint64
	PutAt     int64
	State     string
	Ring      int
	RingSince int64
	FirstHost string
	EndedAt   int64
	Why       string
	WhyHost   string
}

const ruleSetColumns = "version, signed, ids, content, base, put_at, state, ring, ring_since, first_host, ended_at, why, why_host"

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// RuleSet is the newest set for which where holds; nil when there is none.
func (tx *Tx) ruleSet(where string, args ...val) (set *RuleSet, err error) {
	err = tx.rows("SELECT "+ruleSetColumns+" FROM rule_sets WHERE "+where+" ORDER BY version DESC LIMIT 1", func(v []val) error {
		set = &RuleSet{
			Version: uint64(asInt(v[0])), Signed: &sensorv1.SignedRules{}, IDs: lines(asText(v[2])), Content: asBlob(v[3]), //nolint:gosec // not negative
			Base: uint64(asInt(v[4])), PutAt: asInt(v[5]), State: asText(v[6]), Ring: int(asInt(v[7])), RingSince: asInt(v[8]), //nolint:gosec // not negative
			FirstHost: asText(v[9]), EndedAt: asInt(v[10]), Why: asText(v[11]), WhyHost: asText(v[12]),
		}
		return proto.Unmarshal(asBlob(v[1]), set.Signed)
	}, args...)
	return set, err
}

// NewestRules is the newest set, whatever became of it; nil when there is none.
func (tx *Tx) NewestRules() (*RuleSet, error) { return tx.ruleSet("version > ?", int64(0)) }

// RulesAllHave is the newest set that all hosts were given; nil when there is none.
func (tx *Tx) RulesAllHave() (*RuleSet, error) { return tx.ruleSet("state = ?", RulesComplete) }

// RulesLike is the newest set of which all hosts had one with the same content; nil: none.
func (tx *Tx) RulesLike(content []byte) (*RuleSet, error) {
	return tx.ruleSet("content = ? AND ring >= ?", content, int64(AllRings))
}

// AllRings is the ring of a set that all hosts have, or had.
const AllRings = 4

// PutRules adds a set.
func (tx *Tx) PutRules(set *RuleSet) error {
	body, err := encode(set.Signed)
	if err != nil {
		return fmt.Errorf("encoding rules: %w", err)
	}
	_, err = tx.exec("INSERT INTO rule_sets ("+ruleSetColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', '')",
		clamp(set.Version), body, strings.Join(set.IDs, "\n"), set.Content, clamp(set.Base), set.PutAt, set.State, int64(set.Ring), set.RingSince, set.FirstHost)
	return err
}

// MoveRules says how far a set has gone.
func (tx *Tx) MoveRules(version uint64, state string, ring int, at int64) error {
	_, err := tx.exec("UPDATE rule_sets SET state = ?, ring = ?, ring_since = ? WHERE version = ?", state, int64(ring), at, clamp(version))
	return err
}

// EndRules takes a set back from everybody.
func (tx *Tx) EndRules(version uint64, state string, at int64, why, host string) error {
	_, err := tx.exec("UPDATE rule_sets SET state = ?, ended_at = ?, why = ?, why_host = ? WHERE version = ?", state, at, why, host, clamp(version))
	return err
}

// PruneRules forgets the versions before so many of the newest, but for those that hosts go
// back to.
func (tx *Tx) PruneRules(keep int) error {
	_, err := tx.exec(`DELETE FROM rule_sets WHERE version <= (SELECT max(version) FROM rule_sets) - ?1
		AND version <> coalesce((SELECT max(version) FROM rule_sets WHERE state = 'complete'), 0)
		AND version <> (SELECT base FROM rule_sets ORDER BY version DESC LIMIT 1)`, int64(keep))
	return err
}

// HostIDs are all hosts: those that are connected and said which rules they use, those that
// are connected, and the others.
func (tx *Tx) HostIDs() (told, connected, others []string, err error) {
	err = tx.rows("SELECT h.id, h.connected, r.host IS NOT NULL FROM hosts h LEFT JOIN rule_hosts r ON r.host = h.n WHERE h.removed = 0 ORDER BY h.id", func(v []val) error {
		to := &others
		switch {
		case asInt(v[1]) != 0 && asInt(v[2]) != 0:
			to = &told
		case asInt(v[1]) != 0:
			to = &connected
		}
		*to = append(*to, asText(v[0]))
		return nil
	})
	return told, connected, others, err
}

// NoteRules keeps what a host says that it uses; nothing: its sensor takes no rules.
func (tx *Tx) NoteRules(host int64, in *raftv1.HostRules) error {
	held := in.GetHeld()
	if held == nil {
		_, err := tx.exec("DELETE FROM rule_hosts WHERE host = ?", host)
		return err
	}
	body, err := encode(held)
	if err != nil {
		return fmt.Errorf("encoding what a host uses: %w", err)
	}
	var over int64
	if _, err := tx.one("SELECT coalesce(sum(count), 0) FROM losses WHERE host = ? AND place = 'findings' AND cause = 'over-budget'",
		func(v []val) { over = asInt(v[0]) }, host); err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO rule_hosts (host, version, newest, instance, since, restarted, over_count, told_at, held)
		VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?5, ?7)
		ON CONFLICT (host) DO UPDATE SET newest = ?3, told_at = ?5, held = ?7,
			restarted = CASE WHEN instance = ?4 OR instance = x'' THEN restarted ELSE ?5 END, instance = ?4,
			since = CASE version WHEN ?2 THEN since ELSE ?5 END, over_count = CASE version WHEN ?2 THEN over_count ELSE ?6 END, version = ?2`,
		host, clamp(held.GetVersion()), clamp(held.GetNewest()), blob(in.GetInstance()), tx.Time, over, body)
	return err
}

func scanRules(s scanner) (*RuleSet, error) {
	set := &RuleSet{Signed: &sensorv1.SignedRules{}}
	var ids string
	err := s.Scan(&set.Version, protoColumn{set.Signed}, &ids, &set.Content, &set.Base, &set.PutAt, &set.State, &set.Ring,
		&set.RingSince, &set.FirstHost, &set.EndedAt, &set.Why, &set.WhyHost)
	set.IDs = lines(ids)
	return set, err
}

// RuleSets are the newest sets, at most so many, the newest first; version 0: from the newest on.
func (db *DB) RuleSets(ctx context.Context, limit int) (sets []*RuleSet, err error) {
	err = db.each(ctx, func(s scanner) error {
		set, err := scanRules(s)
		sets = append(sets, set)
		return err
	}, "SELECT "+ruleSetColumns+" FROM rule_sets ORDER BY version DESC LIMIT ?", limit)
	return sets, err
}

// RuleSet is a version, the newest for 0; nil when there is none at all.
func (db *DB) RuleSet(ctx context.Context, version uint64) (set *RuleSet, err error) {
	q := "SELECT " + ruleSetColumns + " FROM rule_sets WHERE version = ?"
	if version == 0 {
		q = "SELECT " + ruleSetColumns + " FROM rule_sets WHERE version > ? ORDER BY version DESC LIMIT 1"
	}
	err = db.each(ctx, func(s scanner) (err error) {
		set, err = scanRules(s)
		return err
	}, q, clamp(version))
	if err == nil && set == nil && version != 0 {
		err = fmt.Errorf("version %d of the rules: %w", version, ErrNotFound)
	}
	return set, err
}

// RulesAllHave is the newest set that all hosts were given; nil when there is none.
func (db *DB) RulesAllHave(ctx context.Context) (set *RuleSet, err error) {
	err = db.each(ctx, func(s scanner) (err error) {
		set, err = scanRules(s)
		return err
	}, "SELECT "+ruleSetColumns+" FROM rule_sets WHERE state = ? ORDER BY version DESC LIMIT 1", RulesComplete)
	return set, err
}

// RulesLike is the newest set of which all hosts had one with the same content; nil: none.
func (db *DB) RulesLike(ctx context.Context, content []byte) (set *RuleSet, err error) {
	err = db.each(ctx, func(s scanner) (err error) {
		set, err = scanRules(s)
		return err
	}, "SELECT "+ruleSetColumns+" FROM rule_sets WHERE content = ? AND ring >= ? ORDER BY version DESC LIMIT 1", content, AllRings)
	return set, err
}

// RuleHost is a host with what it says that it uses.
type RuleHost struct {
	ID, Name  string
	Connected bool
	Ended     string // how its last session did, see sessions
	Heard     int64
	Told      bool // that it takes rules at all
	Since     int64
	Restarted int64
	Over      int64 // findings that its limits held back since then
	Held      *sensorv1.RulesHeld
}

// RuleHosts are all hosts with what they use.
func (db *DB) RuleHosts(ctx context.Context) (hosts []RuleHost, err error) {
	err = db.each(ctx, func(s scanner) error {
		h := RuleHost{Held: &sensorv1.RulesHeld{}}
		var held []byte
		if err := s.Scan(&h.ID, &h.Name, &h.Connected, &h.Ended, &h.Heard, &h.Told, &h.Since, &h.Restarted, &h.Over, &held); err != nil {
			return err
		}
		hosts = append(hosts, h)
		return proto.Unmarshal(held, h.Held)
	}, `SELECT h.id, h.name, h.connected, h.ended, h.heard, r.host IS NOT NULL, coalesce(r.since, 0), coalesce(r.restarted, 0),
		CASE WHEN r.host IS NULL THEN 0 ELSE coalesce((SELECT sum(l.count) FROM losses l WHERE l.host = h.n AND l.place = 'findings' AND l.cause = 'over-budget'), 0) - r.over_count END,
		coalesce(r.held, x'') FROM hosts h LEFT JOIN rule_hosts r ON r.host = h.n WHERE h.removed = 0 ORDER BY h.id`)
	return hosts, err
}

// maxRuleFindings bounds how many findings one question about rules looks at.
const maxRuleFindings = 20000

// RuleFindings tells of the findings that rules made, by what they are named, of the newest
// first back to since. Cut: there were more than are looked at.
func (db *DB) RuleFindings(ctx context.Context, since int64, each func(host, rule string, time int64)) (cut bool, err error) {
	_, cut, err = db.RuleFindingsAfter(ctx, 0, since, each)
	return cut, err
}

// RuleFindingsAfter tells of those that came after the one with this number, and which number
// the last one has.
func (db *DB) RuleFindingsAfter(ctx context.Context, after, since int64, each func(host, rule string, time int64)) (last int64, cut bool, err error) {
	looked := 0
	last = after
	err = db.each(ctx, func(s scanner) error {
		var host string
		var n, stored int64
		f := &sensorv1.Finding{}
		if err := s.Scan(&n, &host, &stored, protoColumn{f}); err != nil {
			return err
		}
		last = max(last, n)
		if stored < since {
			return errEnough
		}
		if looked++; f.GetRuleId() != "" {
			each(host, f.GetRuleId(), stored)
		}
		return nil
	}, "SELECT f.n, h.id, f.stored_at, f.body FROM findings f JOIN hosts h ON h.n = f.host WHERE f.n > ? ORDER BY f.n DESC LIMIT ?", after, maxRuleFindings)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return last, looked >= maxRuleFindings, err
}
