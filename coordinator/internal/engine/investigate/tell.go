package investigate

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"net/netip"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what a person is shown.
const (
	maxAccount = 10  // lines
	maxText    = 400 // runes of one
	maxTouched = 60
	maxMoments = 60
	maxShown   = 4 // of a list within a line
)

// tell writes down what is known for a person.
func (c *evidence) tell(in *raftv1.Investigation) {
	in.Account = strings.Join(c.account(in), "\n")
	in.Touched = c.touched()
	in.Prevalence = c.prevalence()
	in.Timeline = c.timeline()
	in.ActionsTaken = c.actions()
	in.Recommended = c.recommended(in)
	in.Limits = c.limits()
}

// account is what happened, in at most ten lines.
func (c *evidence) account(in *raftv1.Investigation) []string {
	first, last := c.findings[0].GetFinding(), c.findings[len(c.findings)-1].GetFinding()
	lines := []string{line("%d finding%s on %s from %s UTC, within %s; the worst, of severity %s: %s.", len(c.findings), plural(len(c.findings)),
		c.hostName(), clock(first.GetTime()), span(last.GetTime()-first.GetTime()), in.GetSeverity(), strings.TrimSuffix(in.GetTitle(), "."))}
	if chain := chainOf(c.lead()); chain != "" {
		lines = append(lines, line("It was done by %s.", chain))
	}
	if from := c.origin(); from != "" {
		lines = append(lines, line("It came in over the network, %s.", from))
	}
	if l := c.lead().GetLogin(); l != nil {
		where := "at the machine"
		if addr, ok := netip.AddrFromSlice(l.GetSource()); ok {
			where = "from " + addr.Unmap().String()
		}
		key := ""
		if l.GetKey() != "" {
			key = ", with the key " + l.GetKey()
		}
		lines = append(lines, line("Who logged in for it: %s, %s%s.", l.GetUser(), where, key))
	}
	d := &c.did
	if c.answer != nil && len(c.answer.GetRows()) > 0 {
		lines = append(lines, line("Asked, its recorder tells %d things of this storyline, from %s to %s UTC: %d programs run, %d connections, %d look-ups, %d files, %d uses of privilege, %d logins.",
			len(c.answer.GetRows()), clock(d.from), clock(d.until), d.execs, d.flows, d.lookups, d.files, d.privileges, d.logins))
	}
	if d.installed > 0 {
		lines = append(lines, line("A package manager put %d files in place.", d.installed))
	}
	if len(d.programs) > 0 {
		lines = append(lines, line("It ran %s.", names(d.programs, 6)))
	}
	if len(d.addresses) > 0 {
		lines = append(lines, line("It connected to %s.", names(d.addresses, maxShown)))
	}
	var notable []string
	for _, k := range c.checks() {
		if k.had != "" && k.bits > forLoneProgram {
			notable = append(notable, k.had)
		}
	}
	if len(notable) > 0 {
		lines = append(lines, line("What stands out: %s.", strings.Join(notable, "; ")))
	}
	verdict := map[string]string{state.VerdictBenign: "Closed as benign", state.VerdictWatching: "Watched on", state.VerdictIncident: "For a person to judge"}[in.GetVerdict()]
	end := line("%s: %s.", verdict, in.GetBecause())
	if gap := c.gap(); gap != "" && in.GetVerdict() == state.VerdictIncident {
		end = line("%s: %s. What limits this: %s.", verdict, in.GetBecause(), gap)
	}
	if len(lines) > maxAccount-1 {
		lines = lines[:maxAccount-1]
	}
	return append(lines, end)
}

// chainOf is who started whom, the oldest first.
func chainOf(f *sensorv1.Finding) string {
	if f.GetProcess() == nil {
		return ""
	}
	var chain []string
	for _, p := range slices.Backward(f.GetAncestors()) {
		chain = append(chain, base(p))
	}
	if len(chain) > 6 {
		chain = append([]string{chain[0], "…"}, chain[len(chain)-4:]...)
	}
	args := make([]string, 0, len(f.GetProcess().GetArgv()))
	for _, a := range f.GetProcess().GetArgv() {
		args = append(args, string(a))
	}
	command := shorten(strings.Join(args, " "), 120)
	if command == "" {
		command = string(f.GetProcess().GetImage())
	}
	user := cmp.Or(f.GetProcess().GetUser(), fmt.Sprint(f.GetProcess().GetUid()))
	return strings.Join(append(chain, fmt.Sprintf("%s (pid %d, user %s)", command, f.GetProcess().GetPid(), user)), " → ")
}

