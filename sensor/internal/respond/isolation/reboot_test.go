package isolation

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// rebootsVariable holds how often TestReboots boots; vmtest -reboots sets it.
const rebootsVariable = "VEDETTE_ISOLATION_REBOOTS"

// wayDown is how a boot ended that another follows, and what is late in that one.
type wayDown struct {
	name string
	cut  bool // the power: the machine is gone between two instructions
	late bool // the adapter's driver, until the sensor is ready
}

// A power cut comes first: nothing was written to the disk since the isolation but what
// the sensor saw to.
var waysDown = []wayDown{
	{name: "power cut", cut: true},
	{name: "real reboot"},
	{name: "adapter after the sensor, up at once", late: true},
}

// turns are so many boots in the order of the packaged unit, whose network waits for the
// sensor, and some more with an adapter that comes later and is up at once.
func turns(reboots int) (ways []wayDown) {
	for n := range reboots {
		ways = append(ways, waysDown[n%2])
	}
	return append(ways, slices.Repeat(waysDown[2:], max(1, reboots/10))...)
}

// phaseNameCut is of the first boot.
const phaseNameCut = "isolated"

// boot is one, with what both sides counted of it.
type boot struct {
	way   wayDown
	flood *flood
	host  map[uint32]word // by phase
	up    word
}

