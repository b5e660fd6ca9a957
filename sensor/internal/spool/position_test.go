package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
)

// Ensure a spool without its position file hands everything out again, under the
// ids it had, and tells of the damage; a new spool tells of none.
func TestPositionLost(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"noise":   func(path string) error { return os.WriteFile(path, []byte("no position\nat all"), 0o600) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, spool.Config{})
			if l := s.Losses(); len(l) > 0 {
				t.Errorf("a new spool tells of %v", l)
			}
			for i := range 5 {
				put(t, s, false, fmt.Sprint(i))
			}
			_, boot, _ := drain(t, s, 100)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(filepath.Join(dir, "position")); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, spool.Config{})
			got, again, _ := drain(t, s, 100)
			if len(got) != 5 || string(again) != string(boot) {
				t.Errorf("%d records came out, want 5 of the stream that they had", len(got))
			}
			want := event.Loss{Where: "spool", Cause: "position-file", Count: 1}
			if l := s.Losses(); len(l) != 1 || l[0] != want {
				t.Errorf("losses %v, want %v", l, want)
			}
			put(t, s, false, "next")
			if _, fresh, _ := drain(t, s, 100); string(fresh) == string(boot) {
				t.Error("the stream goes on, and nobody knows which sequences were given")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, spool.Config{})
			if l := s.Losses(); len(l) > 0 {
				t.Errorf("told again: %v", l)
			}
		})
	}
}
