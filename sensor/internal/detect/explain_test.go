package detect

import (
	"math"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure a finding's terms add up to its score, and say what is usual here, what the
// peers do, the hour and what the storyline showed before.
func TestTerms(t *testing.T) {
	h, e := newHost(), engine(t)
	web := h.process(nil, "/opt/shop/server", "server")
	e.Evaluate(h.open(web, event.Inbound, "10.0.0.5:50001"), event.Verdict{})
	v := unusual(9)
	v.HostBits, v.Group, v.Fleet = 12, event.Share{Have: 3, Of: 10}, event.Share{Of: 300}
	v.Behaviour.Subject = web.Image
	first := h.process(web, "/usr/bin/expr", "expr")
	v.Behaviour.Key[0]++
	e.Evaluate(h.exec(first), v)
	v.Behaviour.Key[0]++
	v.HourBits, v.Hours = 3, "09:00-17:00 UTC"
	f, _ := e.Evaluate(h.exec(h.process(web, "/usr/bin/dash", "sh", "-c", "id")), v)
	if len(f) != 1 {
		t.Fatalf("got %+v", f)
	}
	sum, text := 0.0, ""
	for _, term := range f[0].Terms {
		sum += term.Bits
		text += term.Text + "\n"
	}
	if got := e.Oddness().Whole; math.Abs(got-sum) > 0.2 {
		t.Errorf("the terms are %.2f bits, the score %.2f:\n%s", sum, got, text)
	}
	for _, part := range []string{
		"new here: by what it usually does on this host, 1 in 4,100", "3 of the 10 other hosts of its role do it, none of the 300 other hosts of the fleet does it",
		"done here at 09:00-17:00 UTC, and not at 12:00 UTC", "server serves the network", "new things in its storyline", "of this rests on what young hosts show",
	} {
		if part = strings.TrimPrefix(part, "of "); !strings.Contains(text, part) {
			t.Errorf("the terms lack %q:\n%s", part, text)
		}
	}
	if f[0].PValue <= 0 || f[0].PValue >= 1 || f[0].Score < 50 || f[0].Score > 100 {
		t.Errorf("p %v, score %v", f[0].PValue, f[0].Score)
	}
}

// Ensure a day's work in a storyline that was told is no row of findings, and that news is one.
func TestOneFindingSaysIt(t *testing.T) {
	h, e := newHost(), engine(t)
	web := h.process(nil, "/opt/shop/server", "server")
	e.Evaluate(h.open(web, event.Inbound, "10.0.0.5:50001"), event.Verdict{})
	v := unusual(14)
	told := 0
	for range 20 {
		v.Behaviour.Key[0]++
		f, _ := e.Evaluate(h.exec(h.process(web, "/usr/bin/expr", "expr")), v)
		told += len(f)
	}
	if told != 1 {
		t.Errorf("twenty of a kind: told %d times", told)
	}
	v.Behaviour.Key[0]++
	hidden := h.process(web, "/tmp/.x/y", "y")
	hidden.Traits = []string{event.TraitHidden}
	if f, _ := e.Evaluate(h.exec(hidden), v); len(f) == 0 {
		t.Error("another oddity of the same storyline was not told")
	}
}

func TestCount(t *testing.T) {
	for in, want := range map[float64]string{1: "1", 42.4: "42", 987: "990", 4096: "4,100", 123456: "120,000", 4.2e6: "4.2 million", 1e13: "a trillion and more"} {
		if got := count(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
	for in, want := range map[float64]string{9: "9 times a day", 0.9: "about once a day", 0.1: "once in 10 days", 0.005: "once in 7 months", 0.0005: "once in 5 years", 1e-8: "less than once in 100 years"} {
		if got := often(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}
