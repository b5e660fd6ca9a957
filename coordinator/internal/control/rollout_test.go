package control

import (
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure a finding of a program that was rolled out says so and is listed low, and that a rule's match, another
// program's, another parent's and one of another time are not touched.
func TestSayRollOuts(t *testing.T) {
	db := emptyStore(t)
	const day = int64(24 * 3600 * 1e9)
	key := pack.KeyOf(1, "/usr/sbin/cron", "/usr/bin/upgraded")
	b := &sensorv1.Behaviour{Key: key[:], Kind: sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, Subject: []byte("/usr/sbin/cron"), Object: []byte("/usr/bin/upgraded"), FirstSeen: day}
	if err := db.Update(1, func(tx *store.Tx) error {
		if err := tx.AddHost("h-1", nil, nil, 1); err != nil {
			return err
		}
		if err := tx.Summarise(1, []*sensorv1.Behaviour{b}, nil); err != nil {
			return err
		}
		return tx.PutRollOut(&raftv1.RollOut{Key: key[:], FirstSeen: day, LastSeen: day + 5, Hosts: 9, Installed: 8, By: "apt-get"})
	}); err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: Config{DB: db}}
	for _, tt := range []struct {
		name, kind, image, parent string
		time                      int64
		want                      bool
	}{
		{"it", "new-exec", "/usr/bin/upgraded", "/usr/sbin/cron", day + 3, true},
		{"a rule's", "rule", "/usr/bin/upgraded", "/usr/sbin/cron", day + 3, false},
		{"another program", "new-exec", "/usr/bin/other", "/usr/sbin/cron", day + 3, false},
		{"another parent", "new-exec", "/usr/bin/upgraded", "/usr/sbin/nginx", day + 3, false},
		{"another day", "new-exec", "/usr/bin/upgraded", "/usr/sbin/cron", 3 * day, false},
	} {
		row := &operatorv1.FindingRow{Finding: &sensorv1.Finding{Kind: tt.kind, Severity: "high", Reason: "New.", Time: tt.time,
			Process: &sensorv1.Process{Image: []byte(tt.image)}, Ancestors: []*sensorv1.Process{{Image: []byte(tt.parent)}}}}
		if err := s.sayRollOuts(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		said := strings.Contains(row.GetFinding().GetReason(), "roll-out: it came to 9 hosts") && strings.Contains(row.GetFinding().GetReason(), "severity was high")
		if said != tt.want || (row.GetFinding().GetSeverity() == "low") != tt.want {
			t.Errorf("%s: %v", tt.name, row)
		}
	}
}
