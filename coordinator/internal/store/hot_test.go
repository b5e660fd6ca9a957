package store

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a writer that remembers, and writes at the end of an entry what it can, answers
// and stores the same as one that reads and writes everything at once: over few hosts,
// boots and operations, so that changes of the same rows meet in an entry, and with
// entries that fail.
func TestHotIsCold(t *testing.T) {
	defer func(all []int) { chunks = all }(chunks)
	chunks = []int{2, 1} // few rows are many
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	var dbs [2]*DB
	for i := range dbs {
		db, err := Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		dbs[i] = db
	}
	hot, cold := dbs[0], dbs[1]
	operations := int64(0)
	for index := uint64(1); index <= 300; index++ {
		var steps []func(*Tx) (any, error)
		for range 1 + random.IntN(20) {
			steps = append(steps, step(random, index, &operations))
		}
		fails := random.IntN(10) == 0
		var answers [2][]any
		for i, db := range dbs {
			err := db.Update(index, func(tx *Tx) error {
				for _, s := range steps {
					if i == 1 {
						if err := tx.settle(); err != nil {
							return err
						}
						db.hot = newHot()
					}
					answer, err := s(tx)
					if err != nil {
						return err
					}
					answers[i] = append(answers[i], answer)
				}
				if fails {
					return ErrFull
				}
				return nil
			})
			if (err != nil) != fails {
				t.Fatalf("seed %d, entry %d: %v", seed, index, err)
			}
		}
		if !reflect.DeepEqual(answers[0], answers[1]) {
			t.Fatalf("seed %d, entry %d: got %v, want %v", seed, index, answers[0], answers[1])
		}
		if digestOf(t, hot) != digestOf(t, cold) {
			t.Fatalf("seed %d: states differ after entry %d", seed, index)
		}
	}
}

func digestOf(t *testing.T, db *DB) string {
	t.Helper()
	digest, err := db.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// step draws one thing that an entry does, and what it answers.
func step(random *rand.Rand, index uint64, operations *int64) func(*Tx) (any, error) {
	id, number := fmt.Sprintf("h-%d", random.IntN(4)), int64(1+random.IntN(4))
	boot := []byte{byte(random.IntN(3))}
	state, detail := sensorv1.IsolationState(1+random.IntN(4)), fmt.Sprint(random.IntN(3))
	operation := fmt.Sprintf("op-%d", max(0, *operations-random.Int64N(6))) // an old one now and then
	now := int64(random.IntN(1000))
	none := func(err error) (any, error) { return nil, err }
	switch random.IntN(15) {
	case 0:
		*operations++
		name := fmt.Sprintf("op-%d", *operations)
		return func(tx *Tx) (any, error) {
			o := &Order{State: OrderOrdered, Body: &operatorv1.Operation{}}
			stored, err := tx.AddOrder(&sensorv1.Grant{Operation: name, Nonce: []byte(name)}, o, now)
			if err == nil && stored && now%3 > 0 { // one of no host now and then
				err = tx.AddIsolation(o.N, Row{Operation: name, Host: number}, now, now)
			}
			return stored, err
		}
	case 1:
		return func(tx *Tx) (any, error) {
			_, known, err := tx.HostNumber(id)
			if err == nil && !known {
				err = tx.AddHost(id, &sensorv1.HostFacts{Name: id}, nil, now)
			}
			return known, err
		}
	case 2:
		return func(tx *Tx) (any, error) { return tx.Position(number, boot) }
	case 3:
		return func(tx *Tx) (any, error) { return none(tx.SetPosition(number, boot, uint64(now), index)) }
	case 4:
		return func(tx *Tx) (any, error) { return tx.HostRows(number) }
	case 5, 6, 7:
		return func(tx *Tx) (any, error) {
			row, err := tx.OperationRow(operation, number)
			if err != nil || row == nil {
				return nil, err
			}
			if now%3 > 0 {
				err = tx.ReportRow(*row, &sensorv1.IsolationStatus{State: state, Detail: detail, AppliedAt: now, Local: now%5 == 0, Level: 1})
			}
			if err == nil && now%3 < 2 {
				err = tx.SetRowState(*row, state, detail+" again")
			}
			return *row, err
		}
	case 8:
		return func(tx *Tx) (any, error) { return none(tx.Seen(number, now)) }
	case 9:
		return func(tx *Tx) (any, error) { return none(tx.SetHostIsolation(number, detail)) }
	case 10:
		return func(tx *Tx) (any, error) {
			if err := tx.SetHostOrdered(number, uint64(1+now), detail); err != nil {
				return nil, err
			}
			host, _, err := tx.FleetHost(id)
			return host, err
		}
	case 11:
		return func(tx *Tx) (any, error) {
			tx.Time = now * minute
			tx.tally(number, Tally{Summaries: 1, Events: now})
			return none(tx.BeginHistory())
		}
	case 12:
		return func(tx *Tx) (any, error) {
			tx.Time = now * minute
			return tx.Retain(&raftv1.Retain{Rows: uint32(1 + now%9), OperationsBefore: 10 * now, KeysBefore: now, LossesBefore: now, MinutesBefore: tx.Time, HoursBefore: tx.Time, DaysBefore: tx.Time}) //nolint:gosec // small
		}
	case 13:
		return func(tx *Tx) (any, error) {
			d := []*sensorv1.BehaviourDelta{{Key: []byte{byte(now % 7)}, Count: 1, LastSeen: now}, {Key: []byte{byte(now)}, Count: 1, LastSeen: now}}
			if err := tx.Summarise(number, nil, d); err != nil {
				return nil, err
			}
			return tx.Forget(number, now-200, int(now%4))
		}
	}
	return func(tx *Tx) (any, error) {
		return none(tx.Audit(&operatorv1.AuditEntry{Time: now, Actor: id, Detail: detail}))
	}
}
