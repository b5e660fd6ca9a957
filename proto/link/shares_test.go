package link_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure that one host's key is good for a few connections, and not for all that a node has;
// that this is told and counted; and that a host which hangs up may come again.
func TestOneHostTakesFewConnections(t *testing.T) {
	ca := linktest.NewCA(t)
	var said journal
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), Logger: slog.New(slog.NewTextHandler(&said, nil))},
		handlers{link.ALPNSensor: echo})
	host := link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")}
	come := func(cfg link.DialConfig) (*link.Conn, error) {
		c, err := dial(t, node.Addr(), link.ALPNSensor, cfg)
		if err == nil {
			_, err = ask(t, c, "x")
		}
		return c, err
	}
	var first *link.Conn
	for i := range 4 {
		c, err := come(host)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		first = c
	}
	for range 3 {
		if _, err := come(host); !errors.Is(err, link.ErrBusy) {
			t.Errorf("one more than four: got %v, want %v", err, link.ErrBusy)
		}
	}
	if got := node.Stats(); got.Refused["too-many-of-host"] != 3 || got.Open != 4 {
		t.Errorf("got %+v", got)
	}
	if got := said.String(); strings.Count(got, "host=h-1") != 1 {
		t.Errorf("the log says %q, want one line about the host", got)
	}
	if _, err := come(link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-2", "")}); err != nil {
		t.Errorf("another host: %v", err)
	}
	_ = first.CloseWithReason(link.CodeOK, "")
	until(t, "its place to be free", func() bool { return node.Stats().Open == 4 })
	if _, err := come(host); err != nil {
		t.Errorf("in the place of one that has gone: %v", err)
	}
}

// Ensure that a node which has all connections that it may have is still found by other nodes.
func TestNodesFindRoom(t *testing.T) {
	ca := linktest.NewCA(t)
	all := handlers{link.ALPNSensor: echo, link.ALPNRaft: echo, link.ALPNEnroll: echo}
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), MaxConns: 2}, all)
	for _, id := range []string{"h-1", "h-2"} {
		c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, id, "")})
		if err == nil {
			_, err = ask(t, c, "x")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for alpn, cfg := range map[string]link.DialConfig{
		link.ALPNSensor: {Credentials: ca.Issue(link.KindHost, "h-3", "")},
		link.ALPNEnroll: {PinnedCA: ca.Pin()},
	} {
		if _, err := dial(t, node.Addr(), alpn, cfg); !errors.Is(err, link.ErrBusy) {
			t.Errorf("%s: got %v, want %v", alpn, err, link.ErrBusy)
		}
	}
	until(t, "both refusals to be counted", func() bool { return node.Stats().Refused["connection-limit"] >= 2 })
	other := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n2", "")}, all)
	peer, err := other.Dial(t.Context(), node.Addr().String(), link.ALPNRaft)
	if err != nil {
		t.Fatalf("another node: %v", err)
	}
	if got, err := ask(t, peer, "vote"); err != nil || got != "node/n2 vote" {
		t.Errorf("another node: got %q, %v", got, err)
	}
}

// journal is what several goroutines log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
