package inquire

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// said is a stream on which a node has said all that it will.
type said struct {
	net.Conn
	io.Reader
	wrote bytes.Buffer
}

func (s *said) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (s *said) Write(p []byte) (int, error)    { return s.wrote.Write(p) }
func (*said) Close() error                     { return nil }
func (*said) SetDeadline(time.Time) error      { return nil }
func (*said) SetReadDeadline(time.Time) error  { return nil }
func (*said) SetWriteDeadline(time.Time) error { return nil }

// OpenQuestions implements Peers: every node says the same.
func (s *said) OpenQuestions(context.Context, string) (net.Conn, error) { return s, nil }

func framed(t testing.TB, all ...proto.Message) []byte {
	t.Helper()
	var raw bytes.Buffer
	for _, m := range all {
		if err := frame.Write(&raw, m); err != nil {
			t.Fatal(err)
		}
	}
	return raw.Bytes()
}

// FuzzServe lets a node ask anything: each host that it names is answered for with frames, or the
// stream ends.
func FuzzServe(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add(framed(f, &raftv1.NodeQuestion{}))
	f.Add(framed(f, &raftv1.NodeQuestion{Ask: &sensorv1.Ask{MaxRows: 1}, Hosts: []string{"h-1", "h-1", "away-1", "late-1", "stuck-1", ""}}))
	f.Add(framed(f, &raftv1.NodeQuestion{Hosts: make([]string, MaxHosts+1)}))
	f.Add(framed(f, &raftv1.NodeQuestion{Hosts: []string{"h-1"}}, &raftv1.NodeQuestion{Hosts: []string{"h-1"}})[:9])
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := New("n1", &hosts{asked: map[string]int{}}, nil)
		stream := &said{Reader: bytes.NewReader(raw)}
		a.Serve(t.Context(), stream)
		for answers := bytes.NewReader(stream.wrote.Bytes()); answers.Len() > 0; {
			if err := frame.Read(answers, &raftv1.NodeAnswer{}); err != nil {
				t.Fatalf("an answer is none: %v", err)
			}
		}
		if len(a.served) != 0 {
			t.Error("its place is taken for ever")
		}
	})
}

// FuzzAnswer lets a node answer anything: each host that was asked is ended once, and nothing is said of another.
func FuzzAnswer(f *testing.F) {
	done := &sensorv1.Answer{Done: true}
	f.Add([]byte{})
	f.Add(framed(f, &raftv1.NodeAnswer{Host: "h-1", Answer: &sensorv1.Answer{}}, &raftv1.NodeAnswer{Host: "h-1", Answer: done}, &raftv1.NodeAnswer{Host: "h-2", Code: "late"}))
	f.Add(framed(f, &raftv1.NodeAnswer{Host: "h-1", Answer: done}, &raftv1.NodeAnswer{Host: "h-1", Answer: done}))
	f.Add(framed(f, &raftv1.NodeAnswer{Host: "h-3", Answer: done}))
	f.Add(framed(f, &raftv1.NodeAnswer{Host: "h-1"}))
	f.Add(framed(f, &raftv1.NodeAnswer{Host: "h-2", Code: "x", Error: "\x1b[31m"}))
	f.Add([]byte{0, 0x20, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := New("n1", &hosts{asked: map[string]int{}}, &said{Reader: bytes.NewReader(raw)})
		ends := map[string]int{"h-1": 0, "h-2": 0}
		a.there(t.Context(), "n2", []string{"h-1", "h-2"}, &sensorv1.Ask{}, func(p Piece) error {
			n, asked := ends[p.Host]
			if !asked {
				t.Errorf("it answers for %q", p.Host)
			}
			if n > 0 {
				t.Errorf("%s goes on behind its end", p.Host)
			}
			if p.Last() {
				ends[p.Host]++
			}
			if p.Answer == nil && p.Err == nil {
				t.Errorf("%s has neither an answer nor a reason", p.Host)
			}
			return nil
		})
		for host, n := range ends {
			if n != 1 {
				t.Errorf("%s has %d ends", host, n)
			}
		}
	})
}
