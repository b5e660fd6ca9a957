package isolation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

func TestReconcile(t *testing.T) {
	t.Run("a chain for each device", func(t *testing.T) { testReconcile(t, hookByDevice) })
	t.Run("a chain for all devices", func(t *testing.T) { testReconcile(t, hookAnyDevice) })
}

// egressBase is the name of the chain that host0's packets leave through.
func egressBase(t *testing.T, host *netnstest.Namespace, how hooking) string {
	if how == hookAnyDevice {
		return "egress_any"
	}
	return fmt.Sprintf("egress_%d", host.Index(t, netnstest.HostDevice))
}

func testReconcile(t *testing.T, how hooking) {
	// The kernel itself brings the cut to new devices, so that nothing is to be done.
	devices := Surroundings
	if how == hookAnyDevice {
		devices = Unchanged
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, host, peer *netnstest.Namespace)
		want   Drift
	}{
		{"nothing", func(*testing.T, *netnstest.Namespace, *netnstest.Namespace) {}, Unchanged},
		{"another table", func(t *testing.T, host, _ *netnstest.Namespace) {
			nft(t, host, "add table inet theirs")
		}, Unchanged},
		{"flushed ruleset", func(t *testing.T, host, _ *netnstest.Namespace) { nft(t, host, "flush ruleset") }, Tampered},
		{"flushed chain", func(t *testing.T, host, _ *netnstest.Namespace) {
			nft(t, host, "flush chain netdev "+TableName+" egress_ip4")
		}, Tampered},
		{"an accepting rule", func(t *testing.T, host, _ *netnstest.Namespace) {
			nft(t, host, "insert rule netdev "+TableName+" egress accept")
		}, Tampered},
		{"a rule replaced by its equal", func(t *testing.T, host, _ *netnstest.Namespace) {
			base := TableName + " " + egressBase(t, host, how)
			nft(t, host, "flush chain netdev "+base+"; add rule netdev "+base+" jump egress")
		}, Tampered},
		{"a policy of accept", func(t *testing.T, host, _ *netnstest.Namespace) {
			nft(t, host, "add chain netdev "+TableName+" "+egressBase(t, host, how)+" { policy accept; }")
		}, Tampered},
		{"a dormant table", func(t *testing.T, host, _ *netnstest.Namespace) {
			nft(t, host, "add table netdev "+TableName+" { flags dormant; }")
		}, Tampered},
		{"a new device", func(t *testing.T, host, peer *netnstest.Namespace) {
			netnstest.Wire(t, host, "late0", peer, "late1")
		}, devices},
		{"a renamed device", func(t *testing.T, host, _ *netnstest.Namespace) {
			handle := host.Handle(t)
			link, err := handle.LinkByName(netnstest.HostDevice)
			if err == nil {
				err = handle.LinkSetName(link, "renamed0")
			}
			if err != nil {
				t.Skipf("SKIP: needs renaming of a device that is up: %v", err)
			}
		}, devices},
		{"a vanished device", func(t *testing.T, host, _ *netnstest.Namespace) {
			handle := host.Handle(t)
			link, err := handle.LinkByName(netnstest.HostDevice)
			if err == nil {
				err = handle.LinkDel(link)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, Surroundings}, // its prefix goes with it
		{"a new prefix", func(t *testing.T, host, _ *netnstest.Namespace) {
			host.Address(t, netnstest.HostDevice, "fd78::1/64")
		}, Surroundings},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, peer := netnstest.Pair(t)
			barrier := openHooked(t, host, how)
			barrier.unowned = tt.want == Tampered // else nobody can
			if err := barrier.Apply(testSpec()); err != nil {
				t.Fatal(err)
			}
			tt.change(t, host, peer)
			got, err := barrier.Reconcile(testSpec())
			if err != nil || got != tt.want {
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
			if again, err := barrier.Reconcile(testSpec()); err != nil || again != Unchanged {
				t.Errorf("a second time: got %d, %v; want nothing changed", again, err)
			}
			if _, err := barrier.Probe(); err != nil {
				t.Errorf("probing after the repair: %v", err)
			}
		})
	}
}

