package store_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a list of all hosts has each host's own losses, as a list of some has, and that
// what the governor looks at comes in the order that it is asked for.
func TestFleetAtOnce(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	id := func(i int) string { return fmt.Sprintf("h-%d", i) }
	if err := db.Update(1, func(tx *store.Tx) error {
		for i := range 6 {
			if err := tx.AddHost(id(i), &sensorv1.HostFacts{Name: id(i), Labels: map[string]string{"role": "web"}}, nil, 1); err != nil {
				return err
			}
			n, _, err := tx.HostNumber(id(i))
			for j := 0; err == nil && j < i%3; j++ { // none, one, two
				err = tx.AddLoss(n, &sensorv1.Loss{Where: "ring", Cause: fmt.Sprint(j), Count: uint64(10*i + j)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string]struct {
		filter store.HostFilter
		page   store.Page
	}{
		"all": {}, "first page": {page: store.Page{Size: 4}}, "by label": {filter: store.HostFilter{Labels: map[string]string{"role": "web"}}},
	} {
		hosts, _, err := db.Hosts(t.Context(), list.filter, list.page)
		if err != nil || len(hosts) < 4 {
			t.Fatalf("%s: %d hosts, %v", name, len(hosts), err)
		}
		for i, h := range hosts {
			if len(h.GetLosses()) != i%3 {
				t.Errorf("%s: host %s has %d losses, want %d", name, h.GetId(), len(h.GetLosses()), i%3)
			}
			for j, l := range h.GetLosses() {
				if l.GetCount() != uint64(10*i+j) {
					t.Errorf("%s: host %s: loss %d is %d, want %d", name, h.GetId(), j, l.GetCount(), 10*i+j)
				}
			}
		}
	}
	asked := []string{id(4), "h-none", id(1), id(5)}
	fleet, _, hosts, err := db.Governed(t.Context(), 0, asked)
	if err != nil || fleet.Hosts != 6 || len(hosts) != 3 {
		t.Fatalf("a fleet of %d, %d hosts of an order, %v", fleet.Hosts, len(hosts), err)
	}
	for i, want := range []string{id(4), id(1), id(5)} {
		if hosts[i].ID != want || hosts[i].Labels["role"] != "web" {
			t.Errorf("host %d is %s with labels %v, want %s", i, hosts[i].ID, hosts[i].Labels, want)
		}
	}
	if _, _, hosts, err := db.Governed(t.Context(), 0, nil); err != nil || len(hosts) != 0 {
		t.Errorf("of no host: %d hosts, %v", len(hosts), err)
	}
}
