package isolation

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Ensure a library that comes or goes is seen though a folder that did not change is not
// read again.
func TestReaders(t *testing.T) {
	dir := t.TempDir()
	library := filepath.Join(dir, "libnftnl.so.11")
	r := readers{}
	then := time.Now().Add(-time.Hour)
	for _, step := range []struct {
		name   string
		change func() error
		want   bool
	}{
		{"an empty folder", func() error { return nil }, false},
		{"a library comes", func() error { return os.WriteFile(library, nil, 0o600) }, true},
		{"nothing changes", func() error { return nil }, true},
		{"it goes", func() error { return os.Remove(library) }, false},
		{"the folder goes", func() error { return os.Remove(dir) }, false},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		// Of each step its own time: a clock of the file system may be coarser than they are.
		then = then.Add(time.Second)
		if _, err := os.Stat(dir); err == nil && step.name != "nothing changes" {
			if err := os.Chtimes(dir, then, then); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.in(dir); got != step.want {
			t.Errorf("%s: found %v, want %v", step.name, got, step.want)
		}
	}
}

// Ensure that no name of a device that is there is a stranger's, and that every other name
// is one while the bound allows it.
func TestStrangerNames(t *testing.T) {
	matches := func(all []named, name string) bool {
		return slices.ContainsFunc(all, func(n named) bool {
			return n.name == name || n.prefix && strings.HasPrefix(name, n.name)
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	name := func(longest int) string {
		var b strings.Builder
		for range 1 + random.IntN(longest) {
			b.WriteByte(letters[random.IntN(len(letters))])
		}
		return b.String()
	}
	for round := range 200 {
		now := []device{{name: "eth0"}, {name: "lo0"}, {name: "e"}}[:round%4]
		for range round / 10 {
			now = append(now, device{name: name(3)})
		}
		all := strangers(now)
		if len(all) > maxStrangers {
			t.Fatalf("%d, want at most %d", len(all), maxStrangers)
		}
		names := deviceNames(now)
		for _, there := range append(names, loopback) {
			if matches(all, there) {
				t.Fatalf("%q is there and among the strangers of %q", there, names)
			}
		}
		if len(now) > 3 {
			continue // the bound may leave some out
		}
		for range 200 {
			if n := name(longestName); n != loopback && !slices.Contains(names, n) && !matches(all, n) {
				t.Fatalf("%q is not among the strangers of %q", n, names)
			}
		}
		for _, n := range []string{"l", "lo1", "lo00", "et", "eth", "eth00", "eth1", "ee", "longestname1234"} {
			if !slices.Contains(names, n) && !matches(all, n) {
				t.Errorf("%q is not among the strangers of %q", n, names)
			}
		}
	}
}
