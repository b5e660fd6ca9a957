package investigate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Figures of the judgement, in bits: one bit doubles the odds that a storyline deserves a
// person. They are set by hand, from what each kind of thing is worth to an analyst, and were
// not fitted to any suite of attacks.
const (
	// prior: of 64 storylines with a finding, one.
	prior = -6.0
	// surely and hardly are the chances from which a storyline goes to a person, and below
	// which it is closed.
	surely = 0.90
	hardly = 0.05

	forCredentials = 2.5
	forPersistence = 2.5
	forBinaries    = 2.0
	forModules     = 3.0
	forHistories   = 2.5
	forPrivilege   = 4.0
	forOddProgram  = 2.0
	forLoneProgram = 1.0
	forTactics     = 1.0 // each beyond the first
	mostTactics    = 4.0
	forOrigin      = 1.0
	forUsual       = -1.5
	forRollOut     = -4.0
	forMalicious   = 4.0
	// What people closed as benign weighs the more the oftener, and never more than this: a
	// judgement is about what they saw, and may have been wrong.
	perBenign  = -1.0
	mostBenign = -3.0

	mostOdd = 6.0

	// loneBelow hosts nothing can be said of how usual something is.
	loneBelow = 5
)

// severities from least to most, and what one finding of each says.
var (
	severities     = []string{"informational", "low", "medium", "high", "critical"}
	forSeverity    = []float64{0.5, 1.5, 4, 8, 11}
	mostOfSeverity = []float64{2, 4, 10, 16, 20} // of all findings of it that say different things
)

const (
	medium = 2
	high   = 3
)

func severityOf(f *sensorv1.Finding) int { return max(0, slices.Index(severities, f.GetSeverity())) }

// reason is one term with what would have been needed to have it.
type reason struct {
	bits float64
	text string
}

// check is something that was looked for: what it says when it is there, and what it would
// have been.
type check struct {
	bits float64
	had  string // empty: it was not there
	not  string // "it had read a credential file"
}

// judge weighs and tells.
func (c *evidence) judge() *raftv1.Investigation {
	lead := c.lead()
	checks := c.checks()
	terms := []reason{{prior, "of storylines with a finding one in 64 deserves a person"}}
	terms = append(terms, c.signs()...)
	for _, k := range checks {
		if k.had != "" {
			terms = append(terms, reason{k.bits, k.had})
		}
	}
	terms = append(terms, c.excuses()...)
	slices.SortStableFunc(terms, func(a, b reason) int { return cmp.Compare(math.Abs(b.bits), math.Abs(a.bits)) })
	total := 0.0
	for _, t := range terms {
		total += t.bits
	}
	chance := 1 / (1 + math.Exp2(-total))
	verdict, because := c.decide(chance)
	in := &raftv1.Investigation{Host: c.key.host, HostName: c.host.GetName(), Storyline: c.key.storyline, Verdict: verdict, Because: line("%s", because),
		Title: line("%s", lead.GetTitle()), Severity: severities[c.worst()], Confidence: math.Round(chance*100) / 100,
		Question: c.question, Scanned: c.answer.GetScanned(), Answered: uint64(len(c.answer.GetRows()))}
	for _, t := range terms {
		in.Terms = append(in.Terms, &raftv1.InvestigationTerm{Bits: t.bits, Text: line("%s", t.text)})
	}
	for _, row := range c.findings {
		in.Findings = append(in.Findings, row.GetFinding().GetId())
	}
	in.Techniques, in.Tactics = c.techniques()
	in.Unless = c.unless(verdict, total, checks)
	c.tell(in)
	return in
}

