package isolation

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// ruleset is all of nftables in the namespace as the administrator's tool sees it.
func ruleset(t *testing.T, n *netnstest.Namespace) string {
	t.Helper()
	var out []byte
	n.Must(t, "listing the ruleset", func() (err error) {
		out, err = exec.Command("nft", "list", "ruleset").CombinedOutput()
		return err
	})
	return string(out)
}

func nft(t *testing.T, n *netnstest.Namespace, arguments ...string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: needs the nft command")
	}
	n.Must(t, "nft "+strings.Join(arguments, " "), func() error {
		out, err := exec.Command("nft", arguments...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// Ensure nothing comes in but the coordinator's datagrams.
func TestIngress(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	var socket *net.UDPConn
	host.Must(t, "listening", func() (err error) {
		socket, err = net.ListenUDP("udp", &net.UDPAddr{Port: 5000})
		return err
	})
	t.Cleanup(func() { _ = socket.Close() })
	var listener net.Listener
	host.Must(t, "listening", func() (err error) {
		listener, err = net.Listen("tcp", ":5000")
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })

	send := func(from, to, what string) {
		t.Helper()
		peer.Must(t, "sending", func() error { return netnstest.SendUDP(from, to, []byte(what)) })
	}
	// got reads until the coordinator's datagram, which is sent last on the same wire.
	got := func() (seen []string) {
		buffer := make([]byte, 100)
		for {
			if err := socket.SetReadDeadline(time.Now().Add(slow.Deadline(5 * time.Second))); err != nil {
				t.Fatal(err)
			}
			size, _, err := socket.ReadFromUDP(buffer)
			if err != nil {
				t.Fatalf("the coordinator's datagram did not arrive after %q: %v", seen, err)
			}
			if string(buffer[:size]) == "last" {
				return seen
			}
			seen = append(seen, string(buffer[:size]))
		}
	}
	round := func() []string {
		send("", "10.77.0.1:5000", "stranger4")
		send("", "[fd77::1]:5000", "stranger6")
		send("10.77.0.2:7701", "10.77.0.1:5000", "wrong port")
		send("10.77.0.2:7700", "10.77.0.1:5000", "coordinator4")
		send("[fd77::2]:7700", "[fd77::1]:5000", "coordinator6")
		send("10.77.0.2:7700", "10.77.0.1:5000", "last")
		return got()
	}
	dial := func(timeout time.Duration) error {
		return peer.Do(func() error {
			conn, err := net.DialTimeout("tcp", "10.77.0.1:5000", timeout)
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	all := "[stranger4 stranger6 wrong port coordinator4 coordinator6]"
	if got := fmt.Sprint(round()); got != all {
		t.Fatalf("before: got %s, want %s", got, all)
	}
	if err := dial(slow.Deadline(5 * time.Second)); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(round()), "[coordinator4 coordinator6]"; got != want {
		t.Errorf("isolated: got %s, want %s", got, want)
	}
	if err := dial(300 * time.Millisecond); err == nil {
		t.Error("isolated: a TCP connection came in")
	}
	if in, _, err := barrier.Dropped(); err != nil || in < 4 {
		t.Errorf("dropped on ingress: got %d, %v; want at least 4", in, err)
	}
	if err := barrier.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(round()); got != all {
		t.Errorf("after: got %s, want %s", got, all)
	}
}

// Ensure addresses are still resolved while isolated, with empty caches.
func TestResolution(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	capture := netnstest.NewCapture(t, peer, netnstest.PeerDevice)
	for _, n := range []*netnstest.Namespace{host, peer} {
		handle := n.Handle(t)
		neighbours, err := handle.NeighList(0, unix.AF_UNSPEC)
		if err != nil {
			t.Fatal(err)
		}
		for _, neighbour := range neighbours {
			_ = handle.NeighDel(&neighbour) // permanent ones of multicast cannot be deleted and need not
		}
	}
	for _, to := range []string{"10.77.0.2:7700", "[fd77::2]:7700"} {
		marker := "resolved " + to
		host.Must(t, "sending", func() error { return netnstest.SendUDP("", to, []byte(marker)) })
		if seen := capture.Count(t, []byte(marker)); seen != 1 {
			t.Errorf("%s: %d datagrams arrived, want 1", to, seen)
		}
	}
}

// Ensure loopback works while everything else is cut.
func TestLoopback(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	spec := testSpec()
	spec.Nodes = append(spec.Nodes, netip.MustParseAddrPort("127.0.0.1:7700"))
	if err := barrier.Apply(spec); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", netnstest.HostIP4 + ":0"} {
		host.Must(t, "loopback "+address, func() error {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			defer func() { _ = listener.Close() }()
			conn, err := net.DialTimeout("tcp", listener.Addr().String(), slow.Deadline(2*time.Second))
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// Ensure that applying twice is one table, and that a foreign table in our name
// is replaced and not added to.
func TestApplyIsIdempotent(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	nft(t, host, "add table netdev "+TableName+" { chain stale { }; set s { type ipv4_addr; elements = { 192.0.2.1 } }; }")
	list := func() string {
		if err := barrier.Apply(testSpec()); err != nil {
			t.Fatal(err)
		}
		var kept []string
		for line := range strings.Lines(ruleset(t, host)) {
			// The probe's rules hold a nonce, and the host's own chatter is counted.
			if !strings.Contains(line, `"probe"`) && !strings.Contains(line, "packets") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	first := list()
	if strings.Contains(first, "stale") {
		t.Errorf("a stale chain is still there:\n%s", first)
	}
	if second := list(); second != first {
		t.Errorf("got\n%s\nwant\n%s", second, first)
	}
}

// Ensure a probe notices a table that lets everything out.
func TestProbeSeesALeak(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	barrier.unowned = true // else nobody could make one
	if _, err := barrier.Probe(); !errors.Is(err, ErrNotApplied) {
		t.Errorf("not applied: got %v, want %v", err, ErrNotApplied)
	}
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	capture := netnstest.NewCapture(t, peer, netnstest.PeerDevice)
	result, err := barrier.Probe()
	if err != nil || result.Sent != 2 || result.Counted != 2 {
		t.Errorf("whole: got %v, %v; want 2 probes dropped", result, err)
	}
	if seen := capture.Count(t, barrier.current.nonce[:]); seen != 0 {
		t.Errorf("%d probes left the host", seen)
	}
	nft(t, host, "insert rule netdev "+TableName+" egress accept")
	if result, err := barrier.Probe(); !errors.Is(err, ErrLeak) {
		t.Errorf("with an accepting rule: got %v, %v; want %v", result, err, ErrLeak)
	}
}

// Ensure that somebody who writes nftables in a loop cannot prevent an isolation.
func TestBusyNftables(t *testing.T) {
	host, _ := netnstest.Pair(t)
	barrier, other := openBarrier(t, host), openBarrier(t, host)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := other.Supported(); err != nil { // one transaction
				done <- err
				return
			}
		}
	}()
	for range 10 {
		if err := barrier.Apply(testSpec()); err != nil {
			t.Errorf("busy: %v", err)
		}
		if _, err := barrier.Probe(); err != nil {
			t.Errorf("busy: %v", err)
		}
	}
	unproved := barrier.current.unproved
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if drift, err := barrier.Reconcile(testSpec()); err != nil || unproved != (drift == Surroundings) {
		t.Errorf("quiet again after an unproved=%t table: got %d, %v", unproved, drift, err)
	}
	if drift, err := barrier.Reconcile(testSpec()); err != nil || drift != Unchanged {
		t.Errorf("proved: got %d, %v", drift, err)
	}
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct{ err, want error }{
		{nil, nil},
		{unix.EOPNOTSUPP, ErrNoEgress},
		{fmt.Errorf("conn.Receive: %w", errors.Join(unix.EOPNOTSUPP, unix.ENOENT)), ErrNoEgress},
		{unix.EPERM, ErrNoPermission},
		{unix.EMFILE, unix.EMFILE},
	} {
		if got := explain(tt.err); !errors.Is(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}

// Ensure a large host is one transaction too.
func TestManyDevices(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	handle := host.Handle(t)
	const pairs = 100
	for i := range pairs {
		attrs := vnl.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("many%d", i)
		if err := handle.LinkAdd(&vnl.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("far%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d devices cut in %s", 2*pairs+1, time.Since(started))
	result, err := barrier.Probe()
	if err != nil || len(result.Devices) != 1 || len(result.Skipped) < 2*pairs {
		t.Errorf("probing: got %v, %v", result, err)
	}
	_ = peer
	started = time.Now()
	if err := barrier.Remove(); err != nil {
		t.Fatal(err)
	}
	t.Logf("removed in %s", time.Since(started))
}

// Ensure the caller's own namespace is meant when no path is given.
func TestOwnNamespace(t *testing.T) {
	host, _ := netnstest.Pair(t)
	openBarrier(t, host)
	host.Must(t, "isolating from inside", func() error {
		barrier, err := Open("")
		if err != nil {
			return err
		}
		if err := barrier.Apply(testSpec()); err != nil {
			return err
		}
		result, err := barrier.Probe()
		if err == nil && fmt.Sprint(result.Devices) != "["+netnstest.HostDevice+"]" {
			err = fmt.Errorf("cut the devices %v", result.Devices)
		}
		return errors.Join(err, barrier.Remove(), barrier.Close())
	})
}
