package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

func open(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), path, nil)
	if err != nil {
		t.Fatalf("opening store: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing store: %v", err)
		}
	})
	return db
}

// fill applies entries from to until (exclusive): one host and one finding each.
func fill(t testing.TB, db *DB, from, until uint64) {
	t.Helper()
	for i := from; i < until; i++ {
		err := db.Update(i, func(tx *Tx) error {
			if err := tx.AddHost(fmt.Sprintf("h-%d", i), &sensorv1.HostFacts{Name: fmt.Sprintf("host%d", i)}, nil, int64(i)); err != nil {
				return err
			}
			n, _, err := tx.HostNumber(fmt.Sprintf("h-%d", i))
			if err != nil {
				return err
			}
			_, err = tx.AddFinding(n, i, int64(i), &sensorv1.Finding{Id: fmt.Sprintf("f-%d", i), Time: int64(i)})
			return err
		})
		if err != nil {
			t.Fatalf("applying entry %d: %v", i, err)
		}
	}
}

func count(t testing.TB, db *DB) int {
	t.Helper()
	rows, _, err := db.Findings(context.Background(), FindingFilter{}, Page{Size: MaxPage})
	if err != nil {
		t.Fatalf("reading findings: %v", err)
	}
	return len(rows)
}

func digest(t testing.TB, db *DB) string {
	t.Helper()
	d, err := db.Digest(context.Background())
	if err != nil {
		t.Fatalf("digesting: %v", err)
	}
	return d
}

// Ensure a release with the WAL-reset corruption is refused by a sentence that says what to do.
func TestCheckVersion(t *testing.T) {
	for _, tt := range []struct {
		version string
		number  int
		ok      bool
	}{{"3.51.2", 3051002, false}, {"3.51.3", 3051003, true}, {"3.54.1", 3054001, true}} {
		if err := checkVersion(tt.version, tt.number); (err == nil) != tt.ok {
			t.Errorf("checkVersion(%s) = %v, want ok %v", tt.version, err, tt.ok)
		}
	}
}

// Ensure an entry is applied once, whole or not at all, with its index.
func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := open(t, path)
	fill(t, db, 1, 4)
	if err := db.Update(3, func(*Tx) error { t.Error("an applied entry ran again"); return nil }); !errors.Is(err, ErrApplied) {
		t.Errorf("applying 3 again = %v, want ErrApplied", err)
	}
	before := digest(t, db)
	boom := errors.New("boom")
	err := db.Update(4, func(tx *Tx) error {
		if err := tx.AddHost("h-x", nil, nil, 1); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("failing entry = %v, want boom", err)
	}
	if got := digest(t, db); got != before {
		t.Error("a failed entry left something behind")
	}
	if got := db.AppliedIndex(); got != 3 {
		t.Errorf("applied index = %d, want 3", got)
	}
	fill(t, db, 4, 5)
}

// Ensure a fast restart hides no rows: what was applied is there, with its
// index, when the file is opened again, whether the store was closed or not.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := open(t, path)
	fill(t, db, 1, 50)
	want := digest(t, db)

	// As after a kill: the files as they lie, WAL included, without any close.
	crashed := filepath.Join(t.TempDir(), "state.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatalf("copying: %v", err)
		}
		if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
			t.Fatalf("copying: %v", err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	for name, p := range map[string]string{"closed": path, "killed": crashed} {
		again := open(t, p)
		if got := digest(t, again); got != want {
			t.Errorf("%s: digest changed over a restart", name)
		}
		if got := again.AppliedIndex(); got != 49 {
			t.Errorf("%s: applied index = %d, want 49", name, got)
		}
		if got := count(t, again); got != 49 {
			t.Errorf("%s: %d findings, want 49", name, got)
		}
	}
}

