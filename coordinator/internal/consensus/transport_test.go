package consensus

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Ensure a node that closes waits for a heartbeat under way, and hands raft none after
// that: what raft writes for one would meet a closed log.
func TestHeartbeatsEnd(t *testing.T) {
	peer := func() *raft.NetworkTransport {
		one, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, 5*time.Second, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		// Close alone leaves pooled connections open, and with them the peer's goroutines.
		t.Cleanup(func() { one.CloseStreams(); _ = one.Close() })
		return one
	}
	from := peer()
	to := &transport{NetworkTransport: peer()}
	began, release, after := make(chan struct{}), make(chan struct{}), 0
	to.SetHeartbeatHandler(func(rpc raft.RPC) {
		if after++; after == 1 {
			close(began)
			<-release
		}
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	beat := func() error {
		addr := from.LocalAddr()
		return from.AppendEntries("b", to.LocalAddr(), &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: []byte(addr)}, Term: 2,
		}, new(raft.AppendEntriesResponse))
	}
	answered := make(chan error, 1)
	go func() { answered <- beat() }()
	<-began
	ended := make(chan struct{})
	go func() { to.end(); close(ended) }()
	select {
	case <-ended:
		t.Error("it ended while one was under way")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	<-ended
	if err := <-answered; err != nil {
		t.Error("the one under way:", err)
	}
	if err := beat(); err == nil || after != 1 {
		t.Errorf("one after the end: %v, raft was given %d", err, after)
	}
}
