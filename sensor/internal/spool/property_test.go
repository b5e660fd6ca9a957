package spool_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/sensor/internal/spool"
)

// model is what a spool must behave like: the records in order, those
// acknowledged taken away. Names are numbers that only rise.
type model struct {
	pending []string
	appends int
	dropped uint64
	// slack: a damaged record that was acknowledged may be counted, too, when
	// nothing tells its sequence. Damage is never counted too low.
	slack uint64
}

// unsynced saves the time of what a copied directory cannot show anyway.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return nil }

func createUnsynced(path string) (spool.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	return unsynced{f}, err
}

// Ensure, whatever happens in whatever order, that each record comes out in
// order or is counted as dropped, and never both.
func TestModel(t *testing.T) {
	if flag.Lookup("rapid.checks").Value.String() == flag.Lookup("rapid.checks").DefValue {
		if err := flag.Set("rapid.checks", "40"); err != nil { // a hundred lives of a spool are much disk work
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		root, err := os.MkdirTemp(t.TempDir(), "model")
		if err != nil {
			rt.Fatal(err)
		}
		lives, boot := 0, 0
		dir := filepath.Join(root, "0")
		cfg := spool.Config{MaxBytes: 256 << 10, KernelBoot: "0", Create: createUnsynced}
		s, err := spool.Open(dir, cfg)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		m := &model{}

		// reconcile: what is left in the spool against what the model still has.
		reconcile := func() {
			s.Restart()
			var got []string
			over, cancel := context.WithCancel(context.Background())
			cancel()
			for {
				_, prev, recs, err := s.Next(over, 50)
				if err != nil {
					break
				}
				for _, r := range recs {
					if r.GetSequence() <= prev {
						rt.Fatalf("sequence %d after %d", r.GetSequence(), prev)
					}
					prev = r.GetSequence()
					got = append(got, name(r))
				}
			}
			i := 0
			for _, want := range m.pending {
				if i < len(got) && got[i] == want {
					i++
				} else {
					m.dropped++
				}
			}
			if i != len(got) {
				rt.Fatalf("record %q came out of order or twice: got %v, had %v", got[i], got, m.pending)
			}
			m.pending = got
			counted := uint64(0)
			for _, n := range s.Stats().Dropped {
				counted += n
			}
			if counted < m.dropped || counted > m.dropped+m.slack {
				rt.Fatalf("%d records are missing, %d are counted: %v", m.dropped, counted, s.Stats().Dropped)
			}
			if n := s.Stats().Records; n != uint64(len(got)) {
				rt.Fatalf("Stats.Records is %d with %d pending", n, len(got))
			}
		}
		reopen := func(next string) {
			cfg.KernelBoot = fmt.Sprint(boot)
			dir = next
			if s, err = spool.Open(dir, cfg); err != nil {
				rt.Fatal(err)
			}
			m.dropped, m.slack = 0, 0
		}
		crash := func() string { // what a killed process leaves
			lives++
			next := filepath.Join(root, fmt.Sprint(lives))
			if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
				rt.Fatal(err)
			}
			_ = s.Close()
			return next
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {},
			"append": func(rt *rapid.T) {
				isCritical := rapid.IntRange(0, 9).Draw(rt, "class") == 0
				for range rapid.IntRange(1, 40).Draw(rt, "count") {
					n := fmt.Sprint(m.appends)
					m.appends++
					if err := s.Append(record(n, rapid.IntRange(0, 1500).Draw(rt, "size")), isCritical); err != nil {
						rt.Fatal(err)
					}
					m.pending = append(m.pending, n)
				}
			},
			"send and acknowledge": func(rt *rapid.T) {
				reconcile()
				s.Restart()
				over, cancel := context.WithCancel(context.Background())
				cancel()
				boot, _, recs, err := s.Next(over, rapid.IntRange(1, 60).Draw(rt, "batch"))
				if err != nil {
					return
				}
				upTo := rapid.IntRange(0, len(recs)-1).Draw(rt, "acknowledged")
				if err := s.Acknowledge(boot, recs[upTo].GetSequence()); err != nil {
					rt.Fatal(err)
				}
				m.pending = m.pending[upTo+1:]
			},
			"compare": func(*rapid.T) { reconcile() },
			"restart": func(rt *rapid.T) {
				reconcile()
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				reopen(dir)
				reconcile()
			},
			"crash": func(*rapid.T) {
				reconcile()
				reopen(crash())
				reconcile()
			},
			"reboot": func(*rapid.T) {
				reconcile()
				boot++
				reopen(crash())
				reconcile()
			},
			"corrupt": func(rt *rapid.T) {
				reconcile()
				next := crash()
				segments, err := filepath.Glob(filepath.Join(next, "*.seg"))
				if err != nil {
					rt.Fatal(err)
				}
				if len(segments) > 0 {
					path := rapid.SampledFrom(segments).Draw(rt, "segment")
					data, err := os.ReadFile(path)
					if err != nil {
						rt.Fatal(err)
					}
					at := rapid.IntRange(0, len(data)-1).Draw(rt, "at")
					data[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
					if err := os.WriteFile(path, data, 0o600); err != nil {
						rt.Fatal(err)
					}
				}
				reopen(next)
				m.slack = 1
				reconcile()
			},
		})
		reconcile()
	})
}