// Ensure a restore replaces and never adds: not into an empty state, not into
// the same one, not into one that is ahead, and not when done twice.
func TestRestoreNeverDuplicates(t *testing.T) {
	source := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, source, 1, 30)
	var snap bytes.Buffer
	if err := source.Snapshot(&snap); err != nil {
		t.Fatalf("writing snapshot: %v", err)
	}
	want := digest(t, source)
	for _, ahead := range []uint64{1, 10, 30, 60} {
		path := filepath.Join(t.TempDir(), "state.db")
		db := open(t, path)
		fill(t, db, 1, ahead)
		for range 2 {
			if err := db.Restore(bytes.NewReader(snap.Bytes())); err != nil {
				t.Fatalf("restoring over %d entries: %v", ahead-1, err)
			}
			if got := digest(t, db); got != want {
				t.Errorf("over %d entries: restored digest differs", ahead-1)
			}
			if got := count(t, db); got != 29 {
				t.Errorf("over %d entries: %d findings, want 29", ahead-1, got)
			}
		}
		fill(t, db, 30, 35)
		if err := db.Close(); err != nil {
			t.Fatalf("closing: %v", err)
		}
		if got := count(t, open(t, path)); got != 34 {
			t.Errorf("over %d entries and a restart: %d findings, want 34", ahead-1, got)
		}
	}
}

// Ensure a snapshot is the state at one index although entries go on.
func TestFreeze(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, db, 1, 20)
	want := digest(t, db)
	f, err := db.Freeze()
	if err != nil {
		t.Fatalf("freezing: %v", err)
	}
	fill(t, db, 20, 40)
	var snap bytes.Buffer
	if err := errors.Join(f.Write(&snap), f.Close()); err != nil {
		t.Fatalf("writing: %v", err)
	}
	other := open(t, filepath.Join(t.TempDir(), "state.db"))
	if err := other.Restore(&snap); err != nil {
		t.Fatalf("restoring: %v", err)
	}
	if got := digest(t, other); got != want || other.AppliedIndex() != 19 || f.Index() != 19 {
		t.Errorf("snapshot is of index %d (frozen %d), want 19", other.AppliedIndex(), f.Index())
	}
}

// Ensure a torn or changed snapshot is refused and the state stays.
func TestRestoreRefusesDamage(t *testing.T) {
	source := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, source, 1, 30)
	var snap bytes.Buffer
	if err := source.Snapshot(&snap); err != nil {
		t.Fatalf("writing snapshot: %v", err)
	}
	z, err := zstd.NewReader(bytes.NewReader(snap.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	z.Close()
	if err != nil {
		t.Fatal(err)
	}
	pack := func(b []byte) []byte {
		w, _ := zstd.NewWriter(nil)
		defer func() { _ = w.Close() }()
		return w.EncodeAll(b, nil)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(raw)
		b[at] ^= 1
		return pack(b)
	}
	reclaimed := bytes.Clone(raw[:len(raw)-sha256.Size])
	reclaimed[15] ^= 1
	sum := sha256.Sum256(reclaimed)
	tests := map[string][]byte{
		"claims another index, well summed": pack(append(reclaimed, sum[:]...)),

		"empty":          {},
		"not zstd":       []byte("hello, this is not a snapshot"),
		"torn stream":    snap.Bytes()[:snap.Len()/2],
		"torn contents":  pack(raw[:len(raw)/2]),
		"other magic":    flip(0),
		"other index":    flip(15),
		"huge size":      flip(16),
		"a row changed":  flip(len(raw) / 2),
		"other checksum": flip(len(raw) - 1),
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			db := open(t, filepath.Join(t.TempDir(), "state.db"))
			fill(t, db, 1, 5)
			want := digest(t, db)
			if err := db.Restore(bytes.NewReader(b)); !errors.Is(err, ErrSnapshot) {
				t.Errorf("restoring = %v, want ErrSnapshot", err)
			}
			if got := digest(t, db); got != want {
				t.Error("a refused snapshot changed the state")
			}
			fill(t, db, 5, 6)
		})
	}
}

