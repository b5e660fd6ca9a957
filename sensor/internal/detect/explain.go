package detect

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// pointsPerHalving: a finding at the budget has 50 points of 100, and so many more for
	// each halving of how often this host shows as much.
	pointsPerHalving = 6.0
	// A finding is high, or critical, when it is so many halvings rarer than what the
	// budget tells, and clues, not novelty, are so many bits of it.
	highHalvings, highClues         = 3.0, 16.0
	criticalHalvings, criticalClues = 8.0, 24.0
)

func noveltyOf(surprise float64) float64 { return min(maxNovelty, noveltyShare*surprise) }

// explain fills a finding's score, p-value, severity, terms and reason.
func (e *Engine) explain(f *event.Finding, v event.Verdict, a weighed, did string) {
	rate := e.odds.rate(a.whole)
	halvings := max(math.Log2(e.odds.allowed()/max(rate, 1e-300)), 0)
	f.PValue = max(e.odds.pValue(a.whole), math.SmallestNonzeroFloat64)
	f.Score = min(50+pointsPerHalving*halvings, 100)
	clues := 0.0
	f.Terms = noveltyTerms(v, a)
	for _, t := range a.terms {
		f.Terms = append(f.Terms, event.Term{Bits: t.bits, Text: t.text})
		clues += max(t.bits, 0)
	}
	before := a.shown.before(a.terms)
	for _, t := range before {
		clues += t.Bits
	}
	f.Terms = append(f.Terms, before...)
	slices.SortStableFunc(f.Terms, func(x, y event.Term) int { return cmp.Compare(y.Bits, x.Bits) })
	f.Terms = append(f.Terms, event.Term{Text: e.expectation(a.whole, rate)})
	f.Severity = event.Medium
	switch {
	case halvings >= criticalHalvings && clues >= criticalClues:
		f.Severity = event.Critical
	case halvings >= highHalvings && clues >= highClues:
		f.Severity = event.High
	}

	f.Reason = did + usually(v)
	var because []string
	for _, t := range a.terms {
		if t.bits > 0 {
			because = append(because, t.text)
		}
	}
	if len(because) > 0 {
		f.Reason += "; " + strings.Join(because, "; ")
	}
	f.Reason += fmt.Sprintf(" (%.1f bits of surprise). As odd a storyline is expected here %s.", v.Surprise, often(rate))
}

// usually is the end of a sentence about what was done.
func usually(v event.Verdict) string {
	switch {
	case v.New:
		return fmt.Sprintf(", which it never did in %s on this host", duration(v.Watched))
	case v.Known:
		return ", which is known on this host"
	}
	return fmt.Sprintf(", which it did %s in %s on this host", times(v.Seen), duration(v.Watched))
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// noveltyTerms are what is usual here, and at the peers, in words.
func noveltyTerms(v event.Verdict, a weighed) (all []event.Term) {
	if !v.Known {
		alone := noveltyOf(v.HostBits)
		if v.Group.Of+v.Fleet.Of == 0 {
			alone = a.fresh
		}
		text := fmt.Sprintf("new here: by what it usually does on this host, 1 in %s", count(math.Exp2(v.HostBits)))
		if !v.New {
			text = fmt.Sprintf("rare here: done %s in %s, 1 in %s of what it does", times(v.Seen), duration(v.Watched), count(math.Exp2(v.HostBits)))
		}
		all = append(all, event.Term{Bits: alone, Text: text})
		if v.Group.Of+v.Fleet.Of > 0 {
			all = append(all, event.Term{Bits: a.fresh - alone, Text: peers(v)})
		}
	}
	if a.novelty > 0.05 {
		all = append(all, event.Term{Bits: a.novelty, Text: "earlier in its storyline: something that was newer still"})
	}
	if a.burst > 0.05 {
		all = append(all, event.Term{Bits: a.burst, Text: fmt.Sprintf("it is one of %.0f new things in its storyline, of one program's many each but the first counted as an eighth", math.Exp2(a.burst))})
	}
	return all
}

// peers says what the role group and the fleet do.
func peers(v event.Verdict) string {
	var parts []string
	for _, p := range []struct {
		share event.Share
		of    string
	}{{v.Group, "of its role"}, {v.Fleet, "of the fleet"}} {
		switch {
		case p.share.Of == 0:
		case p.share.Have == 0:
			parts = append(parts, fmt.Sprintf("none of the %d other hosts %s does it", p.share.Of, p.of))
		default:
			parts = append(parts, fmt.Sprintf("%d of the %d other hosts %s do it", p.share.Have, p.share.Of, p.of))
		}
	}
	return strings.Join(parts, ", ")
}

// expectation is what the sum means on this host, and what that rests on.
func (e *Engine) expectation(bits, rate float64) string {
	rests := "on what young hosts show"
	if e.odds.days >= 1 {
		rests = fmt.Sprintf("on %.0f days of this host beside what young hosts show", e.odds.days)
	}
	windows := 1 / max(e.odds.pValue(bits), 1e-300)
	return fmt.Sprintf("together %.1f bits: expected here %s, in 1 of %s windows of %s; this rests %s. From %.1f bits on it is told",
		bits, often(rate), count(windows), duration(e.cfg.Window), rests, e.odds.need)
}

// often is a rate a day for people.
func often(rate float64) string {
	switch days := 1 / max(rate, 1e-9); {
	case rate >= 1.5:
		return fmt.Sprintf("%.0f times a day", rate)
	case days < 2:
		return "about once a day"
	case days < 60:
		return fmt.Sprintf("once in %.0f days", days)
	case days < 700:
		return fmt.Sprintf("once in %.0f months", days/30.4)
	case days < 365*100:
		return fmt.Sprintf("once in %.0f years", days/365)
	}
	return "less than once in 100 years"
}

// count is a large number with two digits that count.
func count(n float64) string {
	for _, unit := range []struct {
		from float64
		name string
	}{{1e12, ""}, {1e9, " billion"}, {1e6, " million"}} {
		switch {
		case n < unit.from:
		case unit.name == "":
			return "a trillion and more"
		default:
			return fmt.Sprintf("%.2g%s", n/unit.from, unit.name)
		}
	}
	if n >= 100 {
		step := math.Pow(10, math.Floor(math.Log10(n))-1)
		n = math.Round(n/step) * step
	}
	text := fmt.Sprintf("%.0f", n)
	if len(text) > 3 {
		text = text[:len(text)-3] + "," + text[len(text)-3:]
	}
	return text
}