func base(p *sensorv1.Process) string {
	if len(p.GetImage()) == 0 {
		return "an unknown process"
	}
	return path.Base(string(p.GetImage()))
}

// origin is the flow that the storyline came in by.
func (c *evidence) origin() string {
	for _, row := range c.findings {
		if o := row.GetFinding().GetOrigin(); o != nil {
			if remote, ok := netip.AddrFromSlice(o.GetRemote()); ok {
				return fmt.Sprintf("from %s to port %d", remote.Unmap(), o.GetLocalPort())
			}
		}
	}
	return ""
}

func (c *evidence) hostName() string { return cmp.Or(c.host.GetName(), c.key.host) }

func (c *evidence) touched() (all []*raftv1.InvestigationTouch) {
	add := func(kind string, list []counted) {
		for _, t := range list {
			if len(all) < maxTouched {
				all = append(all, &raftv1.InvestigationTouch{Kind: kind, Text: line("%s", t.name), Times: uint32(t.times)}) //nolint:gosec // bounded by the rows
			}
		}
	}
	d := &c.did
	for _, files := range [][]counted{d.credentials, d.persistence, d.modules, d.binaries, d.histories} {
		add("file", files)
	}
	add("address", d.addresses)
	add("address", d.inbound)
	add("account", d.accounts)
	add("process", d.programs)
	return all
}

func (c *evidence) prevalence() (all []string) {
	for _, image := range c.programs(maxLookedUp) {
		n, read := c.usual[image]
		switch {
		case !read:
		case n == 0:
			all = append(all, line("%s: no host of %d is known to run it as usual.", image, c.fleet))
		default:
			all = append(all, line("%s: %d of %d hosts or more run it.", image, n, c.fleet))
		}
	}
	return all
}

// timeline is the findings, and of the recorder what stands out by its kind.
func (c *evidence) timeline() (all []*raftv1.InvestigationMoment) {
	for _, row := range c.findings {
		f := row.GetFinding()
		all = append(all, &raftv1.InvestigationMoment{Time: f.GetTime(), Text: line("finding, %s: %s", f.GetSeverity(), f.GetTitle())})
	}
	for _, r := range c.answer.GetRows() {
		switch {
		case r.GetKind() == "process" && r.GetType() == "exec":
			args := make([]string, 0, len(r.GetProcess().GetArgv()))
			for _, a := range r.GetProcess().GetArgv() {
				args = append(args, string(a))
			}
			all = append(all, &raftv1.InvestigationMoment{Time: r.GetTime(), Text: line("ran %s", cmp.Or(shorten(strings.Join(args, " "), 160), string(r.GetProcess().GetImage())))})
		case r.GetKind() == "network" && r.GetType() == "flow-open":
			if remote, ok := netip.AddrFromSlice(r.GetFlow().GetRemote()); ok {
				arrow := "to"
				if r.GetFlow().GetInbound() {
					arrow = "from"
				}
				all = append(all, &raftv1.InvestigationMoment{Time: r.GetTime(), Text: line("%s: connection %s %s port %d", base(r.GetProcess()), arrow, remote.Unmap(), r.GetFlow().GetRemotePort())})
			}
		case r.GetKind() == "file" && (text(r, "class") != "other" && text(r, "class") != ""):
			all = append(all, &raftv1.InvestigationMoment{Time: r.GetTime(), Text: line("%s: %s of %s (%s)", base(r.GetProcess()), cmp.Or(text(r, "op"), "use"), text(r, "path"), text(r, "class"))})
		case r.GetKind() == "privilege":
			all = append(all, &raftv1.InvestigationMoment{Time: r.GetTime(), Text: line("%s: privilege by %s", base(r.GetProcess()), text(r, "call"))})
		}
	}
	slices.SortStableFunc(all, func(a, b *raftv1.InvestigationMoment) int { return cmp.Compare(a.GetTime(), b.GetTime()) })
	all = slices.CompactFunc(all, func(a, b *raftv1.InvestigationMoment) bool {
		return a.GetTime() == b.GetTime() && a.GetText() == b.GetText()
	})
	if len(all) > maxMoments { // how it began and how it stands
		all = slices.Concat(all[:maxMoments/3], all[len(all)-maxMoments*2/3:])
	}
	return all
}

