package isolation

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vnl "github.com/vishvananda/netlink"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// Ensure that a thousand flows which are there already end with the cut, of the host
// and of its containers, and that those over loopback do not notice.
func TestEstablishedFlowsEnd(t *testing.T) {
	host, peer := netnstest.Pair(t)
	barrier := openBarrier(t, host)
	l := buildLab(t, host, peer)
	if err := peer.Handle(t).RouteAdd(&vnl.Route{Dst: &net.IPNet{IP: net.IPv4(10, 99, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP(netnstest.HostIP4)}); err != nil {
		t.Fatal(err)
	}
	quit := make(chan struct{})
	var owned sync.WaitGroup
	sink(t, peer)
	sink(t, host)

	var flows []net.Conn
	for _, from := range []struct {
		n     *netnstest.Namespace
		to    string
		count int
	}{{host, netnstest.PeerIP4, 250}, {l.routed, netnstest.PeerIP4, 125}, {l.bridged, "10.78.0.2", 125}} {
		for _, network := range []string{"tcp", "udp"} {
			for range from.count {
				flows = append(flows, connect(t, from.n, network, from.to+":5555"))
			}
		}
	}
	var loopback []net.Conn
	for range 20 {
		loopback = append(loopback, connect(t, host, "tcp", "127.0.0.1:5555"), connect(t, host, "udp", "127.0.0.1:5555"))
	}

	seen := make([]atomic.Bool, len(flows))
	var last atomic.Int64 // when the last byte of any flow arrived
	for _, device := range []string{netnstest.PeerDevice, "peer1"} {
		capture := netnstest.NewCapture(t, peer, device)
		owned.Go(func() {
			capture.Each(quit, func(frame []byte) {
				var flow int
				at := bytes.Index(frame, []byte("<flow "))
				if at < 0 {
					return
				}
				if n, _ := fmt.Sscanf(string(frame[at:min(at+12, len(frame))]), "<flow %d>", &flow); n == 1 && flow < len(seen) {
					seen[flow].Store(true)
					last.Store(time.Now().UnixNano())
				}
			})
		})
	}
	owned.Go(func() {
		for {
			for i, conn := range flows {
				select {
				case <-quit:
					return
				default:
				}
				_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
				_, _ = fmt.Fprintf(conn, "<flow %04d>", i)
			}
		}
	})
	defer func() {
		for _, conn := range append(flows, loopback...) {
			_ = conn.Close()
		}
	}()
	await(t, "every flow to be seen at the peer", func() bool {
		for i := range seen {
			if !seen[i].Load() {
				return false
			}
		}
		return true
	})
	if err := barrier.Apply(testSpec()); err != nil {
		t.Fatal(err)
	}
	returned := time.Now()
	wait := time.NewTimer(slow.Deadline(1500 * time.Millisecond)) // beyond the first retransmissions
	<-wait.C
	pingPong(t, loopback)
	close(quit)
	owned.Wait()
	after := time.Unix(0, last.Load()).Sub(returned)
	t.Logf("%d flows: the last byte arrived %v after the isolation was applied (a negative time is before that)", len(flows), after.Round(10*time.Microsecond))
	if limit := slow.Deadline(time.Second); after > limit {
		t.Errorf("a flow went on for %v", after)
	}
}

// await polls for what has to come about.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(slow.Deadline(10 * time.Second))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func connect(t *testing.T, n *netnstest.Namespace, network, to string) (conn net.Conn) {
	t.Helper()
	n.Must(t, "connecting", func() (err error) {
		conn, err = net.DialTimeout(network, to, slow.Deadline(5*time.Second))
		return err
	})
	return conn
}

// sink sends back what it gets on port 5555.
func sink(t *testing.T, n *netnstest.Namespace) {
	t.Helper()
	var listener net.Listener
	var socket net.PacketConn
	n.Must(t, "listening", func() (err error) {
		if listener, err = net.Listen("tcp4", ":5555"); err != nil {
			return err
		}
		socket, err = net.ListenPacket("udp4", ":5555")
		return err
	})
	var serving sync.WaitGroup
	accepted := make(chan net.Conn, 2000)
	t.Cleanup(func() {
		_ = listener.Close()
		_ = socket.Close()
		for {
			select {
			case conn := <-accepted:
				_ = conn.Close()
				continue
			default:
			}
			break
		}
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
			serving.Go(func() { _, _ = io.Copy(io.Discard, io.TeeReader(conn, conn)) })
		}
	})
	serving.Go(func() {
		buffer := make([]byte, 2048)
		for {
			size, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(buffer[:size], from)
		}
	})
}

func pingPong(t *testing.T, conns []net.Conn) {
	t.Helper()
	for i, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(slow.Deadline(5 * time.Second)))
		_, err := conn.Write([]byte("ping"))
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 4))
		}
		if err != nil {
			t.Errorf("loopback flow %d: %v", i, err)
		}
	}
}
