package store

import (
	"bytes"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	testEvery = 10
	testRows  = 7
)

// tagged is a store with small windows.
func tagged(t testing.TB, tag string) *DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	if err := db.Tag(tag, testEvery, testRows); err != nil {
		t.Fatal(err)
	}
	return db
}

// sights is fill with rows in tables of other keys.
func sights(t testing.TB, db *DB, from, until uint64) {
	t.Helper()
	for i := from; i < until; i++ {
		if err := db.Update(i, func(tx *Tx) error {
			key := fmt.Appendf(nil, "key-%d", i%13)
			if err := sightOne(tx, int64(1+i%3), &sensorv1.Behaviour{Key: key, Kind: 1, Subject: []byte("s"), FirstSeen: int64(i)}); err != nil {
				return err
			}
			if err := tx.SetPosition(int64(1+i%3), []byte{byte(i % 2)}, i, i); err != nil {
				return err
			}
			return countOne(tx, int64(1+i%3), &sensorv1.BehaviourDelta{Key: key, Count: 1, LastSeen: int64(i)})
		}); err != nil {
			t.Fatalf("applying entry %d: %v", i, err)
		}
	}
}

// closed are the windows of a store whose slices are read.
func closed(db *DB) []Check {
	db.checks.wg.Wait()
	return db.Checks()
}

func last(t testing.TB, db *DB) Check {
	t.Helper()
	all := closed(db)
	if len(all) == 0 {
		t.Fatal("no window was closed")
	}
	return all[len(all)-1]
}

// window applies one more window to each store.
func window(t testing.TB, dbs ...*DB) {
	t.Helper()
	for _, db := range dbs {
		from := db.AppliedIndex() + 1
		sights(t, db, from, from+testEvery)
		db.checks.wg.Wait()
	}
}

