package drill

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Verdicts of a drill, once it is known what was found.
const (
	Proven  = "proven"
	Missed  = "missed"
	Skipped = "skipped" // this host lacks what it needs, or its sensor cannot see it
	Failed  = "failed"  // it could not be done
	Quiet   = "quiet"   // a control that was not found
	Noisy   = "noisy"   // a control that was: what drills do around their techniques is found by itself
)

// maxNamed bounds a result's list of techniques.
const maxNamed = 64

// CheckResult says what is wrong with a result that is to be kept; texts have at most so many bytes.
func CheckResult(r *raftv1.DrillResult, most int) string {
	switch r.GetVerdict() {
	case Proven, Missed, Skipped, Failed, Quiet, Noisy:
	default:
		return fmt.Sprintf("verdict %q is none of proven, missed, skipped, failed, quiet and noisy", r.GetVerdict())
	}
	name := r.GetDrill()
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Sprintf("%.64q is no drill's name", name)
	}
	if len(r.GetNamed()) > maxNamed {
		return fmt.Sprintf("drill %s: more than %d techniques", name, maxNamed)
	}
	for _, text := range append([]string{r.GetWhy(), r.GetIncident(), r.GetMark(), r.GetHost()}, r.GetNamed()...) {
		if len(text) > most || !utf8.ValidString(text) {
			return fmt.Sprintf("drill %s: a text is longer than %d bytes", name, most)
		}
	}
	if r.GetTime() <= 0 || r.GetAfter() < 0 || r.GetMissedAt() != 0 || r.GetProvenAt() != 0 || r.GetHostName() != "" {
		return fmt.Sprintf("drill %s: a result says when it was done, and nothing that the coordinator knows itself", name)
	}
	return ""
}