// Ensure that nothing passes from the moment of an isolation on, over real boots of a real
// kernel, by a sensor that starts before the network: the host is vmtest's guest, its wire
// is ours. The host sends on all paths from before its sensor is there, and is sent to.
func TestReboots(t *testing.T) {
	text, asked := os.LookupEnv(machineVariable)
	if !asked {
		t.Skip("SKIP: a measurement of minutes in a guest: make isolation GUEST=6.12")
	}
	reboots, err := strconv.Atoi(os.Getenv(rebootsVariable))
	if err != nil || reboots < 1 {
		t.Fatalf("%s is %q: want a number of reboots", rebootsVariable, os.Getenv(rebootsVariable))
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := newMachine(t, text)
	boots := m.run(ctx, t, reboots)
	for _, row := range rowsOf(boots) {
		line, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s%s\n", measureMark, line)
	}
}

// run is the whole measurement: a first boot as control, the isolation, so many boots of
// the isolated host, the release.
func (m *machineRun) run(ctx context.Context, t *testing.T, reboots int) (boots []*boot) {
	m.world.begin(phaseBefore)
	m.start(ctx, t)
	ids := map[string]bool{m.await(t, "booted").ID: true}
	now := &boot{host: map[uint32]word{}}
	boots = append(boots, now)
	now.up = m.tell(t, word{Say: "boot", Phase: phaseBefore}, "up")
	flood := func(phase uint32) {
		now.host[phase] = m.tell(t, word{Say: "flood", Phase: phase}, "counted")
		for path, why := range now.host[phase].Failed {
			t.Errorf("boot %d: sending on %q: %s", len(boots)-1, path, why)
		}
	}
	flood(phaseBefore)
	m.tell(t, word{Say: "isolate"}, "isolated")
	m.world.account.Load().enter(phaseApply)
	flood(phaseApply)
	for n, way := range turns(reboots) {
		if way.cut {
			m.cutPower(t)
			m.start(ctx, t)
		} else {
			m.say(t, word{Say: "reboot"})
		}
		id := m.await(t, "booted").ID
		if ids[id] {
			t.Fatalf("boot %d is no boot: it is %s again", n+1, id)
		}
		ids[id] = true
		// All that came until now was of the boot before.
		now.flood = m.world.begin(phaseReboot)
		now = &boot{way: way, host: map[uint32]word{}}
		boots = append(boots, now)
		now.up = m.tell(t, word{Say: "boot", Kept: true, Late: way.late, Phase: phaseReboot}, "up")
		flood(phaseReboot)
		leaked, open := now.leaks(m.world.account.Load())
		t.Logf("boot %d, %s: program %.1f s, isolation %.1f s, network %.1f s; %d leaked, %d passed where it is open",
			n+1, way.name, now.up.Began, now.up.Cut, now.up.Network, leaked, open)
	}
	m.world.account.Load().enter(phaseEnding)
	m.tell(t, word{Say: "release"}, "released")
	m.world.account.Load().enter(phaseReleased)
	flood(phaseReleased)
	m.cutPower(t)
	now.flood = m.world.account.Load()
	return boots
}

// leaks are what passed of a boot so far, and what was open and did.
func (b *boot) leaks(f *flood) (leaked, open uint64) {
	for i, p := range f.paths {
		arrived := b.arrived(f, i, phaseReboot)
		if opens(p.name) {
			open += arrived
		} else {
			leaked += arrived
		}
	}
	return leaked, open
}

// arrived is what was counted at the far end of a path: the wire's, or the host's sockets.
func (b *boot) arrived(f *flood, path int, phase uint32) uint64 {
	if inwards(f, path) {
		if told := b.host[phase].Arrived; path < len(told) {
			return told[path]
		}
		return 0
	}
	return f.paths[path].arrived[phase].Load()
}

func (b *boot) sent(f *flood, path int, phase uint32) uint64 {
	if inwards(f, path) {
		return f.paths[path].sent[phase].Load()
	}
	if told := b.host[phase].Sent; path < len(told) {
		return told[path]
	}
	return 0
}

// inwards says whether a path is one of those that the world sends on.
func inwards(f *flood, path int) bool { return path >= len(f.paths)-len(inwardFrames()) }

func rowsOf(boots []*boot) (rows []measured) {
	first, last := boots[0], boots[len(boots)-1]
	shut, dark := []string{}, map[string]uint64{}
	for i, p := range first.flood.paths {
		before := first.arrived(first.flood, i, phaseBefore)
		if after := last.arrived(last.flood, i, phaseReleased); before > 0 && after == 0 && p.name != pathOther {
			shut = append(shut, p.name)
		}
		if opens(p.name) {
			for _, b := range boots[1:] {
				if b.arrived(b.flood, i, phaseReboot) == 0 {
					dark[b.way.name]++
				}
			}
			continue
		}
		add := func(name string, phase uint32, of []*boot) {
			row := measured{Path: p.name, Phase: name, Before: before}
			said := ""
			for n, b := range of {
				sent := b.sent(b.flood, i, phase)
				if sent == 0 && p.name != pathOther {
					row.Error = fmt.Sprintf("nothing was sent in boot %d of these", n+1)
				}
				row.Sent += sent
				row.Leaked += b.arrived(b.flood, i, phase)
				if word := b.flood.paths[i].firstArrived[phase].Load(); word != nil && said == "" {
					said = fmt.Sprintf("; in boot %d of these %s", n+1, *word)
				}
			}
			if p.name == pathOther { // nobody counts what the kernel would have said
				row.Sent = before
			}
			row.Note = fmt.Sprintf("%d boots, %d sent; %d arrived in the control%s", len(of), row.Sent, before, said)
			rows = append(rows, row)
		}
		add(phaseNameCut, phaseApply, boots[:1])
		for _, way := range waysDown {
			if of := after(boots, way); len(of) > 0 {
				add(way.name, phaseReboot, of)
			}
		}
	}
	for _, way := range waysDown {
		of := after(boots, way)
		if len(of) == 0 {
			continue
		}
		rows = append(rows, measured{
			Path: "open paths that did not pass", Phase: way.name, Sent: uint64(len(of)), Before: 1, Leaked: dark[way.name],
			Note: fmt.Sprintf("of %d boots, each with the sensor's to its coordinators and DHCP, over both IP versions: so there was a network, and a count", len(of)),
		})
		rows = append(rows, measured{Path: "from the kernel's start to the network", Phase: way.name, Unit: "s", Value: slowest(of), Note: "the slowest boot"})
	}
	return append(rows, measured{
		Path: "paths that stay shut", Phase: "released", Sent: 1, Before: 1, Leaked: uint64(len(shut)), Note: fmt.Sprintf("after all boots: %q", shut),
	})
}

func after(boots []*boot, way wayDown) (of []*boot) {
	return slices.DeleteFunc(slices.Clone(boots[1:]), func(b *boot) bool { return b.way != way })
}

func slowest(boots []*boot) (seconds float64) {
	for _, b := range boots {
		seconds = max(seconds, b.up.Network)
	}
	return seconds
}
