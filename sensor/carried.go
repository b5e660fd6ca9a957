package sensor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// Bounds of what others may have this host watch more closely. Whoever has the coordinator, or
// another host, can name connections; only one that is served here by a process of its own
// marks anything, and only so many do.
const (
	// carriedWait bounds those that wait to be found.
	carriedWait = 64
	// carriedAMinute is how many are looked for in a minute.
	carriedAMinute = 30
	// carriedSearch is how long one is looked for: the connection may be told before this
	// host's own event of it has been read.
	carriedSearch = 5 * time.Second
	carriedEvery  = 100 * time.Millisecond
	// carriedAge is how old a connection may be by the other host's clock.
	carriedAge = 15 * time.Minute
	// maxCarriedName bounds the other end's name.
	maxCarriedName = 128
)

// carrier takes what nodes say of suspect connections to this host.
type carrier struct{ waiting chan *sensorv1.CarriedTaint }

func newCarrier() *carrier {
	return &carrier{waiting: make(chan *sensorv1.CarriedTaint, carriedWait)}
}

// take never waits: beyond the bound a mark does not come, and the far host's does as before.
func (c *carrier) take(t *sensorv1.CarriedTaint) {
	select {
	case c.waiting <- t:
	default:
	}
}

// search is one that is being looked for.
type search struct {
	proto          uint8
	client, server netip.AddrPort
	from           string
	until          time.Time
}

// searchOf checks what came from outside.
func searchOf(t *sensorv1.CarriedTaint, now time.Time) (search, error) {
	s := search{from: t.GetStoryline(), until: now.Add(carriedSearch)}
	client, ok1 := netip.AddrFromSlice(t.GetClient())
	server, ok2 := netip.AddrFromSlice(t.GetServer())
	age := now.Sub(time.Unix(0, t.GetOpened()))
	switch {
	case !ok1 || !ok2 || t.GetClientPort() == 0 || t.GetServerPort() == 0 || t.GetClientPort() > 0xffff || t.GetServerPort() > 0xffff:
		return s, fmt.Errorf("the connection has no two ends")
	case t.GetProtocol() != 6:
		return s, fmt.Errorf("protocol %d accepts no connections", t.GetProtocol())
	case client.IsLoopback() || server.IsLoopback():
		return s, fmt.Errorf("it is no connection from another host")
	case age > carriedAge || age < -carriedAge:
		return s, fmt.Errorf("it was opened at another time (%s ago)", age.Round(time.Second))
	case s.from == "" || len(s.from) > maxCarriedName || !strings.Contains(s.from, "/"):
		return s, fmt.Errorf("the other end has no name")
	}
	s.proto = uint8(t.GetProtocol())
	s.client = netip.AddrPortFrom(client.Unmap(), uint16(t.GetClientPort()))
	s.server = netip.AddrPortFrom(server.Unmap(), uint16(t.GetServerPort()))
	return s, nil
}

// carry looks for the processes that serve suspect connections, and marks them.
func (s *Sensor) carry(ctx context.Context) error {
	var searching []search
	var minute time.Time
	taken := 0
	tick := time.NewTicker(carriedEvery)
	defer tick.Stop()
	for {
		var ticks <-chan time.Time
		if len(searching) > 0 {
			ticks = tick.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
		case t := <-s.carried.waiting:
			now := time.Now()
			if now.Sub(minute) >= time.Minute {
				minute, taken = now, 0
			}
			if taken++; taken > carriedAMinute {
				s.losses.add("carried-marks", "too many in a minute", 1)
				continue
			}
			next, err := searchOf(t, now)
			if err != nil {
				s.losses.add("carried-marks", "refused", 1)
				s.log.Warn("a mark from another host is refused", "from", fmt.Sprintf("%.128q", t.GetStoryline()), "reason", err)
				continue
			}
			searching = append(searching, next)
		}
		searching = s.found(searching, time.Now())
	}
}

// found marks those that are there and keeps those that are still looked for.
func (s *Sensor) found(searching []search, now time.Time) (left []search) {
	for _, c := range searching {
		p, flow := s.enricher.Serving(c.proto, c.server, c.client)
		switch {
		case p != nil:
			s.carryTo(p, flow, c.from, now)
		case now.Before(c.until):
			left = append(left, c)
		}
	}
	return left
}

func (s *Sensor) carryTo(p *event.Process, flow *event.Flow, from string, now time.Time) {
	s.baseline.MarkSuspect(p.Anchor) // as long as its flows are noted; a node's word is enough for it
	s.taint(p)
	s.append(uplink.RecordFromFlowNote(s.detector.Carry(p, flow, from, now)), false)
	s.log.Info("a connection brought the mark of another host's storyline", "from", fmt.Sprintf("%.128q", from), "peer", flow.Remote.String(), "process", p.Image, "pid", p.Key.PID)
}
