package consensus

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// said is a stream on which a peer has said all that it will.
type said struct {
	io.Reader
	wrote  bytes.Buffer
	reads  atomic.Int64
	closed chan struct{}
	ended  atomic.Bool
}

func saying(raw []byte) *said {
	return &said{Reader: bytes.NewReader(raw), closed: make(chan struct{})}
}

// Read implements net.Conn.
func (s *said) Read(p []byte) (int, error) {
	s.reads.Add(1)
	if s.ended.Load() {
		return 0, net.ErrClosed
	}
	return s.Reader.Read(p)
}

// Write implements net.Conn.
func (s *said) Write(p []byte) (int, error) { return s.wrote.Write(p) }

// Close implements net.Conn.
func (s *said) Close() error {
	if !s.ended.Swap(true) {
		close(s.closed)
	}
	return nil
}

func (*said) LocalAddr() net.Addr              { return address("here") }
func (*said) RemoteAddr() net.Addr             { return address("there") }
func (*said) SetDeadline(time.Time) error      { return nil }
func (*said) SetReadDeadline(time.Time) error  { return nil }
func (*said) SetWriteDeadline(time.Time) error { return nil }

// served is how long a stream that says no more may take to end.
const served = 20 * time.Second

// seedStreams adds streams of each kind: without a body, with a good one, with a broken one.
func seedStreams(f *testing.F) {
	f.Helper()
	for _, tag := range []byte{tagPropose, tagMembership, tagBarrier, tagStatus, tagKey, tagState, tagQuestion, 'Z'} {
		for _, cmd := range []*raftv1.Command{{}, {Actor: "00ff"}, operatorCommand("ada"),
			{Body: &raftv1.Command_PutNode{PutNode: &raftv1.PutNode{Node: &sensorv1.Node{Id: "n9", Address: "x"}}}},
			{Body: &raftv1.Command_RemoveNode{RemoveNode: &raftv1.RemoveNode{Id: "n1"}}}} {
			var raw bytes.Buffer
			raw.WriteByte(tag)
			if err := frame.Write(&raw, cmd); err != nil {
				f.Fatal(err)
			}
			f.Add(raw.Bytes(), true)
			f.Add(raw.Bytes(), false)
			f.Add(raw.Bytes()[:raw.Len()/2], true)
		}
		f.Add([]byte{tag, 0xff, 0xff, 0xff, 0xff}, false)
		f.Add([]byte{tag, 0, 0x10, 0, 0, 0xff}, true)
	}
	f.Add([]byte{}, true)
}

// changes says whether a member asks, in good form, for what a member may have: that is no hostile
// stream, and would end the cluster of one that serves all inputs.
func changes(raw []byte) bool {
	if len(raw) == 0 || raw[0] != tagPropose && raw[0] != tagMembership {
		return false
	}
	cmd := &raftv1.Command{}
	return frame.Read(bytes.NewReader(raw[1:]), cmd) == nil && cmd.GetBody() != nil
}

// FuzzServe lets a node say anything on a stream, a member and one that is none: the stream ends, and
// who is no member is given neither the state nor a key.
func FuzzServe(f *testing.F) {
	n, _ := single(f, f.TempDir())
	n.cfg.AuthorityKey = func([]byte) ([]byte, error) { return []byte("a secret key"), nil }
	question := func(_ context.Context, conn net.Conn) { _ = frame.Read(conn, &raftv1.NodeQuestion{}) }
	n.ServeQuestions(question)
	// A leader, so that what is proposed goes as far as it can.
	ctx, cancel := context.WithTimeout(f.Context(), served)
	defer cancel()
	if _, err := n.Propose(ctx, operatorCommand("first")); err != nil {
		f.Fatal(err)
	}
	seedStreams(f)
	f.Fuzz(func(t *testing.T, raw []byte, member bool) {
		if len(raw) > 0 && raw[0] == tagRaft || member && changes(raw) {
			return
		}
		peer := link.Peer{Kind: link.KindNode, ID: "n9"}
		if member {
			peer.ID = "n1"
		}
		before := n.AppliedIndex()
		stream := saying(raw)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			n.serveStream(t.Context(), peer, stream)
		}()
		select {
		case <-ended:
		case <-time.After(served):
			t.Fatalf("the stream has not ended after %s", served)
		}
		if !stream.ended.Load() {
			t.Error("the stream is left open")
		}
		if reads := stream.reads.Load(); reads > int64(len(raw))+8 {
			t.Errorf("%d bytes were read in %d reads", len(raw), reads)
		}
		if member {
			return
		}
		if n.AppliedIndex() != before && len(raw) > 0 && raw[0] != tagKey && raw[0] != tagMembership { // their barriers are entries
			t.Errorf("who is no member has made entry %d", n.AppliedIndex())
		}
		reply := &raftv1.ForwardReply{}
		if stream.wrote.Len() == 0 {
			return
		}
		answer := bytes.NewReader(stream.wrote.Bytes())
		if err := frame.Read(answer, reply); err != nil {
			t.Errorf("the answer is none: %v", err)
		}
		if len(reply.GetAuthorityKey()) > 0 || answer.Len() > 0 {
			t.Errorf("who is no member is given %v and %d bytes more", reply, answer.Len())
		}
	})
}

// FuzzRaftStream lets a node say anything on a stream of raft's: the stream ends, and what raft is handed
// is answered. What raft makes of a well-formed request of a member is its own.
func FuzzRaftStream(f *testing.F) {
	layer := newStreamLayer(nil, "here")
	network := newTransport(&raft.NetworkTransportConfig{Stream: layer, MaxPool: 1, Timeout: time.Second, Logger: newLogger(slog.New(slog.DiscardHandler))}, func() bool { return false })
	f.Cleanup(func() { _ = network.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		for {
			select {
			case rpc := <-network.Consumer():
				rpc.Respond(nil, raft.ErrRaftShutdown)
			case <-ctx.Done():
				return
			}
		}
	}()
	f.Cleanup(func() { cancel(); <-handled })
	for kind := range byte(6) {
		f.Add([]byte{kind})
		f.Add([]byte{kind, 0x80})                                                                        // an empty map
		f.Add([]byte{kind, 0x81, 0xa4, 'T', 'e', 'r', 'm', 7})                                           // a term
		f.Add([]byte{kind, 0xdf, 0xff, 0xff, 0xff, 0xff})                                                // a map of 2^32 pairs
		f.Add([]byte{kind, 0x81, 0xa7, 'E', 'n', 't', 'r', 'i', 'e', 's', 0xdd, 0xff, 0xff, 0xff, 0xff}) // as many entries
		f.Add([]byte{kind, 0x81, 0xa6, 'L', 'e', 'a', 'd', 'e', 'r', 0xc6, 0xff, 0xff, 0xff, 0xff})      // bytes without end
		f.Add([]byte{kind, 0x81, 0xa4, 'S', 'i', 'z', 'e', 0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0})             // a snapshot of less than nothing
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		stream := saying(raw)
		layer.deliver(t.Context(), stream)
		select {
		case <-stream.closed:
		case <-time.After(served):
			t.Fatalf("the stream has not ended after %s", served)
		}
	})
}
