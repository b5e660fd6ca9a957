package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// newExec is the kind of a finding that a program's novelty made: what a roll-out explains. A
	// rule's match is none.
	newExec = "new-exec"
	// rollOutAround is how long before the first and after the last host of a roll-out a finding may
	// be of it.
	rollOutAround = 6 * time.Hour
	// rollOutSeverity is what such a finding is shown with.
	rollOutSeverity = "low"
)

// sayRollOuts says of findings that the program which is new came to many hosts by an installer, and
// shows them with less severity. What is stored stays as the sensor told it.
func (s *Server) sayRollOuts(ctx context.Context, rows ...*operatorv1.FindingRow) error {
	var news []*operatorv1.FindingRow
	for _, r := range rows {
		if r.GetFinding().GetKind() == newExec {
			news = append(news, r)
		}
	}
	if len(news) == 0 {
		return nil
	}
	noted, _, err := s.cfg.DB.RollOuts(ctx, store.Page{Size: store.MaxPage})
	if err != nil {
		return readError(err)
	}
	byImage := make(map[string][]*operatorv1.RollOutRow)
	for _, o := range noted {
		if b := o.GetBehaviour(); b.GetKind() == sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC {
			byImage[string(b.GetObject())] = append(byImage[string(b.GetObject())], o)
		}
	}
	for _, r := range news {
		f := r.GetFinding()
		for _, o := range byImage[string(f.GetProcess().GetImage())] {
			if !explains(o, f) {
				continue
			}
			f.Reason += fmt.Sprintf(" It is part of a roll-out: it came to %d hosts from %s on, and on %d of them %s worked just before (severity was %s).",
				o.GetRollOut().GetHosts(), time.Unix(0, o.GetRollOut().GetFirstSeen()).UTC().Format(time.RFC3339), o.GetRollOut().GetInstalled(), o.GetRollOut().GetBy(), f.GetSeverity())
			if f.GetSeverity() != "informational" {
				f.Severity = rollOutSeverity
			}
			break
		}
	}
	return nil
}

// explains says whether a roll-out is of what a finding tells: by the same parent, at its time.
func explains(o *operatorv1.RollOutRow, f *sensorv1.Finding) bool {
	first, last := o.GetRollOut().GetFirstSeen(), o.GetRollOut().GetLastSeen()
	if f.GetTime() < first-int64(rollOutAround) || f.GetTime() > last+int64(rollOutAround) {
		return false
	}
	parent := ""
	if len(f.GetAncestors()) > 0 {
		parent = string(f.GetAncestors()[0].GetImage())
	}
	subject := string(o.GetBehaviour().GetSubject())
	return subject == parent || strings.HasPrefix(subject, parent+" ")
}
