package store

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a host that calls itself by another's id is not what that id names.
func TestIDsAreNoNames(t *testing.T) {
	ctx := t.Context()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	err := db.Update(1, func(tx *Tx) error {
		for _, h := range [][2]string{{"h-thief", "h-web"}, {"h-web", "web1"}, {"h-twin", "twins"}, {"h-other", "twins"}} {
			if err := tx.AddHost(h[0], &sensorv1.HostFacts{Name: h[1]}, nil, 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		ids  []string
		want []string
	}{
		{"by an id that another took for its name", []string{"h-web"}, []string{"h-web"}},
		{"by name", []string{"web1"}, []string{"h-web"}},
		{"the thief by its id", []string{"h-thief"}, []string{"h-thief"}},
		{"both", []string{"h-web", "h-thief"}, []string{"h-thief", "h-web"}},
		{"a name of two", []string{"twins"}, []string{"h-other", "h-twin"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hosts, _, err := db.Hosts(ctx, HostFilter{IDs: tt.ids}, Page{})
			var got []string
			for _, h := range hosts {
				got = append(got, h.GetId())
			}
			if slices.Sort(got); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%v are %v, %v; want %v", tt.ids, got, err, tt.want)
			}
		})
	}
	if h, err := db.Host(ctx, "h-web"); err != nil || h.GetId() != "h-web" {
		t.Errorf("h-web is %s, %v", h.GetId(), err)
	}
}