// decide says how it ends, and why.
func (c *evidence) decide(chance float64) (verdict, because string) {
	switch {
	case c.worst() >= high:
		return state.VerdictIncident, fmt.Sprintf("a finding of severity %s always goes to a person", severities[c.worst()])
	case chance >= surely:
		return state.VerdictIncident, fmt.Sprintf("its signs add up to a chance of %.0f %% that it deserves a person", 100*chance)
	case chance > hardly:
		return state.VerdictWatching, fmt.Sprintf("its signs add up to a chance of %.0f %%: too much to close, too little to wake anybody", 100*chance)
	}
	if gap := c.gap(); gap != "" {
		return state.VerdictWatching, "nothing speaks for an attack but what was found, and it is not closed because " + gap
	}
	why := fmt.Sprintf("the recorder tells all that the storyline did since %s UTC, and none of it is what attacks are made of", clock(c.asked()))
	switch {
	case c.rollOut != nil:
		why = fmt.Sprintf("it is part of a roll-out: the same came to %d hosts, on %d of them by %s", c.rollOut.GetRollOut().GetHosts(),
			c.rollOut.GetRollOut().GetInstalled(), c.rollOut.GetRollOut().GetBy())
	case c.benign > 0:
		why = fmt.Sprintf("people closed what looks the same as benign %d times and never as malicious, and %s", c.benign, why)
	case c.learning():
		why = "the host was still learning what is normal there, and " + why
	}
	return state.VerdictBenign, why
}

// gap is why what is not known may matter; empty: all was seen.
func (c *evidence) gap() string {
	switch a := c.answer; {
	case c.unanswered != "":
		return "its recorder was not heard: " + c.unanswered
	case a == nil:
		return "its recorder was not asked"
	case a.GetLimited() != "":
		return "it did more than was read (limit of " + a.GetLimited() + ")"
	case a.GetDamaged() > 0:
		return fmt.Sprintf("%d of the recorder's records could not be read", a.GetDamaged())
	case a.GetCoveredFrom() > c.asked()+int64(time.Second) && c.root() < a.GetCoveredFrom()-int64(aroundStart):
		return "its recorder reaches back to " + clock(a.GetCoveredFrom()) + " UTC, and the storyline may have begun before"
	case lossCount(a.GetLosses()) > 0:
		return fmt.Sprintf("%d events were lost in that time", lossCount(a.GetLosses()))
	case c.unwatched():
		return "the sensor did not run all of that time"
	case len(a.GetRows()) == 0:
		return "its recorder has nothing of the storyline"
	}
	for _, row := range c.findings {
		if n := lossCount(row.GetFinding().GetLosses()); n > 0 {
			return fmt.Sprintf("%d events were lost in the window of a finding", n)
		}
	}
	return ""
}

// unwatched says whether the storyline may have done something while the sensor did not run:
// not before its first record, unless that is of the moment when the sensor began again.
func (c *evidence) unwatched() bool {
	return slices.ContainsFunc(c.answer.GetUnwatched(), func(u *sensorv1.Unwatched) bool {
		return u.GetUntil() == 0 || c.did.from == 0 || u.GetUntil()+int64(aroundStart) >= c.did.from
	})
}

// aroundStart is how long after its start a sensor tells of what runs already.
const aroundStart = 3 * time.Second

func lossCount(losses []*sensorv1.Loss) (n uint64) {
	for _, l := range losses {
		n += l.GetCount()
	}
	return n
}

// signs are what the findings say: of those that say the same only one.
func (c *evidence) signs() (terms []reason) {
	said := make(map[string]bool)
	sums := make([]float64, len(severities))
	for _, row := range c.findings {
		f := row.GetFinding()
		if c.outdone(f) {
			continue
		}
		key := f.GetKind() + "\x00" + f.GetRuleId() + "\x00" + f.GetTitle()
		severity := severityOf(f)
		bits, most := forSeverity[severity], mostOfSeverity[severity]
		text := fmt.Sprintf("%s finding: %s", severities[severity], f.GetTitle())
		if odd := oddness(f); odd > bits {
			bits, most = odd, max(most, mostOdd)
			text += fmt.Sprintf(" (an ordinary window of this host is as odd once in %.0f)", 1/f.GetPValue())
		}
		if f.GetLearning() {
			bits /= 2
		}
		if bits = min(bits, most-sums[severity]); said[key] || bits <= 0 {
			continue
		}
		said[key] = true
		sums[severity] += bits
		terms = append(terms, reason{bits, text})
	}
	return terms
}

// outdone says whether another finding tells the same event, and more severely or before:
// three rules that match one write are one reason.
func (c *evidence) outdone(f *sensorv1.Finding) bool {
	before := true
	for _, row := range c.findings {
		other := row.GetFinding()
		if other == f {
			before = false
			continue
		}
		if more := severityOf(other) - severityOf(f); sameEvent(other, f.GetTime(), f.GetProcess()) && sameDeed(other, f) && (more > 0 || more == 0 && before) {
			return true
		}
	}
	return false
}

