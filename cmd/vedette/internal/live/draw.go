package live

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Smallest screen that is drawn for; a smaller one shows the upper left of it.
const (
	minWidth  = 40
	minHeight = 12
)

// part is one pane: a head and lines, the most important first.
type part struct {
	head  string
	empty string
	lines []string
	// least is how many lines it gets on a small screen.
	least int
}

// Draw renders the state for a screen of that size, every line safe and none wider.
func Draw(s *State, width, height int, colour bool) string {
	p := &output.Printer{Colour: colour}
	w, h := max(width, minWidth), max(height, minHeight)
	lines := head(s, p, w)
	parts := []part{
		{"HOSTS: what they have learnt", "no host has enrolled yet: vedette token create", hosts(s, p, w), 2},
		{"NOW: what they do", "nothing yet; sensors report every few seconds", activity(s, p, w), 4},
		{"FINDINGS", "none", findings(s, p, w), 4},
		{"INCIDENTS", "none open", incidents(s, p, w), 2},
		{"ISOLATIONS", "", isolations(s, p, w), 0},
	}
	if len(s.Hints) > 0 {
		parts = append(parts, part{"TRY, in another terminal", "", hints(s, w), len(s.Hints)})
	}
	room := h - len(lines) - 1
	for i, n := range share(parts, room) {
		if n > 0 {
			lines = append(lines, pane(parts[i], p, n, w)...)
		}
	}
	lines = lines[:min(len(lines), h-1)]
	for len(lines) < h-1 {
		lines = append(lines, "")
	}
	lines = append(lines, p.Paint(output.Dim, output.Cut("q quit · p pause · vedette finding show ID · vedette incident show ID · vedette isolate HOST", w)))
	if height < len(lines) {
		lines = lines[:max(height, 0)]
	}
	return strings.Join(lines, "\n")
}

func head(s *State, p *output.Printer, w int) []string {
	st := s.Status
	leader := "no leader"
	if st.GetLeaderId() != "" {
		leader = "leader " + st.GetLeaderId()
	}
	text := fmt.Sprintf("VEDETTE  cluster %s, %s, %d nodes, index %d · %d hosts, %d silent, %d isolated · %d incidents open, %d findings today",
		st.GetClusterId(), leader, len(st.GetMembers()), st.GetAppliedIndex(), st.GetHosts(), st.GetHostsSilent(), st.GetIsolated(),
		st.GetIncidentsOpen(), st.GetFindingsDay())
	if st == nil {
		text = "VEDETTE  asking the cluster …"
	}
	lines := []string{p.Paint(output.Bold, fit(text, w))}
	problems := st.GetProblems()
	if s.Trouble != "" {
		problems = append([]string{s.Trouble}, problems...)
	}
	for _, problem := range problems[:min(len(problems), 2)] {
		lines = append(lines, p.Paint(output.Red, fit("! "+problem, w)))
	}
	return lines
}

// share gives each part its least and deals out the rest line by line to those that
// have more to show. A part costs two lines more than it shows: its head and a gap.
func share(parts []part, room int) []int {
	n := make([]int, len(parts))
	for i, pt := range parts {
		want := max(1, min(pt.least, len(pt.lines)))
		if len(pt.lines) == 0 && pt.empty == "" {
			want = 0
		}
		if want > 0 && room >= want+2 {
			n[i] = want
			room -= want + 2
		}
	}
	for dealt := true; room > 0 && dealt; {
		dealt = false
		for i, pt := range parts {
			if n[i] > 0 && n[i] < len(pt.lines) && room > 0 {
				n[i]++
				room--
				dealt = true
			}
		}
	}
	return n
}

func pane(pt part, p *output.Printer, n, w int) []string {
	headline := pt.head
	if more := len(pt.lines) - n; more > 0 {
		headline += fmt.Sprintf("  (%d more)", more)
	}
	lines := []string{"", p.Paint(output.Bold, fit(headline, w))}
	if len(pt.lines) == 0 {
		return append(lines, p.Paint(output.Dim, fit("  "+pt.empty, w)))
	}
	return append(lines, pt.lines[:min(n, len(pt.lines))]...)
}

func hints(s *State, w int) []string {
	var out []string
	for _, hint := range s.Hints {
		out = append(out, fit("  "+hint, w))
	}
	return out
}

