package live

import (
	"fmt"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxNewLines bounds how many lines one summary may take: a fresh host learns
// hundreds of behaviours at once.
const maxNewLines = 20

// Lines renders one event as plain lines, safe for a terminal.
func Lines(ev *operatorv1.WatchResponse) []string {
	host := label(ev)
	if host == "" {
		host = "-"
	}
	lead := fmt.Sprintf("%s  %-12s  ", stamp(ev.GetTime()), host)
	var texts []string
	switch body := ev.GetBody().(type) {
	case *operatorv1.WatchResponse_Summary:
		texts = summaryLines(body.Summary)
	case *operatorv1.WatchResponse_Finding:
		f := body.Finding.GetFinding()
		texts = []string{fmt.Sprintf("FINDING    %s, score %.0f: %s (%s)", f.GetSeverity(), f.GetScore(), f.GetTitle(), f.GetId())}
		if f.GetReason() != "" {
			texts = append(texts, "           "+f.GetReason())
		}
	case *operatorv1.WatchResponse_Incident:
		i := body.Incident
		texts = []string{fmt.Sprintf("INCIDENT   %s, %s, on %d hosts: %s (%s)", i.GetStatus(), i.GetSeverity(), len(i.GetHosts()), i.GetTitle(), i.GetId())}
	case *operatorv1.WatchResponse_Isolation:
		i := body.Isolation
		texts = []string{fmt.Sprintf("ISOLATION  %s %s, by %s: %s (%s)%s", i.GetAction(), i.GetState(), i.GetRequestedBy(), i.GetReason(), i.GetOperation(), detail(i.GetDetail()))}
	case *operatorv1.WatchResponse_HostChange:
		texts = []string{"host       " + strings.TrimSpace(body.HostChange.GetChange()+" "+body.HostChange.GetDetail())}
	}
	for i, t := range texts {
		texts[i] = output.Safe(lead + t)
	}
	return texts
}

func detail(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func summaryLines(s *sensorv1.Summary) []string {
	var texts []string
	for n, b := range s.GetNewBehaviours() {
		if n == maxNewLines {
			texts = append(texts, fmt.Sprintf("learns     … and %d more", len(s.GetNewBehaviours())-n))
			break
		}
		texts = append(texts, fmt.Sprintf("learns     %-6s %s", shape.Kind(b.GetKind()), edge(b)))
	}
	h := s.GetHealth()
	var lost uint64
	for _, l := range s.GetLosses() {
		lost += l.GetCount()
	}
	text := fmt.Sprintf("summary    %d behaviours active, %d new; %s; %d events lost", len(s.GetDeltas()), len(s.GetNewBehaviours()), baseline(h.GetBaseline()), lost)
	return append(texts, text)
}

func baseline(b *sensorv1.BaselineState) string {
	word := "knows"
	if b.GetLearning() {
		word = "is learning,"
	}
	return fmt.Sprintf("%s %d of %d behaviours, confidence %.0f%%", word, b.GetKnown(), b.GetBehaviours(), 100*b.GetConfidence())
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format("15:04:05Z") }

// Record is one event as JSON: time, host, host_name and type are always there, of
// the others the one that the type names is not null.
type Record struct {
	Time       shape.Time       `json:"time"`
	Host       string           `json:"host"`
	HostName   string           `json:"host_name"`
	Type       string           `json:"type"`
	Summary    *Summary         `json:"summary"`
	Finding    *shape.Finding   `json:"finding"`
	Incident   *shape.Incident  `json:"incident"`
	Isolation  *shape.Isolation `json:"isolation"`
	HostChange *Change          `json:"host_change"`
}

// Summary is a summary in a Record.
type Summary struct {
	WindowStart   shape.Time        `json:"window_start"`
	WindowEnd     shape.Time        `json:"window_end"`
	NewBehaviours []shape.Behaviour `json:"new_behaviours"`
	Active        int               `json:"active"`
	Baseline      shape.Baseline    `json:"baseline"`
	Losses        []shape.Loss      `json:"losses"`
}

// Change is a host's change in a Record.
type Change struct {
	Change string `json:"change"`
	Detail string `json:"detail"`
}

// ToRecord shapes an event.
func ToRecord(ev *operatorv1.WatchResponse) Record {
	r := Record{Time: shape.Time(ev.GetTime()), Host: ev.GetHost(), HostName: ev.GetHostName()}
	switch body := ev.GetBody().(type) {
	case *operatorv1.WatchResponse_Summary:
		s := body.Summary
		b := s.GetHealth().GetBaseline()
		r.Type = "summary"
		r.Summary = &Summary{
			shape.Time(s.GetWindowStart()), shape.Time(s.GetWindowEnd()), []shape.Behaviour{}, len(s.GetDeltas()),
			shape.Baseline{Behaviours: b.GetBehaviours(), Confidence: b.GetConfidence(), Learning: b.GetLearning()}, shape.Losses(s.GetLosses()),
		}
		for _, n := range s.GetNewBehaviours() {
			r.Summary.NewBehaviours = append(r.Summary.NewBehaviours, shape.Behaviour{
				Kind: shape.Kind(n.GetKind()), Subject: output.Lossless(n.GetSubject()), Object: output.Lossless(n.GetObject()),
				FirstSeen: shape.Time(n.GetFirstSeen()), LastSeen: shape.Time(n.GetFirstSeen()),
			})
		}
	case *operatorv1.WatchResponse_Finding:
		f := shape.FromFinding(body.Finding)
		r.Type, r.Finding = "finding", &f
	case *operatorv1.WatchResponse_Incident:
		i := shape.FromIncident(body.Incident)
		r.Type, r.Incident = "incident", &i
	case *operatorv1.WatchResponse_Isolation:
		i := shape.FromIsolation(body.Isolation)
		r.Type, r.Isolation = "isolation", &i
	case *operatorv1.WatchResponse_HostChange:
		r.Type, r.HostChange = "host_change", &Change{body.HostChange.GetChange(), body.HostChange.GetDetail()}
	}
	return r
}