// sameEvent says whether a finding is about what a process did at a time.
func sameEvent(f *sensorv1.Finding, at int64, p *sensorv1.Process) bool {
	return p != nil && f.GetProcess().GetPid() == p.GetPid() && f.GetProcess().GetStart() == p.GetStart() && f.GetTime()-at < int64(oneEvent) && at-f.GetTime() < int64(oneEvent)
}

// sameDeed says whether two findings of one moment are of one thing that was done: two rules say
// it in the same first sentence, and what is found odd says it in its own way.
func sameDeed(a, b *sensorv1.Finding) bool {
	if a.GetKind() != "rule" || b.GetKind() != "rule" {
		return true
	}
	did, _, _ := strings.Cut(a.GetReason(), ". ")
	other, _, _ := strings.Cut(b.GetReason(), ". ")
	return strings.TrimSuffix(did, ".") == strings.TrimSuffix(other, ".")
}

// oneEvent is how far apart two tell the same.
const oneEvent = time.Millisecond

// oddness is half the bits that the rarity of such a window has: a host has many windows, and
// what is rare is mostly new and harmless.
func oddness(f *sensorv1.Finding) float64 {
	if p := f.GetPValue(); p > 0 && p < 1 {
		return min(-math.Log2(p)/2, mostOdd)
	}
	return 0
}

// checks are what is looked for in what the storyline did.
func (c *evidence) checks() []check {
	d := &c.did
	of := func(bits float64, what string, list []counted, not string) check {
		k := check{bits: bits, not: not}
		if len(list) > 0 {
			k.had = what + " " + names(list, 3)
		}
		return k
	}
	checks := []check{
		of(forCredentials, "it touched where credentials are kept:", d.credentials, "it had touched where credentials are kept"),
		of(forPersistence, "it changed what starts programs:", d.persistence, "it had changed what starts programs"),
		of(forBinaries, "it changed programs or served scripts:", d.binaries, "it had changed a program or a served script"),
		of(forModules, "it changed kernel modules:", d.modules, "it had changed a kernel module"),
		of(forHistories, "it removed traces:", d.histories, "it had removed or cut a log or a history"),
		of(forPrivilege, "it gained privileges that nothing allows:", d.unexplained, "it had gained privileges that nothing allows"),
		of(forOddProgram, "it ran programs from memory, deleted files or where everybody may write:", d.odd, "it had run a program from memory or from where everybody may write"),
	}
	lone := check{bits: forLoneProgram, not: "it had run a program that no other host runs"}
	if c.fleet >= loneBelow {
		for _, image := range c.programs(maxLookedUp) {
			if n, read := c.usual[image]; read && n <= 1 {
				lone.had = "no other host is known to run " + image
				break
			}
		}
	}
	tactics := check{bits: forTactics, not: "its findings had been of several tactics"}
	if _, all := c.techniques(); len(all) > 1 {
		tactics.bits = min(forTactics*float64(len(all)-1), mostTactics)
		tactics.had = fmt.Sprintf("its findings are of %d tactics: %s", len(all), strings.Join(all, ", "))
	}
	came := check{bits: forOrigin, not: "it had come in over the network"}
	if from := c.origin(); from != "" {
		came.had = "it came in over the network, " + from
	}
	return append(checks, lone, tactics, came)
}

// excuses are what speaks for ordinary work, and how people judged it.
func (c *evidence) excuses() (terms []reason) {
	if usual := c.everywhere(); usual != "" {
		terms = append(terms, reason{forUsual, usual})
	}
	if c.rollOut != nil {
		terms = append(terms, reason{forRollOut, "the same program came to several hosts by an installer"})
	}
	if c.malicious > 0 {
		terms = append(terms, reason{forMalicious, fmt.Sprintf("people closed what looks the same as malicious %d times", c.malicious)})
	} else if c.benign > 0 {
		terms = append(terms, reason{max(perBenign*float64(c.benign), mostBenign), fmt.Sprintf("people closed what looks the same as benign %d times", c.benign)})
	}
	return terms
}

