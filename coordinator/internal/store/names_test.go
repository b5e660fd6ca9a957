package store

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vedette-edr/vedette/proto/raftv1"
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
			n, _, err := tx.HostNumber(h[0])
			if err != nil {
				return err
			}
			if _, err := tx.AddFinding(n, 1, 1, &sensorv1.Finding{Id: "f-" + h[0], Time: 1}); err != nil {
				return err
			}
			if err := tx.PutDrill(n, &raftv1.DrillResult{Drill: "d", Verdict: "proven", Time: 1}); err != nil {
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
	for idOrName, want := range map[string][]string{"h-web": {"h-web"}, "web1": {"h-web"}, "twins": {"h-other", "h-twin"}, "nobody": nil} {
		var findings, drills []string
		rows, _, err := db.Findings(ctx, FindingFilter{Host: idOrName}, Page{})
		for _, f := range rows {
			findings = append(findings, f.GetHost())
		}
		results, _, err2 := db.Drills(ctx, idOrName, Page{})
		for _, r := range results {
			drills = append(drills, r.GetHost())
		}
		slices.Sort(findings)
		slices.Sort(drills)
		if err := errors.Join(err, err2); err != nil || !slices.Equal(findings, want) || !slices.Equal(drills, want) {
			t.Errorf("of %s there are the findings of %v and the drills of %v, %v; want %v", idOrName, findings, drills, err, want)
		}
	}
	if h, err := db.Host(ctx, "h-web"); err != nil || h.GetId() != "h-web" {
		t.Errorf("h-web is %s, %v", h.GetId(), err)
	}
}
