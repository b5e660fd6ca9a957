package rings

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

type noLog struct{}

func (noLog) IsLeader() bool                    { return true }
func (noLog) ReadBarrier(context.Context) error { return nil }
func (noLog) Propose(context.Context, *raftv1.Command) (*raftv1.Result, error) {
	return &raftv1.Result{}, nil
}

// Ensure each finding is read once and counts in every look, also what came before its host
// was known to use the set, and that another set begins anew.
func TestFoundOnce(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	index := uint64(0)
	apply := func(at int64, do func(tx *store.Tx) error) {
		t.Helper()
		index++
		if err := db.Update(index, func(tx *store.Tx) error { tx.Time = at; return do(tx) }); err != nil {
			t.Fatal(err)
		}
	}
	host := int64(0)
	apply(1, func(tx *store.Tx) (err error) {
		if err := tx.AddHost("h-1", &sensorv1.HostFacts{Name: "one"}, nil, 1); err != nil {
			return err
		}
		host, _, err = tx.HostNumber("h-1")
		return err
	})
	find := func(at int64, rule string) {
		apply(at, func(tx *store.Tx) error {
			_, err := tx.AddFinding(host, index, at, &sensorv1.Finding{Id: fmt.Sprint("f-", index), Time: at, RuleId: rule})
			return err
		})
	}
	use := func(at int64, version uint64) {
		apply(at, func(tx *store.Tx) error {
			return tx.NoteRules(host, &raftv1.HostRules{Host: "h-1", Held: &sensorv1.RulesHeld{Version: version}})
		})
	}
	e, err := New(Config{Log: noLog{}, DB: db, Now: func() time.Time { return time.Unix(1, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := ruleset.Encode(&sensorv1.RuleSet{ClusterId: "c-1", Version: 1, Author: "ada", IssuedAt: 1, Reason: "test",
		Files: []*sensorv1.RuleFile{{Path: "a.yml", Text: []byte("a")}}})
	if err != nil {
		t.Fatal(err)
	}
	signed := &sensorv1.SignedRules{Payload: payload}
	one := &store.RuleSet{Version: 1, IDs: []string{"a"}, PutAt: 10, Signed: signed}
	two := &store.RuleSet{Version: 2, IDs: []string{"b"}, PutAt: 40, Signed: signed}
	look := func(what string, set *store.RuleSet, want int, newer int) {
		t.Helper()
		after, read := e.found.last, 0
		if e.found.of != set.Version {
			after = 0
		}
		if _, _, err := db.RuleFindingsAfter(t.Context(), after, set.PutAt, func(string, string, int64) { read++ }); err != nil {
			t.Fatal(err)
		}
		v, err := e.look(t.Context(), set)
		if err != nil || v.findings["h-1"] != want || read != newer {
			t.Errorf("%s: %d findings and %d read anew, want %d and %d (%v)", what, v.findings["h-1"], read, want, newer, err)
		}
	}
	find(5, "a")
	find(20, "a")
	find(21, "other")
	look("before it uses the set", one, 0, 2)
	use(15, 1)
	look("it did all along", one, 1, 0)
	find(22, "a")
	look("another", one, 2, 1)
	look("nothing new", one, 2, 0)
	use(30, 0)
	look("it does not use it any more", one, 0, 0)
	use(31, 1)
	find(32, "a")
	look("it does again", one, 1, 1)
	find(50, "a")
	find(51, "b")
	use(45, 2)
	look("another set", two, 1, 2)
}