// Ensure lists are newest first, bounded, and their pages fit together.
func TestPages(t *testing.T) {
	ctx := context.Background()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, db, 1, 251)
	var got []string
	for token := ""; ; {
		rows, next, err := db.Findings(ctx, FindingFilter{}, Page{Size: 50, Token: token})
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		for _, r := range rows {
			got = append(got, r.GetFinding().GetId())
		}
		if token = next; token == "" {
			break
		}
	}
	if len(got) != 250 || got[0] != "f-250" || got[249] != "f-1" {
		t.Errorf("pages hold %d findings, want f-250 … f-1", len(got))
	}
	hosts, next, err := db.Hosts(ctx, HostFilter{}, Page{Size: 200})
	if err != nil || len(hosts) != 200 || next == "" {
		t.Fatalf("first page of hosts: %d, %q, %v", len(hosts), next, err)
	}
	hosts, next, err = db.Hosts(ctx, HostFilter{}, Page{Size: 200, Token: next})
	if err != nil || len(hosts) != 50 || next != "" || hosts[49].GetId() != "h-250" {
		t.Errorf("second page of hosts: %d, %q, %v", len(hosts), next, err)
	}
	if _, _, err := db.Findings(ctx, FindingFilter{}, Page{Token: "!"}); !errors.Is(err, ErrBadPage) {
		t.Errorf("bad token = %v, want ErrBadPage", err)
	}
	since, index, err := db.FindingsSince(ctx, 100, 10)
	if err != nil || len(since) != 10 || since[0].GetFinding().GetId() != "f-101" || index != 110 {
		t.Errorf("findings since 100: %d, next %d, %v", len(since), index, err)
	}
}

// Ensure numbers and counts that a hostile host sends cannot stop the cluster:
// they are clamped, never an error.
func TestHostileNumbers(t *testing.T) {
	ctx := context.Background()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	fill(t, db, 1, 2)
	const all = ^uint64(0)
	for i := uint64(2); i < 5; i++ {
		if err := db.Update(i, func(tx *Tx) error {
			n, _, _ := tx.HostNumber("h-1")
			return errors.Join(
				tx.Summarise(n, []*sensorv1.Behaviour{{Key: []byte("k"), FirstSeen: -1 << 63}},
					[]*sensorv1.BehaviourDelta{{Key: []byte("k"), Count: all, LastSeen: 1<<63 - 1, Known: true}, {Count: all}}),
				tx.AddLoss(n, &sensorv1.Loss{Where: "ring", Cause: "x", Count: all}),
				tx.AddLoss(n, &sensorv1.Loss{Where: fmt.Sprint(i), Cause: "x", Count: all}),
				tx.SetHealth(n, &sensorv1.Health{EventsTotal: all, Baseline: &sensorv1.BaselineState{Confidence: nan()}}),
				tx.AddFlow(n, i, 0, nil),
				func() error {
					_, err := tx.SetSession(n, &raftv1.HostSession{Session: all, Connected: true}, 0)
					return err
				}(),
				tx.Audit(&operatorv1.AuditEntry{Detail: "\x00\x01"}),
			)
		}); err != nil {
			t.Fatalf("applying hostile numbers: %v", err)
		}
	}
	h, err := db.Host(ctx, "h-1")
	if err != nil || h.GetEventsTotal() != all || len(h.GetLosses()) != 4 {
		t.Errorf("host = %v, %v", h, err)
	}
	b, err := db.Behaviours(ctx, "h-1", 10)
	if err != nil || len(b) != 2 {
		t.Errorf("behaviours = %v, %v", b, err)
	}
}

func nan() float64 { z := 0.0; return z / z }

// FuzzRestore: bytes from outside never panic and never change the state.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("VDTSNAP1"))
	w, _ := zstd.NewWriter(nil)
	f.Add(w.EncodeAll(append(bytes.Clone(snapshotMagic), make([]byte, 64)...), nil))
	_ = w.Close()
	path := filepath.Join(f.TempDir(), "in")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if index, err := receive(bytes.NewReader(b), path); err == nil {
			if err := verify(t.Context(), path, index); err == nil && len(b) < 100 {
				t.Error("a tiny input was taken for a database")
			}
		}
	})
}