func (c *evidence) actions() (all []string) {
	since := c.findings[0].GetFinding().GetTime()
	for _, o := range c.orders {
		if o.GetRequestedAt() >= since {
			all = append(all, line("%s UTC: %s by %s (%s, %s)", clock(o.GetRequestedAt()), o.GetAction(), o.GetRequestedBy(), o.GetState(), o.GetOperation()))
		}
	}
	return all
}

// recommended are commands that can be run as they stand.
func (c *evidence) recommended(in *raftv1.Investigation) (next []string) {
	if in.GetVerdict() == state.VerdictBenign {
		return nil
	}
	if in.GetVerdict() == state.VerdictIncident && c.host.GetIsolation() != "applied" && c.host.GetIsolation() != "pending" {
		next = append(next, "vedette isolate "+shell(c.key.host)+" --reason "+shell("finding "+c.lead().GetId()))
	}
	if len(c.did.addresses) > 0 {
		host, _, _ := strings.Cut(c.did.addresses[0].name, " ")
		if peer, err := netip.ParseAddrPort(host); err == nil {
			next = append(next, fmt.Sprintf("vedette hunt 'network where remote.address == %q' --all --since 24h", peer.Addr()))
		}
	}
	return append(next, "vedette hunt --like "+shell(c.lead().GetId())+" --all --since 24h")
}

// shell quotes an argument for one: a finding is called what its sensor says.
func shell(arg string) string {
	if arg != "" && !strings.HasPrefix(arg, "-") && strings.IndexFunc(arg, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("-_.:@", r)
	}) < 0 {
		return arg
	}
	return "'" + strings.ReplaceAll(line("%s", arg), "'", `'\''`) + "'"
}

// limits say what the claim does not cover.
func (c *evidence) limits() (all []string) {
	if gap := c.gap(); gap != "" {
		all = append(all, line("%s.", upper(gap)))
	}
	if c.closed > 0 {
		all = append(all, line("%d findings of it were closed before and count no more.", c.closed))
	}
	if c.shortened {
		all = append(all, "It did more than is told here: what is weighed was asked for by itself, and came whole.")
	}
	for _, l := range c.answer.GetLosses() {
		if l.GetCount() > 0 {
			all = append(all, line("%d events were lost at %s (%s).", l.GetCount(), l.GetWhere(), l.GetCause()))
		}
	}
	if c.learning() {
		all = append(all, "The host was still learning what is normal there: what is new on it says less.")
	}
	gaps := slices.Clone(c.host.GetFacts().GetCoverageGaps())
	for _, g := range c.host.GetHealth().GetCoverageGaps() {
		if !slices.Contains(gaps, g) {
			gaps = append(gaps, g)
		}
	}
	if len(gaps) > 0 {
		slices.Sort(gaps)
		all = append(all, line("%s cannot see: %s.", c.hostName(), strings.Join(gaps, "; ")))
	}
	if c.fleet < loneBelow {
		all = append(all, line("With %d hosts nothing can be said of how usual something is in the fleet.", c.fleet))
	}
	if len(all) > 20 {
		all = all[:20]
	}
	return all
}

func names(list []counted, most int) string {
	var out []string
	for i, c := range list {
		if i == most {
			out = append(out, fmt.Sprintf("%d more", len(list)-most))
			break
		}
		name := shorten(c.name, 80)
		if c.times > 1 {
			name += fmt.Sprintf(" (%d times)", c.times)
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// line is safe for a terminal and for protobuf: processes choose what they are called.
func line(format string, args ...any) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, shorten(fmt.Sprintf(format, args...), maxText))
}

func shorten(s string, limit int) string {
	runes := []rune(strings.ToValidUTF8(s, "?"))
	if len(runes) <= limit {
		return string(runes)
	}
	return string(runes[:limit-1]) + "…"
}

func clock(at int64) string { return time.Unix(0, at).UTC().Format("2006-01-02 15:04:05") }

func span(ns int64) string { return max(time.Duration(ns).Round(time.Second), time.Second).String() }

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