// fit makes text safe and cuts it to the screen.
func fit(text string, w int) string { return output.Cut(output.Safe(text), w) }

func hosts(s *State, p *output.Printer, w int) []string {
	rows := slices.Clone(s.Hosts)
	// What needs a look comes first.
	slices.SortStableFunc(rows, func(a, b *operatorv1.Host) int { return rank(a) - rank(b) })
	var out []string
	for _, h := range rows {
		b := h.GetBaseline()
		word := "knows"
		if b.GetLearning() {
			word = "learns"
		}
		text := fmt.Sprintf("  %-14s %-10s %s %3.0f%% %s %d of %d · %.0f ev/s · %d lost",
			output.Cut(output.Safe(name(h)), 14), h.GetState(), bar(b.GetConfidence()), 100*b.GetConfidence(), word, b.GetKnown(), b.GetBehaviours(),
			s.Rates[h.GetId()], h.GetEventsLost())
		if i := h.GetIsolation(); i != "" && i != "none" {
			text += " · isolation " + i
		}
		colour := output.Plain
		if rank(h) < 2 {
			colour = output.Red
		}
		out = append(out, p.Paint(colour, fit(text, w)))
	}
	return out
}

func name(h *operatorv1.Host) string {
	if h.GetName() != "" {
		return h.GetName()
	}
	return h.GetId()
}

func rank(h *operatorv1.Host) int {
	switch {
	case h.GetState() == "silent", h.GetState() == "blind":
		return 0
	case h.GetIsolation() != "" && h.GetIsolation() != "none":
		return 1
	default:
		return 2
	}
}

// bar shows 0..1 in ten steps.
func bar(x float64) string {
	n := int(min(max(x, 0), 1)*10 + 0.5)
	return strings.Repeat("█", n) + strings.Repeat("░", 10-n)
}

func activity(s *State, p *output.Printer, w int) []string {
	var out []string
	for _, a := range s.Activity {
		mark, colour := "   ", output.Plain
		switch {
		case a.New:
			mark, colour = "new", output.Yellow
		case a.Count > 0:
			colour = output.Dim
		}
		text := fmt.Sprintf("  %s %-14s %s %-6s %s", stamp(a.Time), output.Cut(output.Safe(a.Host), 14), mark, strings.TrimSpace(a.Kind), a.Text)
		if a.Count > 0 {
			text += fmt.Sprintf("  ×%d", a.Count)
		}
		out = append(out, p.Paint(colour, fit(text, w)))
	}
	return out
}

func findings(s *State, p *output.Printer, w int) []string {
	var out []string
	for _, r := range s.Findings {
		f := r.GetFinding()
		host := r.GetHostName()
		if host == "" {
			host = r.GetHost()
		}
		text := fmt.Sprintf("  %s %-14s %-8s %3.0f  %s  %s", stamp(f.GetTime()), output.Cut(output.Safe(host), 14), f.GetSeverity(), f.GetScore(), f.GetTitle(), f.GetId())
		out = append(out, p.Paint(severity(f.GetSeverity()), fit(text, w)))
	}
	return out
}

func severity(s string) output.Colour {
	switch s {
	case "critical", "high":
		return output.Red
	case "medium":
		return output.Yellow
	default:
		return output.Plain
	}
}

func incidents(s *State, p *output.Printer, w int) []string {
	var out []string
	for _, i := range s.Incidents {
		if i.GetStatus() != "open" {
			continue
		}
		text := fmt.Sprintf("  %s %-8s %d hosts  %s  %s", stamp(i.GetLastSeen()), i.GetSeverity(), len(i.GetHosts()), i.GetTitle(), i.GetId())
		out = append(out, p.Paint(severity(i.GetSeverity()), fit(text, w)))
	}
	return out
}

func isolations(s *State, p *output.Printer, w int) []string {
	var out []string
	for _, i := range s.Isolations {
		if i.GetState() != "pending" && i.GetState() != "applied" && i.GetState() != "failed" {
			continue
		}
		host := i.GetHostName()
		if host == "" {
			host = i.GetHost()
		}
		text := fmt.Sprintf("  %-14s %s %s until %s · %s", output.Cut(output.Safe(host), 14), i.GetAction(), i.GetState(), stamp(i.GetLeaseExpires()), i.GetReason())
		out = append(out, p.Paint(output.Yellow, fit(text, w)))
	}
	return out
}
