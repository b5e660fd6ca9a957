package clusterlab

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// damages are what disks, people and power cuts do to a node's files.
var damages = []struct {
	name string
	do   func(dir string) error
	// says is in the node's log; heals is whether it goes on by itself.
	says  string
	heals bool
	crash bool
}{
	{"state gone", func(d string) error { return removeAll(d, "state.db*") }, "", true, true},
	{"state emptied, its journal left", func(d string) error { return os.Truncate(d+"/state.db", 0) }, "", true, true},
	{"state cut", func(d string) error { return cut(d + "/state.db") }, "set aside", true, false},
	{"state overwritten", func(d string) error { return scribble(d+"/state.db", 8192) }, "set aside", true, false},
	{"state's head overwritten", func(d string) error { return scribble(d+"/state.db", 0) }, "set aside", true, false},
	{"log gone", func(d string) error { return os.RemoveAll(d + "/raft") }, "join again", false, false},
	{"log cut", func(d string) error { return each(d, "raft/wal/*.wal", cut) }, "join again", false, false},
	{"log overwritten", func(d string) error {
		return each(d, "raft/wal/*.wal", func(p string) error { return scribble(p, 200) })
	}, "join again", false, false},
	{"log's index overwritten", func(d string) error {
		return each(d, "raft/wal/wal-index.json", func(p string) error { return scribble(p, 0) })
	}, "join again", false, false},
	{"log's index emptied", func(d string) error {
		return each(d, "raft/wal/wal-index.json", func(p string) error { return os.Truncate(p, 0) })
	}, "join again", false, false},
	{"certificate cut", func(d string) error { return cut(d + "/node.crt") }, "node.crt", false, false},
	{"key emptied", func(d string) error { return os.Truncate(d+"/node.key", 0) }, "node.key", false, false},
	{"identity emptied", func(d string) error { return os.Truncate(d+"/cluster.json", 0) }, "cluster.json", false, false},
}

// Ensure a node whose files were damaged heals itself from its log and its peers,
// or says what is wrong and what to do; that it never serves something else than
// the others; and that all killed at once come back the same.
func TestClusterDamagedNode(t *testing.T) {
	c := newTrio(t, 3, "")
	writers, stop := c.write(t, 4, 50*time.Millisecond)
	c.until(20*time.Second, "some writes", func(context.Context) (bool, error) { return written(writers) > 60, nil })
	for _, n := range c.Nodes {
		c.Members[n.ID].Kill()
	}
	for _, n := range c.Nodes {
		c.start(n.ID)
	}
	c.alive()
	from := written(writers)
	c.until(20*time.Second, "writes after all were killed", func(context.Context) (bool, error) { return written(writers) > from+20, nil })
	stop()
	c.countedOnce(t, writers)

	victim := c.followers()[0]
	dir := c.dir(victim)
	for _, damage := range damages {
		t.Run(damage.name, func(t *testing.T) {
			if damage.crash {
				c.Members[victim].Kill()
			} else if err := c.Members[victim].Stop(); err != nil { // leaves no journal that would heal the state
				t.Fatal(err)
			}
			whole := t.TempDir() + "/whole"
			if err := os.CopyFS(whole, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := damage.do(dir); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Stat(c.Members[victim].LogPath)
			c.start(victim)
			p := c.Members[victim]
			said := func() string {
				raw, _ := os.ReadFile(p.LogPath)
				return string(raw[before.Size():])
			}
			if damage.heals {
				c.converged(t)
				c.sameEverywhere(t)
			} else {
				select {
				case <-p.Exited():
				case <-time.After(15 * time.Second):
					t.Errorf("it runs with damaged files:\n%s", said())
					p.Kill()
				}
			}
			t.Logf("it said: %s", last(said()))
			if !strings.Contains(said(), damage.says) || strings.Contains(said(), "goroutine ") {
				t.Errorf("it did not say %q, or panicked:\n%s", damage.says, said())
			}
			if damage.heals {
				return
			}
			if err := errors.Join(removeAll(dir, "*"), os.CopyFS(dir, os.DirFS(whole)), os.Chmod(dir+"/node.key", 0o600), os.Chmod(dir+"/ca.key", 0o600)); err != nil {
				t.Fatal(err)
			}
			c.start(victim)
			c.converged(t)
			c.sameEverywhere(t)
		})
	}
}

func last(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// written is how much has been acknowledged of the writers.
func written(all []*writer) (n int) {
	for _, w := range all {
		w.mu.Lock()
		n += len(w.acked)
		w.mu.Unlock()
	}
	return n
}

// sameEverywhere compares what every node answers by itself. A host's state goes by the
// clock (a session that ended becomes silent), so that two answers that were asked for one
// after the other may differ once; nodes that differ go on doing so.
func (c *trio) sameEverywhere(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"host", "list", "-o", "json"}, {"audit", "list", "-o", "json"}, {"finding", "list", "-o", "json"}} {
		c.until(15*time.Second, "every node to answer the same", func(context.Context) (bool, error) {
			first := ""
			for _, n := range c.Nodes {
				r := c.must(c.vedette(c.only(n.ID), args...))
				if first == "" {
					first = r.out
				}
				if r.out != first {
					return false, fmt.Errorf("%s answers otherwise than %s: %s\n%s", n.ID, c.Nodes[0].ID, r, first)
				}
			}
			return true, nil
		})
	}
}

func removeAll(dir, pattern string) error {
	return each(dir, pattern, os.RemoveAll)
}

func each(dir, pattern string, do func(string) error) error {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("%s: %w", pattern, fs.ErrNotExist)
	}
	for _, path := range paths {
		err = errors.Join(err, do(path))
	}
	return err
}

// cut keeps a third of a file's content, which for a preallocated one ends in zeros.
func cut(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, int64(len(bytes.TrimRight(raw, "\x00"))/3))
}

// scribble overwrites 4 KiB.
func scribble(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	junk := make([]byte, 4096)
	_, _ = rand.Read(junk)
	_, err = f.WriteAt(junk, at)
	return errors.Join(err, f.Close())
}
