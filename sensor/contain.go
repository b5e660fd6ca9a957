package sensor

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/enrich"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

// containConfig is what containments ask of the other stages. They are asked only
// when the sensor runs, after all of them are there.
func (s *Sensor) containConfig() *respond.ContainConfig {
	return &respond.ContainConfig{
		Storyline: func(id string) []process.Member {
			anchor, ok := parseStoryline(id)
			if !ok {
				return nil
			}
			return members(s.enricher.Storyline(anchor))
		},
		Descendants: func(of process.Member) []process.Member { return members(s.enricher.Descendants(of.Key)) },
		Own:         s.ownPaths(),
		Resolved:    func(name string) []netip.Addr { return s.enricher.Resolved(name) },
	}
}

// ownPaths are what the sensor itself stands on, beside its state folder.
func (s *Sensor) ownPaths() []string {
	var own []string
	if s.cfg.RulesDir != "" {
		own = append(own, s.cfg.RulesDir)
	}
	return append(own, "/etc/vedette")
}

// parseStoryline reads "PID.START", as findings name the root of a storyline.
func parseStoryline(id string) (event.ProcessKey, bool) {
	pid, start, ok := strings.Cut(id, ".")
	number, err := strconv.ParseUint(pid, 10, 32)
	began, startErr := strconv.ParseUint(start, 10, 64)
	return event.ProcessKey{PID: uint32(number), Start: began}, ok && err == nil && startErr == nil
}

func members(of []enrich.Member) []process.Member {
	all := make([]process.Member, len(of))
	for i, m := range of {
		all[i] = process.Member(m)
	}
	return all
}