// everywhere says that all of its programs are used by much of the fleet.
func (c *evidence) everywhere() string {
	programs := c.programs(maxLookedUp)
	if c.fleet < loneBelow || len(programs) == 0 || len(programs) == maxLookedUp || c.shortened {
		return ""
	}
	for _, image := range programs {
		if 4*c.usual[image] < uint64(c.fleet) { //nolint:gosec // a count
			return ""
		}
	}
	return fmt.Sprintf("each of its %d programs runs on a quarter of the fleet or more", len(programs))
}

// unless says what would have changed its mind: what alone would, or how much more of what
// was looked for and was not there.
func (c *evidence) unless(verdict string, total float64, checks []check) (all []string) {
	need := math.Log2(surely/(1-surely)) - total
	switch verdict {
	case state.VerdictIncident:
		if c.worst() >= high {
			return []string{line("Only a person closes a finding of severity %s.", severities[c.worst()])}
		}
		return []string{line("%.1f bits less, as when people close what looks the same as benign: never more than %.0f bits.", -need, -mostBenign)}
	case state.VerdictBenign:
		need = math.Log2(hardly/(1-hardly)) - total // it would be watched
	}
	var alone, part []string
	for _, k := range checks {
		switch {
		case k.had != "":
		case k.bits >= need:
			alone = append(alone, k.not)
		default:
			part = append(part, k.not)
		}
	}
	what := map[string]string{state.VerdictBenign: "It would be watched", state.VerdictWatching: "It would be an incident"}[verdict]
	if len(alone) > 0 {
		all = append(all, line("%s if %s.", what, strings.Join(alone, ", or ")))
	}
	if len(part) > 0 && len(alone) < 3 {
		all = append(all, line("%s by %.1f bits more; of what was looked for and is not there: %s.", what, need, strings.Join(part, "; ")))
	}
	return append(all, line("A finding of severity high in this storyline makes it an incident, and any new finding has it looked at again."))
}

func (c *evidence) worst() (severity int) {
	for _, row := range c.findings {
		severity = max(severity, severityOf(row.GetFinding()))
	}
	return severity
}

// learning says that all its findings are of a host that learns.
func (c *evidence) learning() bool {
	return !slices.ContainsFunc(c.findings, func(row *operatorv1.FindingRow) bool { return !row.GetFinding().GetLearning() })
}

// lead is the finding that says most.
func (c *evidence) lead() *sensorv1.Finding {
	return slices.MaxFunc(c.findings, func(a, b *operatorv1.FindingRow) int {
		return cmp.Or(cmp.Compare(severityOf(a.GetFinding()), severityOf(b.GetFinding())), cmp.Compare(a.GetFinding().GetScore(), b.GetFinding().GetScore()))
	}).GetFinding()
}

// techniques are those that its findings name, with their tactics in the matrix' order.
func (c *evidence) techniques() (ids, tactics []string) {
	of := make(map[string]bool)
	for _, row := range c.findings {
		for _, id := range row.GetFinding().GetTechniques() {
			if id = drill.Current(id); slices.Contains(ids, id) || len(ids) >= 64 {
				continue
			}
			ids = append(ids, line("%s", id))
			// A technique of several tactics says of none of them that it was the aim.
			if t, known := drill.ByID(id); known && len(t.In()) > 0 {
				of[t.In()[0]] = true
			}
		}
	}
	slices.Sort(ids)
	for _, tactic := range drill.Tactics() {
		if of[tactic] {
			tactics = append(tactics, drill.TacticTitle(tactic))
		}
	}
	return ids, tactics
}

// maxSize is below what the log takes of one investigation.
const maxSize = 48 << 10

// fit shortens what is too large: the oldest findings and moments go first, and it says so.
func fit(in *raftv1.Investigation) {
	if proto.Size(in) <= maxSize {
		return
	}
	in.Limits = append(in.Limits, "This is shortened: it was too large to be kept whole.")
	for proto.Size(in) > maxSize && len(in.GetTimeline()) > 1 {
		in.Timeline = in.GetTimeline()[len(in.GetTimeline())/2:]
	}
	for proto.Size(in) > maxSize && len(in.GetFindings()) > 1 {
		in.Findings = in.GetFindings()[len(in.GetFindings())/2:]
	}
	for proto.Size(in) > maxSize && len(in.GetTouched()) > 1 {
		in.Touched = in.GetTouched()[:len(in.GetTouched())/2]
	}
}