// Ensure that a look which saw a new generation with an old table is not the last:
// the kernel counts up before it shows.
func TestReconcileLooksAgain(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	nft(t, host, "add table inet theirs")
	if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != Unchanged {
		t.Fatalf("another's table: got %d, %v", drift, err)
	}
	barrier.Disown()
	nft(t, host, "flush ruleset")
	generation, err := barrier.generation()
	if err != nil {
		t.Fatal(err)
	}
	barrier.current.fingerprint.generation = generation // as if that look had been in between
	if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != Tampered {
		t.Errorf("flushed: got %d, %v; want %d", drift, err, Tampered)
	}
	for range 2 {
		if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != Unchanged {
			t.Errorf("put back: got %d, %v", drift, err)
		}
	}
	if barrier.current.lookAgain {
		t.Error("it goes on looking though nothing moves")
	}
}

// Ensure that another level, or another opening, is noticed and put in force.
func TestReconcileFollowsTheSpec(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	full, egressOnly, jump, wider := testSpec(), testSpec(), testSpec(), testSpec()
	egressOnly.Level, jump.Level, wider.Level = EgressOnly, Jump, Jump
	jump.Openings = []Opening{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Protocol: unix.IPPROTO_TCP, Port: 22}}
	wider.Openings = append(slices.Clone(jump.Openings), Opening{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Protocol: unix.IPPROTO_UDP, Port: 53, Inbound: true})
	if err := barrier.Apply(full); err != nil {
		t.Fatal(err)
	}
	for i, spec := range []Spec{egressOnly, jump, wider, jump, full} {
		if drift, err := barrier.Reconcile(spec); err != nil || drift != Surroundings {
			t.Errorf("%d: got %d, %v; want the change noticed", i, drift, err)
		}
		if drift, err := barrier.Reconcile(spec); err != nil || drift != Unchanged {
			t.Errorf("%d again: got %d, %v; want nothing changed", i, drift, err)
		}
		if _, err := barrier.Probe(); err != nil {
			t.Errorf("%d: probing: %v", i, err)
		}
		list := ruleset(t, host)
		if got, want := strings.Contains(list, "hook ingress"), spec.Level != EgressOnly; got != want {
			t.Errorf("%d: chains of ingress: got %t, want %t", i, got, want)
		}
		if got, want := strings.Count(list, "0xc00002"), 2*len(spec.Openings); got != want {
			t.Errorf("%d: rules of openings: got %d, want %d in\n%s", i, got, want, list)
		}
	}
}

// Ensure a device that comes later is cut as well.
func TestLateDevice(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- barrier.Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	defer func() { cancel(); <-done }()
	netnstest.Wire(t, host, "late0", peer, "late1")
	host.Address(t, "late0", "10.79.0.1/24")
	peer.Address(t, "late1", "10.79.0.2/24")
	deadline := time.After(slow.Deadline(5 * time.Second))
	for drift := Unchanged; drift != Surroundings; {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the new device was not noticed")
		}
		var err error
		if drift, err = barrier.Reconcile(testSpec()); err != nil {
			t.Fatal(err)
		}
	}
	capture := netnstest.NewCapture(t, peer, "late1")
	host.Must(t, "sending", func() error { return netnstest.SendUDP("", "10.79.0.2:9999", []byte("late leak")) })
	raw := netnstest.NewRaw(t, host, true)
	if err := raw.Send(host.Index(t, "late0"), unix.ETH_P_IP, []byte("a late leak, not even a packet")); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("sending raw: got %v, want %v", err, unix.ENOBUFS)
	}
	if seen := capture.Count(t, []byte("late leak")); seen != 0 {
		t.Errorf("%d packets leaked on a device that came later", seen)
	}
}
