package consensus

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Ensure that what is sent never waits for the answers to be taken, and that they come in
// their order when they are.
func TestPipelineKeepsAnswers(t *testing.T) {
	from, to := newLoopback(t), newLoopback(t)
	go func() {
		for {
			select {
			case rpc := <-to.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 2, LastLog: rpc.Command.(*raft.AppendEntriesRequest).PrevLogEntry}, nil)
			case <-t.Context().Done():
				return
			}
		}
	}()
	p, err := from.AppendEntriesPipeline("to", to.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	const n = 20
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := range uint64(n) {
			req := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: []byte("from")}, Term: 2, PrevLogEntry: i + 1}
			_, one := p.AppendEntries(req, new(raft.AppendEntriesResponse))
			err = errors.Join(err, one)
		}
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		_ = p.Close() // ends the wait
		t.Fatal("it waits for somebody who takes the answers")
	}
	for i := range uint64(n) {
		select {
		case answer := <-p.Consumer():
			if answer.Error() != nil || answer.Response().LastLog != i+1 || answer.Request().PrevLogEntry != i+1 {
				t.Errorf("answer %d is to %d: %+v, %v", i+1, answer.Request().PrevLogEntry, answer.Response(), answer.Error())
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("answer %d did not come", i+1)
		}
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// Ensure that a follower which refuses now and then gets every entry all the same, and that
// the leader can stop: raft itself over this transport.
func TestRefusalsEndNoReplication(t *testing.T) {
	const entries = 300
	var nodes []*raft.Raft
	var members []raft.Server
	var links []*transport
	var states []*counter
	for i := range 3 {
		links = append(links, newLoopback(t))
		members = append(members, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: links[i].LocalAddr()})
	}
	for i, link := range links {
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger = members[i].ID, hclog.NewNullLogger()
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = time.Second, time.Second, 500*time.Millisecond
		disk, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(conf, disk, disk, snapshots, link, raft.Configuration{Servers: members}); err != nil {
			t.Fatal(err)
		}
		states = append(states, &counter{})
		writes := &refusing{LogStore: disk}
		node, err := raft.NewRaft(conf, states[i], writes, disk, snapshots, link)
		if err != nil {
			t.Fatal(err)
		}
		writes.node.Store(node)
		nodes = append(nodes, node)
	}
	t.Cleanup(func() {
		for i, node := range nodes {
			stopped := make(chan error, 1)
			go func() { stopped <- node.Shutdown().Error() }()
			select {
			case err := <-stopped:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("node %d does not stop", i)
			}
		}
	})
	deadline := time.Now().Add(time.Minute)
	applied := func() (all []int64) {
		for _, s := range states {
			all = append(all, s.Load())
		}
		return all
	}
	for done := 0; done < entries; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d entries, %v applied", done, entries, applied())
		}
		for _, node := range nodes {
			var open []raft.ApplyFuture
			for range 4 { // more than one is on its way
				open = append(open, node.Apply([]byte("x"), 5*time.Second))
			}
			for _, one := range open {
				if one.Error() == nil {
					done++
				}
			}
		}
	}
	for {
		if all := applied(); min(all[0], all[1], all[2]) >= entries && all[0] == all[1] && all[1] == all[2] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a member gets no entries: %v applied", applied())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// refusing is a log that fails at each seventh write of a follower, which refuses at that.
type refusing struct {
	raft.LogStore
	node   atomic.Pointer[raft.Raft]
	writes atomic.Int64
}

func (r *refusing) StoreLogs(logs []*raft.Log) error {
	if node := r.node.Load(); node != nil && node.State() == raft.Follower && r.writes.Add(1)%7 == 0 {
		return errors.New("no space")
	}
	return r.LogStore.StoreLogs(logs)
}

// counter counts what is applied.
type counter struct{ atomic.Int64 }

func (c *counter) Apply(*raft.Log) any                 { c.Add(1); return nil }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none here") }
func (c *counter) Restore(io.ReadCloser) error         { return errors.New("none here") }

// newLoopback is a transport over TCP.
func newLoopback(t *testing.T) *transport {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one := newTransport(&raft.NetworkTransportConfig{Stream: loopback{l}, MaxPool: 3, Timeout: 5 * time.Second, Logger: hclog.NewNullLogger()}, func() bool { return false })
	t.Cleanup(func() { one.CloseStreams(); _ = one.Close() })
	return one
}

type loopback struct{ net.Listener }

func (loopback) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(addr), timeout)
}
