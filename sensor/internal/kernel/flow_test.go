package kernel

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// exchange makes a TCP connection on which the client sends up bytes and the
// server answers with down bytes, and both end it in order.
func exchange(t testing.TB, network string, up, down int) (client, server netip.AddrPort) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "tcp6" {
		address = "[::1]:0"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return exchangeOn(t, listener, up, down)
}

func exchangeOn(t testing.TB, listener net.Listener, up, down int) (client, server netip.AddrPort) {
	t.Helper()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		_, err = io.ReadFull(conn, make([]byte, up))
		if err == nil {
			_, err = conn.Write(make([]byte, down))
		}
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		conn.Close()
		served <- err
	}()
	conn, err := net.Dial(listener.Addr().Network(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = conn.LocalAddr().(*net.TCPAddr).AddrPort()
	if _, err := conn.Write(make([]byte, up)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, down)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	return client, conn.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// Ensure that both ends of a TCP flow are told with their owner and exact bytes.
func TestTCPFlow(t *testing.T) {
	w := open(t, Config{})
	self := uint32(os.Getpid())
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			const up, down = 70_001, 123_457
			client, server := exchange(t, network, up, down)
			for _, side := range []struct {
				name          string
				dir           event.Direction
				local, remote netip.AddrPort
				in, out       uint64
			}{
				{"connect", event.Outbound, client, server, down, up},
				{"accept", event.Inbound, server, client, up, down},
			} {
				opened := first(w, side.name, func(e *event.FlowOpen) bool { return e.Local == side.local && e.Remote == side.remote })
				if opened.Dir != side.dir || opened.Proto != 6 || opened.Failed || opened.Process.PID != self || opened.Flow.Cookie == 0 {
					t.Errorf("%s opened as %+v", side.name, opened)
				}
				closed := first(w, side.name+" close", func(e *event.FlowClose) bool { return e.Flow == opened.Flow })
				if closed.BytesIn != side.in || closed.BytesOut != side.out {
					t.Errorf("%s: %d in, %d out, want %d, %d", side.name, closed.BytesIn, closed.BytesOut, side.in, side.out)
				}
				if closed.Process != opened.Process || closed.Dir != side.dir || closed.PacketsIn == 0 || closed.PktsOut == 0 ||
					closed.Opened != opened.Time || closed.Local != side.local {
					t.Errorf("%s closed as %+v, opened as %+v", side.name, closed, opened)
				}
			}
		})
	}
}

// Ensure that a connect that nobody answers is told as failed.
func TestTCPFailed(t *testing.T) {
	w := open(t, Config{})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr).AddrPort()
	listener.Close()
	if conn, err := net.Dial("tcp4", address.String()); err == nil {
		conn.Close()
		t.Fatal("connected to a closed port")
	}
	got := first(w, "failed connect", func(e *event.FlowOpen) bool { return e.Remote == address })
	if !got.Failed || got.Dir != event.Outbound || got.Process.PID != uint32(os.Getpid()) {
		t.Errorf("got %+v", got)
	}
}

// Ensure that sockets older than the sensor have their owner and direction.
func TestSocketsFromBefore(t *testing.T) {
	needKernel(t)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := listener.Accept()
		accepted <- conn
	}()
	old, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server := <-accepted
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()

	w := open(t, Config{})
	self := uint32(os.Getpid())
	client, address := old.LocalAddr().(*net.TCPAddr).AddrPort(), listener.Addr().(*net.TCPAddr).AddrPort()
	old.Close()
	server.Close()
	for local, dir := range map[netip.AddrPort]event.Direction{client: event.Outbound, address: event.Inbound} {
		got := first(w, "close of an old flow", func(e *event.FlowClose) bool { return e.Local == local })
		if got.Process.PID != self || got.Dir != dir {
			t.Errorf("flow of %v: process %v, direction %v, want %d, %v", local, got.Process, got.Dir, self, dir)
		}
	}
	fresh, _ := exchangeOn(t, listener, 1, 1)
	in := first(w, "accept by an old listener", func(e *event.FlowOpen) bool { return e.Remote == fresh })
	if in.Process.PID != self || in.Dir != event.Inbound {
		t.Errorf("accepted as %+v", in)
	}
	conn, err := net.Dial("udp4", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	datagram := first(w, "datagram to an old socket", func(e *event.FlowOpen) bool {
		return e.Proto == 17 && e.Remote == conn.LocalAddr().(*net.UDPAddr).AddrPort()
	})
	if datagram.Process.PID != self || datagram.Dir != event.Inbound {
		t.Errorf("datagram told as %+v", datagram)
	}
}

