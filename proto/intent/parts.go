package intent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of the parts beside the policy.
const (
	MaxGroups         = 256
	MaxLabels         = 16 // of one group
	MaxProtectedHosts = 1024
	MaxOpenings       = 64
	maxText           = 256 // bytes of a label's key or value, of a name, of a comment
	maxReason         = 4096
	maxCount          = 100_000 // hosts that a cap may name
)

// Times of an intent that says none, and their bounds, in seconds.
const (
	DefaultVetoSeconds  = 60
	minVetoSeconds      = 10
	maxVetoSeconds      = 3600
	DefaultLeaseSeconds = 4 * 3600
	minLeaseSeconds     = 60
	maxLeaseSeconds     = 24 * 3600
)

// VetoSeconds is how long people have to say no at level 3.
func VetoSeconds(in *sensorv1.Intent) uint32 {
	if in.GetVetoSeconds() == 0 {
		return DefaultVetoSeconds
	}
	return in.GetVetoSeconds()
}

// LeaseSeconds is how long what automation does lasts.
func LeaseSeconds(in *sensorv1.Intent) uint64 {
	if in.GetLeaseSeconds() == 0 {
		return DefaultLeaseSeconds
	}
	return in.GetLeaseSeconds()
}

// Defaults is the intent of a cluster where none was ever applied: everything is
// recommended, nothing is done, and people are held by the governor's defaults.
func Defaults() *sensorv1.Intent { return new(sensorv1.Intent) }

// validateParts says what is wrong beside the policy.
func validateParts(in *sensorv1.Intent) []string {
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	if v := in.GetVetoSeconds(); v != 0 && (v < minVetoSeconds || v > maxVetoSeconds) {
		bad("veto_seconds is %d; from %d, so that a person can answer, to %d, or leave it out for %d", v, minVetoSeconds, maxVetoSeconds, DefaultVetoSeconds)
	}
	if v := in.GetLeaseSeconds(); v != 0 && (v < minLeaseSeconds || v > maxLeaseSeconds) {
		bad("lease_seconds is %d; from %d to %d (24 h), or leave it out for %d", v, minLeaseSeconds, maxLeaseSeconds, DefaultLeaseSeconds)
	}
	if len(in.GetReason()) > maxReason {
		bad("the reason has %d bytes, at most %d", len(in.GetReason()), maxReason)
	}
	validateGroups(in, bad)
	validateGovernor(in.GetGovernor(), bad)
	if len(in.GetJump()) > MaxOpenings {
		bad("jump opens %d flows, at most %d", len(in.GetJump()), MaxOpenings)
	}
	for i, o := range in.GetJump() {
		validateOpening(i+1, o, bad)
	}
	return problems
}

func validateGroups(in *sensorv1.Intent, bad func(string, ...any)) {
	groups := slices.Concat(in.GetGroups(), in.GetGovernor().GetProtected())
	if len(groups) > MaxGroups {
		bad("there are %d groups, at most %d", len(groups), MaxGroups)
		return
	}
	seen := make(map[string]bool)
	for _, g := range groups {
		name := g.GetName()
		switch {
		case !nameForm.MatchString(name):
			bad("the group %q needs a name of 1 to 63 letters, digits, dots, dashes and underscores", name)
		case seen[name]:
			bad("there are two groups %q, protected ones among them; give each a name of its own", name)
		case len(g.GetLabels()) == 0:
			bad("the group %q has no labels and would match every host; give it one, or name no group at all", name)
		case len(g.GetLabels()) > MaxLabels:
			bad("the group %q has %d labels, at most %d", name, len(g.GetLabels()), MaxLabels)
		}
		seen[name] = true
		for _, key := range slices.Sorted(maps.Keys(g.GetLabels())) {
			if value := g.GetLabels()[key]; key == "" || value == "" || len(key) > maxText || len(value) > maxText {
				bad("the group %q has the label %q=%q; both sides need 1 to %d bytes", name, cut(key), cut(value), maxText)
			}
		}
	}
}

func validateGovernor(g *sensorv1.Governor, bad func(string, ...any)) {
	if g.GetPermille_10M() > 1000 || g.GetPermilleDay() > 1000 {
		bad("the governor allows %d ‰ in ten minutes and %d ‰ a day; at most 1000 each", g.GetPermille_10M(), g.GetPermilleDay())
	}
	if g.GetHosts_10M() > maxCount {
		bad("the governor allows %d hosts in ten minutes; at most %d", g.GetHosts_10M(), maxCount)
	}
	if short, day := permilles(g); day < short {
		bad("the governor allows %d ‰ of the fleet in ten minutes and only %d ‰ a day; make the day's at least as much", short, day)
	}
	if len(g.GetGroupLabel()) > maxText {
		bad("group_label has %d bytes, at most %d", len(g.GetGroupLabel()), maxText)
	}
	if len(g.GetProtectedHosts()) > MaxProtectedHosts {
		bad("%d hosts are protected by name, at most %d; protect a group instead", len(g.GetProtectedHosts()), MaxProtectedHosts)
	}
	seen := make(map[string]bool)
	for _, host := range g.GetProtectedHosts() {
		if host == "" || len(host) > maxText {
			bad("the protected host %q needs an id of 1 to %d bytes", cut(host), maxText)
		}
		if seen[host] {
			bad("the host %q is protected twice", host)
		}
		seen[host] = true
	}
}

func validateOpening(n int, o *sensorv1.Opening, bad func(string, ...any)) {
	prefix, err := netip.ParsePrefix(o.GetPrefix())
	switch {
	case err != nil:
		bad("jump %d: %q is no prefix; write 10.0.0.5/32 or 2001:db8::/64", n, cut(o.GetPrefix()))
	case prefix != prefix.Masked():
		bad("jump %d: %s has bits set behind its length; write %s", n, prefix, prefix.Masked())
	case prefix.Bits() == 0:
		bad("jump %d: %s is everybody; an isolation that is open to all is none", n, prefix)
	}
	if p := o.GetProtocol(); p != 6 && p != 17 {
		bad("jump %d: the protocol is %d; 6 is TCP, 17 is UDP", n, p)
	}
	if p := o.GetPort(); p == 0 || p > 65535 {
		bad("jump %d: the port is %d; from 1 to 65535", n, p)
	}
	if len(o.GetComment()) > maxText {
		bad("jump %d: the comment has %d bytes, at most %d", n, len(o.GetComment()), maxText)
	}
}

// cut keeps a sentence short whatever it quotes.
func cut(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
