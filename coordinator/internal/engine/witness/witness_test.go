package witness

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// log applies to a store at once, as a cluster of one.
type log struct {
	t     *testing.T
	db    *store.DB
	index uint64
	last  *raftv1.Result
}

func (l *log) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	l.index++
	err = l.db.Update(l.index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, l.index, cmd)
		return err
	})
	l.last = res
	return res, err
}

func (l *log) audited(name string) {
	l.t.Helper()
	if res, err := l.Propose(l.t.Context(), &raftv1.Command{Time: 1, Actor: "operator:ann", Body: &raftv1.Command_PutOperator{
		PutOperator: &raftv1.PutOperator{Name: name, Role: "viewer"}}}); err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v, %v", res, err)
	}
}

// Ensure a node signs what its copy says, when there is news and it is time; that its word
// verifies elsewhere; and that one whose copy differs is contradicted.
func TestWitness(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	l := &log{t: t, db: db}
	authority, err := identity.NewAuthority("c-test")
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authority.SignNode(key.Public(), "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	w, err := New(Config{NodeID: "n1", Cluster: "c-test", Log: l, DB: db, Now: func() time.Time { return now },
		Certificate: func() (*tls.Certificate, error) { return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	want := func(n int, index uint64) {
		t.Helper()
		if err := w.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := db.Checkpoints(t.Context(), 0)
		if err != nil || len(all) != n {
			t.Fatalf("%d checkpoints, want %d; %v", len(all), n, err)
		}
		if n == 0 {
			return
		}
		peer, err := audit.VerifyCheckpoint(all[0], authority.Roots())
		if err != nil || peer.ID != "n1" || all[0].GetIndex() != index {
			t.Fatalf("%v by %v, %v", all[0], peer, err)
		}
		witness := audit.NewWitness(all...)
		for after, more := uint64(0), true; more; {
			entries, rest, err := db.Audit(t.Context(), after, store.MaxPage)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				after = e.GetIndex()
				if err := witness.See(e); err != nil {
					t.Error(err)
				}
			}
			more = rest
		}
		if err := witness.Done(); err != nil {
			t.Error(err)
		}
	}
	want(0, 0) // nothing to sign
	l.audited("a")
	want(1, 1)
	now = now.Add(every)
	want(1, 1) // no news
	l.audited("b")
	want(2, 2)
	l.audited("c")
	want(2, 2) // not yet
	now = now.Add(every)
	want(3, 3)
	for i := range entries {
		l.audited("many" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)))
	}
	want(4, 3+entries)

	// A node that was rewritten: what it has is not what the cluster has.
	now = now.Add(every)
	l.audited("z")
	w.cfg.DB = forged{db}
	if err := w.look(t.Context()); err == nil || l.last.GetRejected() != state.RejectAuditFork {
		t.Errorf("another record: %v, %v", l.last, err)
	}
}

type forged struct{ *store.DB }

func (f forged) AuditEnd(ctx context.Context, node string) (index uint64, hash []byte, signed uint64, at int64, err error) {
	index, hash, signed, at, err = f.DB.AuditEnd(ctx, node)
	hash[0] ^= 1
	return index, hash, signed, at, err
}