// Ensure that UDP flows have both directions' totals and end when they are silent.
func TestUDPFlow(t *testing.T) {
	for _, tt := range []struct{ network, address string }{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}} {
		t.Run(tt.network, func(t *testing.T) {
			w := openIdle(t, Config{}, 300*time.Millisecond)
			server, err := net.ListenPacket(tt.network, tt.address)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			client, err := net.Dial(tt.network, server.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			buffer := make([]byte, 2048)
			for range 3 {
				if _, err := client.Write(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				_, from, err := server.ReadFrom(buffer)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := server.WriteTo(make([]byte, 1000), from); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Read(buffer); err != nil {
					t.Fatal(err)
				}
			}
			local, remote := client.LocalAddr().(*net.UDPAddr).AddrPort(), server.LocalAddr().(*net.UDPAddr).AddrPort()
			out := first(w, "outbound", func(e *event.FlowClose) bool { return e.Local == local && e.Remote == remote })
			if out.Dir != event.Outbound || out.Proto != 17 || out.BytesOut != 300 || out.BytesIn != 3000 || out.PktsOut != 3 || out.PacketsIn != 3 {
				t.Errorf("outbound %+v", out)
			}
			in := first(w, "inbound", func(e *event.FlowClose) bool { return e.Local == remote && e.Remote == local })
			if in.Dir != event.Inbound || in.BytesIn != 300 || in.BytesOut != 3000 || in.Process.PID != uint32(os.Getpid()) {
				t.Errorf("inbound %+v", in)
			}
			opens := filter(w.all(), func(e *event.FlowOpen) bool { return e.Flow == out.Flow })
			if len(opens) != 1 || opens[0].Time != out.Opened {
				t.Errorf("%d openings of one flow", len(opens))
			}
		})
	}
}

// openIdle opens a Source whose silent UDP flows end sooner.
func openIdle(t testing.TB, cfg Config, idle time.Duration) *watch {
	t.Helper()
	return openWith(t, cfg, func(s *Source) { s.sweep.idle, s.sweep.every = idle, idle/3 })
}

// Ensure that a flow table without room loses counts aloud, and flows end sooner.
func TestUDPTableFull(t *testing.T) {
	ns := newNetNS(t) // nobody else's datagrams
	w := open(t, Config{MaxFlows: 16, Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	var conn *net.UDPConn
	ns.do(func() {
		var err error
		if conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Error(err)
			return
		}
		for port := 1; port <= 100; port++ {
			// Nobody listens there; that is no concern of the sender's side.
			if _, err := conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9), Port: 20000 + port}); err != nil {
				t.Error(err)
			}
		}
	})
	if conn == nil {
		t.FailNow()
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	count := func() int {
		return len(filter(w.all(), func(e *event.FlowOpen) bool { return e.Local == local }))
	}
	var lost uint64
	w.await("opened and lost flows", func([]event.Event) bool {
		lost = lossOf(w.Losses(), "map:udp_flows", "table full")
		return lost+uint64(count()) >= 100
	})
	if count() > 16 || lost+uint64(count()) != 100 {
		t.Errorf("%d flows told, %d lost, want 100 in all", count(), lost)
	}
}

func lossOf(losses []event.Loss, where, cause string) uint64 {
	for _, l := range losses {
		if l.Where == where && l.Cause == cause {
			return l.Count
		}
	}
	return 0
}

// Ensure that questions and answers are read on both sides of loopback.
func TestDNS(t *testing.T) {
	ns := newNetNS(t) // port 53 of the machine may be taken
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	for _, tt := range []struct{ network, address string }{{"udp4", "127.0.0.1:53"}, {"udp6", "[::1]:53"}} {
		t.Run(tt.network, func(t *testing.T) {
			name := "Www." + tt.network + ".Example."
			ns.do(func() { resolve(t, tt.network, tt.address, name) })
			for _, response := range []bool{false, true} {
				var got []*event.DNS
				w.await("four messages", func(events []event.Event) bool {
					got = filter(events, func(e *event.DNS) bool { return e.Name == "www."+tt.network+".example" && e.Response == response })
					return len(got) == 2
				})
				for _, e := range got {
					if e.ID != 4711 || e.Type != 1 || e.Process.PID != uint32(os.Getpid()) {
						t.Errorf("message %+v", e)
					}
					if response && (len(e.Addrs) != 1 || e.Addrs[0] != netip.MustParseAddr("192.0.2.7") || e.TTL != time.Minute ||
						len(e.CNAMEs) != 1 || e.CNAMEs[0] != "real.example") {
						t.Errorf("answer %+v", e)
					}
				}
				if got[0].Local != got[1].Remote {
					t.Errorf("messages of one side only: %+v %+v", got[0], got[1])
				}
			}
		})
	}
}

// resolve asks a name server of its own for a name.
func resolve(t testing.TB, network, address, name string) {
	server, err := net.ListenPacket(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	client, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711}, Questions: []dnsmessage.Question{question}}
	real := dnsmessage.MustNewName("real.example.")
	send := func(to func([]byte) (int, error)) {
		packed, err := message.Pack()
		if err == nil {
			_, err = to(packed)
		}
		if err != nil {
			t.Error(err)
		}
	}
	send(client.Write)
	buffer := make([]byte, 512)
	_, from, err := server.ReadFrom(buffer)
	if err != nil {
		t.Error(err)
		return
	}
	message.Response = true
	header := func(name dnsmessage.Name, ttl uint32) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}
	}
	message.Answers = []dnsmessage.Resource{
		{Header: header(question.Name, 300), Body: &dnsmessage.CNAMEResource{CNAME: real}},
		{Header: header(real, 60), Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}}},
	}
	send(func(b []byte) (int, error) { return server.WriteTo(b, from) })
	if _, err := client.Read(buffer); err != nil {
		t.Error(err)
	}
}
