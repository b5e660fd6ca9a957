package store

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func behaviour(subject, object string, first int64) *sensorv1.Behaviour {
	key := pack.KeyOf(1, subject, object)
	return &sensorv1.Behaviour{Key: key[:], Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte(subject), Object: []byte(object), FirstSeen: first}
}

// shows has a host do things, known ones when it says so.
func shows(t *testing.T, db *DB, host int64, known bool, does ...*sensorv1.Behaviour) {
	t.Helper()
	var deltas []*sensorv1.BehaviourDelta
	for _, b := range does {
		deltas = append(deltas, &sensorv1.BehaviourDelta{Key: b.GetKey(), Count: 2, LastSeen: b.GetFirstSeen() + 5, Known: known})
	}
	if err := db.Update(db.AppliedIndex()+1, func(tx *Tx) error { return tx.Summarise(host, does, deltas) }); err != nil {
		t.Fatal(err)
	}
}

func webHosts(t *testing.T, hosts int) *DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "state.db"))
	for i := range hosts {
		if err := db.Update(db.AppliedIndex()+1, func(tx *Tx) error {
			if err := tx.AddHost(fmt.Sprintf("h-%d", i), &sensorv1.HostFacts{Labels: map[string]string{"role": "own"}}, map[string]string{"role": "web"}, 1); err != nil {
				return err
			}
			if _, err := tx.PutRole(&raftv1.RoleGroup{Name: "web", Basis: "label"}); err != nil {
				return err
			}
			return tx.SetHostRole(int64(i+1), "web", 1000)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// Ensure a baseline is listed in pages whose rows come once each, in order, and that filters hold.
func TestBaseline(t *testing.T) {
	db := webHosts(t, 1)
	for i := range 25 {
		shows(t, db, 1, i%2 == 0, behaviour("/bin/sh", fmt.Sprintf("/bin/x%02d", i), int64(i)))
	}
	shows(t, db, 1, true, behaviour("/usr/sbin/cron", "/bin/sh", 100))
	ctx := t.Context()
	var all []string
	for token := ""; ; {
		rows, next, err := db.Baseline(ctx, "h-0", BaselineFilter{}, Page{Size: 7, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			all = append(all, string(r.GetBehaviour().GetSubject())+" "+string(r.GetBehaviour().GetObject()))
			if r.GetCount() != 2 || r.GetHosts() != 1 || r.GetHost() != "h-0" {
				t.Errorf("row %v", r)
			}
		}
		if token = next; token == "" {
			break
		}
		if len(all) == 7 { // what comes before the page that follows is not listed again
			shows(t, db, 1, true, behaviour("/bin/sh", "/bin/x00a", 1))
		}
	}
	if len(all) != 26 || all[0] != "/bin/sh /bin/x00" || all[25] != "/usr/sbin/cron /bin/sh" {
		t.Errorf("%d rows: %q", len(all), all)
	}
	for _, tt := range []struct {
		filter BaselineFilter
		want   int
	}{
		{BaselineFilter{NewOnly: true}, 12}, {BaselineFilter{Subject: "cron"}, 1}, {BaselineFilter{Since: 20}, 6},
		{BaselineFilter{Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW}, 0}, {BaselineFilter{Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC}, 27},
	} {
		if rows, _, err := db.Baseline(ctx, "h-0", tt.filter, Page{}); err != nil || len(rows) != tt.want {
			t.Errorf("%+v: %d rows, want %d (%v)", tt.filter, len(rows), tt.want, err)
		}
	}
	for _, token := range []string{"!", "AA", "AQUA"} {
		if _, _, err := db.Baseline(ctx, "h-0", BaselineFilter{}, Page{Token: token}); !errors.Is(err, ErrBadPage) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}

// Ensure what differs between hosts is told from both sides.
func TestDifference(t *testing.T) {
	db := webHosts(t, 4)
	both, mine := behaviour("/bin/sh", "/bin/ls", 1), behaviour("/bin/sh", "/tmp/mine", 2)
	shows(t, db, 1, true, both, mine)
	for host := int64(2); host <= 4; host++ {
		shows(t, db, host, true, both, behaviour("/bin/sh", "/bin/theirs", 3), behaviour("/bin/sh", fmt.Sprintf("/bin/only%c", 'a'+host), 4))
	}
	texts := func(rows []*operatorv1.DifferenceRow) (out []string) {
		for _, r := range rows {
			out = append(out, fmt.Sprintf("%v %s %d/%d", r.GetHere(), r.GetBehaviour().GetObject(), r.GetOthers(), r.GetHosts()))
		}
		return out
	}
	got, err := db.Difference(t.Context(), "h-0", []int64{2, 3, 4}, Page{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"false /bin/theirs 3/3", "true /tmp/mine 0/1"}; fmt.Sprint(texts(got.GetRows())) != fmt.Sprint(want) || got.GetCommon() != 1 || got.GetOf() != 3 {
		t.Errorf("got %q of %d, %d in common; want %q", texts(got.GetRows()), got.GetOf(), got.GetCommon(), want)
	}
	if got, err = db.Difference(t.Context(), "h-0", []int64{2}, Page{Size: 1}); err != nil || len(got.GetRows()) != 1 || got.GetPageToken() == "" {
		t.Errorf("%q, next %q, %v", texts(got.GetRows()), got.GetPageToken(), err)
	}
}

// Ensure a pack has what so many hosts do and know, says it of no host with an open incident, and takes
// no word for a behaviour whose key those words do not make.
func TestPackOf(t *testing.T) {
	db := webHosts(t, 5)
	common, rare, unsure := behaviour("/bin/sh", "/bin/ls", 1), behaviour("/bin/sh", "/bin/rare", 1), behaviour("/bin/sh", "/bin/unsure", 1)
	honest := behaviour("/usr/sbin/cron", "/bin/sh", 1)
	lie := &sensorv1.Behaviour{Key: honest.GetKey(), Kind: honest.GetKind(), Subject: []byte("/bin/sh"), Object: []byte("/tmp/evil"), FirstSeen: 1}
	shows(t, db, 1, true, common, rare, lie) // the first to name a key says what it is
	for host := int64(2); host <= 5; host++ {
		shows(t, db, host, true, common, honest)
	}
	for host := int64(1); host <= 5; host++ {
		shows(t, db, host, false, unsure)
	}
	p, _, err := db.PackOf(t.Context(), []int64{1, 2, 3, 4, 5}, 500)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.GetBehaviours()) != 1 || !bytes.Equal(p.GetBehaviours()[0].GetObject(), []byte("/bin/ls")) || p.GetBehaviours()[0].GetHosts() != 5 || p.GetOf() != 5 {
		t.Errorf("got %v", p)
	}
	if p, err = db.MadePack(t.Context(), "web"); err != nil || p.GetOf() != 5 {
		t.Errorf("of %d hosts, %v", p.GetOf(), err)
	}
	for i := range 3 {
		if err := db.Update(db.AppliedIndex()+1, func(tx *Tx) error {
			return tx.PutIncident(db.AppliedIndex()+1, &raftv1.Incident{Id: fmt.Sprintf("i-%d", i), Status: "open", Hosts: []string{fmt.Sprintf("h-%d", i)}})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if p, err = db.MadePack(t.Context(), "web"); err != nil || p != nil {
		t.Errorf("of two hosts without an incident a pack was made: %v, %v", p, err)
	}
}

// Ensure a sketch is the smallest known keys, or of a host that knows little all of them, and that a
// host is labelled by its operators alone.
func TestSketches(t *testing.T) {
	db := webHosts(t, 2)
	var many []*sensorv1.Behaviour
	for i := range 600 {
		many = append(many, behaviour("/bin/sh", fmt.Sprintf("/bin/%d", i), 1))
	}
	shows(t, db, 1, true, many...)
	shows(t, db, 1, false, behaviour("/bin/sh", "/bin/unknown", 1))
	shows(t, db, 2, false, many[:50]...)
	got, next, err := db.Sketches(t.Context(), -1, 10)
	if err != nil || next != 0 || len(got) != 2 {
		t.Fatalf("%d hosts, next %d, %v", len(got), next, err)
	}
	if len(got[0].Keys) != SketchKeys || got[0].Fresh || len(got[1].Keys) != 50 || !got[1].Fresh {
		t.Errorf("%d keys (fresh %v), %d (fresh %v)", len(got[0].Keys), got[0].Fresh, len(got[1].Keys), got[1].Fresh)
	}
	for i := range got[0].Keys[1:] {
		if got[0].Keys[i] >= got[0].Keys[i+1] {
			t.Fatal("not ascending")
		}
	}
	if got[0].Label != "web" || got[0].Own != "own" || got[0].Role != "web" {
		t.Errorf("label %q, own %q, role %q", got[0].Label, got[0].Own, got[0].Role)
	}
	if some, next, err := db.Sketches(t.Context(), -1, 1); err != nil || len(some) != 1 || next != 1 {
		t.Errorf("a page of one: %d, next %d, %v", len(some), next, err)
	}
}

// Ensure no host has the fleet's name for its role, whatever an older release or its label says: its role's pack would be
// the fleet's.
func TestNobodyIsTheFleet(t *testing.T) {
	db := webHosts(t, 1)
	if err := db.Update(db.AppliedIndex()+1, func(tx *Tx) error {
		if err := tx.AddHost("h-star", &sensorv1.HostFacts{}, map[string]string{"role": pack.Fleet}, 1); err != nil {
			return err
		}
		if _, err := tx.PutRole(&raftv1.RoleGroup{Name: pack.Fleet, Basis: "label"}); err != nil {
			return err
		}
		return tx.SetHostRole(1, pack.Fleet, 1000)
	}); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"h-0": "web", "h-star": ""} {
		if got, err := db.RoleOf(t.Context(), host); err != nil || got != want {
			t.Errorf("%s has role %q, want %q (%v)", host, got, want, err)
		}
	}
	if rows, of, err := db.RoleMembers(t.Context(), pack.Fleet, 10); err != nil || of != 2 || len(rows) != 2 {
		t.Errorf("of the fleet are %d hosts, %v, %v", of, rows, err)
	}
}
