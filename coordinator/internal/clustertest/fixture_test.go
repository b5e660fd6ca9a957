package clustertest

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

var makeFixture = flag.String("make-fixture", "", "write testdata/upgrade/NAME.tar.gz: the directory of a node of this release")

const fixtures = "testdata/upgrade"

// fixtureWrites is how many records a fixture's host has: some in the snapshot, some only
// in the log behind it.
const fixtureWrites = 40

// Ensure a node starts on what every earlier release left: its state, its snapshot and its
// log, and goes on writing; and that the log means to it what it meant to them.
// scripts/upgrade-fixture.sh adds what this release leaves.
func TestUpgradeFrom(t *testing.T) {
	if *makeFixture != "" {
		c := New(t, 1, nil)
		w := newWriter(c, "h-1")
		every := everyCommand(t, c)
		beside := (len(every) + fixtureWrites - 1) / fixtureWrites
		for seq := uint64(1); seq <= fixtureWrites; seq++ {
			for range min(beside, len(every)) {
				c.Must(every[0])
				every = every[1:]
			}
			c.Must(w.command(seq))
			if seq == fixtureWrites/2 {
				if err := c.Leader().Node().Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Stop(c.Members[0])
		if err := pack(c.Members[0].Dir, filepath.Join(fixtures, *makeFixture+".tar.gz")); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(fixtures, "*.tar.gz"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no fixtures in %s: %v", fixtures, err)
	}
	for _, name := range names {
		digest := ""
		for _, without := range []string{"", "state.db"} { // then all comes from snapshot and log
			t.Run(strings.TrimSuffix(filepath.Base(name), ".tar.gz")+" without "+without, func(t *testing.T) {
				c := NewOf(t, 1, 0, func(cfg *consensus.Config) { cfg.Bootstrap = false })
				m := c.Members[0]
				if err := unpack(name, m.Dir); err != nil {
					t.Fatal(err)
				}
				if without != "" {
					if err := os.Remove(filepath.Join(m.Dir, without)); err != nil {
						t.Fatal(err)
					}
				}
				c.Start(m)
				c.Leader()
				w := &writer{host: "h-1", boot: bootOf("h-1")}
				for seq := uint64(1); seq <= fixtureWrites+1; seq++ { // again, and one more
					c.Must(w.command(seq))
				}
				w.acked.Store(fixtureWrites + 1)
				if _, lost, dup := verify(t, c, []*writer{w}); lost != 0 || dup != 0 {
					t.Errorf("lost %d, twice %d", lost, dup)
				}
				list, _, err := m.Node().DB().Findings(context.Background(), store.FindingFilter{Host: "h-1"}, store.Page{Size: 100})
				if err != nil || len(list) != fixtureWrites/10 {
					t.Errorf("findings: %d, %v", len(list), err)
				}
				c.Must(&raftv1.Command{Time: 1, Actor: "operator:x", Body: &raftv1.Command_NoteBackup{NoteBackup: &raftv1.NoteBackup{}}})
				if filepath.Base(name) != "v1.tar.gz" { // which has two kinds of commands
					checkEvery(t, m.Node().DB())
				}
				got := c.Converged()
				if digest != "" && got != digest {
					t.Error("made from snapshot and log the state is another one than what was left")
				}
				digest = got
			})
		}
	}
}

// pack writes a directory. A log's segment is mostly zeros, which cost nothing.
func pack(dir, to string) (err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression) // a level that exists
	w := tar.NewWriter(z)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o600}); err != nil {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(w, in)
		return err
	})
	return errors.Join(err, w.Close(), z.Close(), f.Close())
}

func unpack(from, dir string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%s: %q leads out of it", from, h.Name)
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}
