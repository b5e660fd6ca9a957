package kernel

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// tcpMessage is a message with its length in front, as TCP carries it.
func tcpMessage(t testing.TB, name string, answers int) []byte {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, Response: answers > 0}, Questions: []dnsmessage.Question{question}}
	for i := range answers {
		message.Answers = append(message.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, byte(i >> 8), byte(i)}},
		})
	}
	packed, err := message.Pack()
	if err != nil {
		t.Error(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
}

// overTCP sends what on a connection to a name server of its own, each piece in a packet
// of its own, and back.
func overTCP(t testing.TB, network, address string, up [][]byte, down []byte) {
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer listener.Close()
	client, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	server, err := listener.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	for _, piece := range up { // Go sets TCP_NODELAY, and each is read before the next is sent
		if _, err := client.Write(piece); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(server, make([]byte, len(piece))); err != nil {
			t.Error(err)
		}
	}
	go server.Write(down)
	if _, err := io.ReadFull(client, make([]byte, len(down))); err != nil {
		t.Error(err)
	}
	client.Close()
	server.Close()
}

// Ensure that DNS over TCP is read on both ends, however it is cut into packets.
func TestDNSOverTCP(t *testing.T) {
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	for _, tt := range []struct{ network, address string }{{"tcp4", "127.0.0.1:53"}, {"tcp6", "[::1]:53"}} {
		t.Run(tt.network, func(t *testing.T) {
			one, two := "one."+tt.network+".example.", "two."+tt.network+".example."
			up := slices.Concat(tcpMessage(t, one, 0), tcpMessage(t, two, 0))
			pieces := slices.Collect(slices.Chunk(up, 7))
			pieces = append([][]byte{up[:1]}, append([][]byte{up[1:7]}, pieces[1:]...)...)
			down := slices.Concat(tcpMessage(t, one, 1), tcpMessage(t, two, 3800)) // 60 KiB
			ns.do(func() { overTCP(t, tt.network, tt.address, pieces, down) })
			var got []*event.DNS
			w.await("four messages on either end", func(events []event.Event) bool {
				got = filter(events, func(e *event.DNS) bool { return strings.HasSuffix(e.Name, tt.network+".example") })
				return len(got) == 8
			})
			for _, e := range got {
				want := 0
				if e.Response {
					want = 1
					if strings.HasPrefix(e.Name, "two") {
						want = 64
					}
				}
				if e.Transport != "tcp" || e.ID != 4711 || e.Process.PID != uint32(os.Getpid()) || len(e.Addrs) != want ||
					e.Local.Port() != 53 && e.Remote.Port() != 53 || !e.Local.Addr().IsLoopback() {
					t.Errorf("message %+v", e)
				}
			}
		})
	}
	if losses := w.Losses(); len(losses) > 0 {
		t.Errorf("losses %v", losses)
	}
}

// Ensure that bytes on TCP port 53 that are no DNS are counted and told as nothing.
func TestNoDNSOverTCP(t *testing.T) {
	ns := newNetNS(t)
	w := open(t, Config{Scope: Scope{Kind: ScopeNetNS, Path: ns.path}})
	ns.do(func() { overTCP(t, "tcp4", "127.0.0.1:53", [][]byte{[]byte("\x00\x04GET ")}, []byte("\x00\x00")) })
	w.await("what is no DNS", func([]event.Event) bool { return w.notDNS.Load() == 4 }) // two, on either end
	if got := filter(w.all(), func(*event.DNS) bool { return true }); len(got) > 0 {
		t.Errorf("told of %+v", got[0])
	}
}

// Ensure that a look-up that is known is counted and stays in the kernel, in whatever
// case it is written, while its answer goes on to name flows; and that another type of
// it, or one that carries more than a question, is told.
func TestKnownLookup(t *testing.T) {
	ns := newNetNS(t)
	w := open(t, Config{KeepKnown: true})
	if _, err := w.Tasks(t.Context()); err != nil { // this process is older than the sensor
		t.Fatal(err)
	}
	ask := func(name string, kind dnsmessage.Type, more int) { ns.do(func() { ask(t, name, kind, more) }) }
	ask("known.example.", dnsmessage.TypeA, 0)
	var told []*event.DNS
	asked := func(name string, response bool) func([]event.Event) bool {
		return func(events []event.Event) bool {
			told = filter(events, func(e *event.DNS) bool { return e.Name == name && e.Response == response })
			return len(told) > 0
		}
	}
	w.await("the first look-up, on either end", func(events []event.Event) bool { return asked("known.example", false)(events) && len(told) == 2 })
	for _, e := range told {
		if e.Key == 0 {
			t.Fatalf("a look-up of %v has no key", e.Process)
		}
		if err := w.Know(e.Key); err != nil {
			t.Fatal(err)
		}
	}
	_, before := w.Counters()
	questions := len(told)
	ask("KNOWN.eXample.", dnsmessage.TypeA, 0)
	ask("known.example.", dnsmessage.TypeA, 300)
	ask("known.example.", dnsmessage.TypeAAAA, 0)
	ask("later.example.", dnsmessage.TypeA, 0)
	w.await("what came after", func(events []event.Event) bool { return asked("later.example", true)(events) && len(told) == 2 })
	w.await("known look-ups", asked("known.example", false))
	if got := len(told) - questions; got != 2*questions {
		t.Errorf("%d of them told, want that of the other type and that with more in it, %d", got, 2*questions)
	}
	for _, e := range told[questions:] {
		if e.Type == 1 && e.ID != 301 { // the id says how much more is in it
			t.Errorf("told although it is known: %+v", e)
		}
	}
	if _, after := w.Counters(); after-before < uint64(questions) {
		t.Errorf("%d kept back, want at least %d", after-before, questions)
	}
	w.await("answers", asked("known.example", true))
	known := slices.DeleteFunc(told, func(e *event.DNS) bool { return !e.Known })
	if len(known) == 0 || len(known[0].Addrs) != 1 {
		t.Errorf("answers to known look-ups: %+v", known)
	}
}

// ask asks a name server of its own, with so many bytes of padding as EDNS allows for.
func ask(t testing.TB, name string, kind dnsmessage.Type, padding int) {
	server, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		t.Error(err)
		return
	}
	defer server.Close()
	client, err := net.Dial("udp4", "127.0.0.1:53")
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	message := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(padding + 1), RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET},
	}}
	message.Additionals = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: 1232},
		Body:   &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 12, Data: make([]byte, padding)}}},
	}}
	pack := func() []byte {
		packed, err := message.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	}
	buffer := make([]byte, 1024)
	if _, err := client.Write(pack()); err != nil {
		t.Error(err)
	}
	_, address, err := server.ReadFrom(buffer)
	if err != nil {
		t.Error(err)
	}
	message.Response = true
	message.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: message.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
		Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 9}},
	}}
	if _, err := server.WriteTo(pack(), address); err != nil {
		t.Error(err)
	}
	if _, err := client.Read(buffer); err != nil {
		t.Error(err)
	}
}
