package intent

import (
	"fmt"
	"maps"
	"slices"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// The governor's figures where an intent says none.
const (
	DefaultHosts10m    = 3
	DefaultPermille10m = 10
	DefaultPermilleDay = 50
	DefaultGroupLabel  = "role"
)

// Caps are how many distinct hosts may be contained.
type Caps struct{ TenMinutes, Day int }

// CapsOf is the governor's word for a fleet, or for a role group, of that many hosts: in
// ten minutes the greater of hosts_10m and permille_10m of them, in a day permille_day of
// them and at least as many as in ten minutes. Shares are rounded down.
func CapsOf(g *sensorv1.Governor, hosts int) Caps {
	hosts = max(hosts, 0)
	short, day := permilles(g)
	floor := int(g.GetHosts_10M())
	if floor == 0 {
		floor = DefaultHosts10m
	}
	c := Caps{TenMinutes: max(floor, share(hosts, short))}
	c.Day = max(c.TenMinutes, share(hosts, day))
	return c
}

func permilles(g *sensorv1.Governor) (short, day uint32) {
	if short = g.GetPermille_10M(); short == 0 {
		short = DefaultPermille10m
	}
	if day = g.GetPermilleDay(); day == 0 {
		day = max(DefaultPermilleDay, short)
	}
	return short, day
}

func share(hosts int, permille uint32) int { return int(int64(hosts) * int64(permille) / 1000) }

// GroupLabel is the label whose values make the role groups.
func GroupLabel(g *sensorv1.Governor) string {
	if g.GetGroupLabel() == "" {
		return DefaultGroupLabel
	}
	return g.GetGroupLabel()
}

// Extent is how much of a set of hosts is contained and would be.
type Extent struct {
	Hosts      int // how many there are
	TenMinutes int // distinct hosts whose containment began within the last ten minutes
	Day        int // the same, within the last 24 hours
	New        int // hosts that an order adds, which are not among those
}

// Exceeds says which caps an order would break, one sentence each, the fleet's first and
// then the role groups' ascending by name; and how many distinct operators it takes: 1 inside
// the caps, 2 above them. Automation, which is no operator, stays inside.
func Exceeds(g *sensorv1.Governor, fleet Extent, groups map[string]Extent) (caps []string, approvals int) {
	caps = exceeds(CapsOf(g, fleet.Hosts), fleet, "of the fleet")
	label := GroupLabel(g)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		extent := groups[name]
		if extent.New > 0 {
			caps = append(caps, exceeds(CapsOf(g, extent.Hosts), extent, fmt.Sprintf("with %s=%s", label, name))...)
		}
	}
	if len(caps) > 0 {
		return caps, 2
	}
	return nil, 1
}

func exceeds(c Caps, e Extent, of string) []string {
	var caps []string
	if e.New > 0 && e.TenMinutes+e.New > c.TenMinutes {
		caps = append(caps, sentence(e.TenMinutes, e.New, c.TenMinutes, e.Hosts, of, "ten minutes"))
	}
	if e.New > 0 && e.Day+e.New > c.Day {
		caps = append(caps, sentence(e.Day, e.New, c.Day, e.Hosts, of, "a day"))
	}
	return caps
}

func sentence(before, added, most, hosts int, of, window string) string {
	return fmt.Sprintf("%d of the %d hosts %s would be contained within %s (%d are, %d more); one operator or automation may contain %d",
		before+added, hosts, of, window, before, added, most)
}