// Ensure the same entries make the same checks, over a restart and a snapshot in the
// middle of a window too, and that other writes make another chain but for that window only.
func TestChecksOfTheSameEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	restarted, err := Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	steady, restored, other := tagged(t, "1"), tagged(t, "1"), tagged(t, "1")
	if err := restarted.Tag("1", testEvery, testRows); err != nil {
		t.Fatal(err)
	}
	for _, db := range []*DB{steady, restarted, other} {
		fill(t, db, 1, 4)
		sights(t, db, 4, 25)
	}
	if err := restarted.Close(); err != nil {
		t.Fatal(err)
	}
	restarted = open(t, path)
	if err := restarted.Tag("1", testEvery, testRows); err != nil {
		t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if err := steady.Snapshot(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := restored.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := other.Update(25, func(tx *Tx) error {
		return countOne(tx, 1, &sensorv1.BehaviourDelta{Key: []byte("key-1"), Count: 2})
	}); err != nil {
		t.Fatal(err)
	}
	sights(t, steady, 25, 26)
	sights(t, restarted, 25, 26)
	sights(t, restored, 25, 26)
	sights(t, steady, 26, 31)
	sights(t, restarted, 26, 31)
	sights(t, restored, 26, 31)
	sights(t, other, 26, 31)
	want := last(t, steady)
	if want.Window != 2 || len(want.Chain) == 0 || len(want.Slice) == 0 || want.Tag != "1" {
		t.Fatalf("the window of entries 20 to 29: %+v", want)
	}
	for name, db := range map[string]*DB{"restarted": restarted, "restored": restored} {
		if got := last(t, db); !bytes.Equal(got.Chain, want.Chain) || !bytes.Equal(got.Slice, want.Slice) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := last(t, other); bytes.Equal(got.Chain, want.Chain) {
		t.Error("an entry that wrote something else has the same chain")
	}
	window(t, steady, other)
	if a, b := last(t, steady), last(t, other); !bytes.Equal(a.Chain, b.Chain) {
		t.Error("the chain of one window shows in the next")
	}
}

// Ensure a window that two programs wrote is not compared, and the next one is.
func TestChecksOfAnotherProgram(t *testing.T) {
	db := tagged(t, "1")
	fill(t, db, 1, 15)
	if err := db.Tag("2", testEvery, testRows); err != nil {
		t.Fatal(err)
	}
	fill(t, db, 15, 31)
	got := closed(db)
	if len(got) != 2 || len(got[0].Chain) != 0 || len(got[1].Chain) == 0 || got[0].Tag != "2" {
		t.Errorf("got %+v", got)
	}
}

// Ensure a row changed behind the store's back shows within one round of the slices, in
// whichever table it is, and that the slices of other rows are equal.
func TestSlicesGoRound(t *testing.T) {
	good := tagged(t, "1")
	fill(t, good, 1, 30)
	sights(t, good, 30, 90)
	if err := good.Update(90, func(tx *Tx) error { return tx.SetCluster("c") }); err != nil {
		t.Fatal(err)
	}
	round := 0
	for range 2 { // the first is begun where it stands
		for round = 0; round == 0 || where(t, good).table != ""; round++ {
			window(t, good)
			if round > 100 {
				t.Fatal("the slices do not come round")
			}
		}
	}
	for table, change := range map[string]string{
		"hosts": "UPDATE hosts SET name = 'x' WHERE n = 17", "findings": "DELETE FROM findings WHERE n = 29",
		"sightings": "UPDATE sightings SET body = CAST(substr(body, 1, length(body) - 9) || x'77' || substr(body, length(body) - 7) AS BLOB) WHERE n = (SELECT max(n) FROM sightings)",
		"cluster":   "UPDATE cluster SET id = 'd'", "nodes": "INSERT INTO nodes (id, address, operator_address) VALUES ('n', 'a', 'b')",
	} {
		bad := tagged(t, "1")
		var snapshot bytes.Buffer
		if err := good.Snapshot(&snapshot); err != nil {
			t.Fatal(err)
		}
		if err := bad.Restore(&snapshot); err != nil {
			t.Fatal(err)
		}
		if r, err := bad.writer.Exec(change, nil); err != nil || affected(r) != 1 {
			t.Fatalf("%s: %v", change, err)
		}
		found := 0
		for range round + 5 { // the tables grow meanwhile
			window(t, good, bad)
			a, b := last(t, good), last(t, bad)
			if len(a.Slice) == 0 || len(b.Slice) == 0 {
				t.Fatalf("%s: no slice was read: %v %v", table, good.CheckError(), bad.CheckError())
			}
			if !bytes.Equal(a.Slice, b.Slice) {
				found++
			}
			if !bytes.Equal(a.Chain, b.Chain) {
				t.Errorf("%s: the chain tells of a row that no entry wrote", table)
			}
		}
		if found == 0 {
			t.Errorf("%s: a changed row was not found in %d windows", table, round+5)
		}
		// A row too many or too few shows for ever: it moves where slices begin.
		if table != "nodes" && table != "findings" && found > 3 {
			t.Errorf("%s: one changed row was found in %d slices", table, found)
		}
	}
}

func affected(r driver.Result) int64 {
	n, _ := r.RowsAffected()
	return n
}

func where(t testing.TB, db *DB) (p place) {
	t.Helper()
	if err := query(db.writer, "SELECT tbl, key FROM slice", func(v []driver.Value) error {
		p = place{asText(v[0]), slices.Clone(asBlob(v[1]))}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// BenchmarkChain is what the chain costs a counted row, beside the row itself.
func BenchmarkChain(b *testing.B) {
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("on=%v", on), func(b *testing.B) {
			db := &DB{}
			tx := &Tx{db: db}
			var before []byte
			if on {
				before = genesis("", 0)
			}
			db.chain.begin(before, 1)
			key := make([]byte, 16)
			for i := range b.N {
				tx.counted(int64(i%10_000), key, 3, int64(i), true)
			}
			db.chain.end()
		})
	}
}

// BenchmarkSlice is what the rows of one window cost.
func BenchmarkSlice(b *testing.B) {
	db := open(b, filepath.Join(b.TempDir(), "state.db"))
	const rows = 2 * SliceRows
	fill(b, db, 1, 300)
	for at := uint64(0); at < rows; at += 1024 {
		if err := db.Update(at+300, func(tx *Tx) error {
			for i := at; i < at+1024; i++ {
				if err := countOne(tx, int64(1+i/300), &sensorv1.BehaviourDelta{Key: fmt.Appendf(nil, "%016x", i*2654435761%(1<<60)), Count: 1, LastSeen: int64(i)}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("end", func(b *testing.B) {
		for b.Loop() {
			if _, err := sliceEnd(db.writer, place{}, SliceRows); err != nil {
				b.Fatal(err)
			}
		}
	})
	end, err := sliceEnd(db.writer, place{}, SliceRows)
	if err != nil || end.table == "" {
		b.Fatalf("%+v, %v", end, err)
	}
	b.Run("rows", func(b *testing.B) {
		for b.Loop() {
			if _, err := readSlice(b.Context(), db.writer, place{}, end); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func sightOne(tx *Tx, host int64, b *sensorv1.Behaviour) error {
	return tx.Summarise(host, []*sensorv1.Behaviour{b}, nil)
}

func countOne(tx *Tx, host int64, d *sensorv1.BehaviourDelta) error {
	return tx.Summarise(host, nil, []*sensorv1.BehaviourDelta{d})
}
