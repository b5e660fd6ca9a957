package store_test

import (
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure that a loss is a problem only while it is recent, and that one of nothing never is.
func TestQuietForgetsOldLosses(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	index := uint64(0)
	lose := func(at int64, host string, count uint64) {
		t.Helper()
		index++
		if err := db.Update(index, func(tx *store.Tx) error {
			tx.Time = at
			n, ok, err := tx.HostNumber(host)
			if err == nil && !ok {
				if err = tx.AddHost(host, &sensorv1.HostFacts{Name: host}, nil, at); err == nil {
					n, _, err = tx.HostNumber(host)
				}
			}
			if err != nil {
				return err
			}
			return tx.AddLoss(n, &sensorv1.Loss{Where: "ring", Cause: "full", Count: count})
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(since int64, hosts, lost uint64) {
		t.Helper()
		q, err := db.Quiet(t.Context(), 0, since)
		if err != nil || q.Lossy != hosts || q.Lost != lost {
			t.Errorf("since %d: %d hosts lost %d, %v; want %d and %d", since, q.Lossy, q.Lost, err, hosts, lost)
		}
	}
	lose(10, "h-1", 5)
	lose(20, "h-2", 7)
	want(0, 2, 12)
	want(15, 1, 7)
	lose(30, "h-1", 0) // "nothing lost" is no loss
	want(25, 0, 0)
	lose(40, "h-1", 1)
	want(25, 1, 6)
	want(41, 0, 0)
}
