package link_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure a peer cannot hold more streams than its protocol needs.
func TestStreamLimit(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{
		link.ALPNSensor: func(ctx context.Context, c *link.Conn) {
			for {
				if _, err := c.AcceptStream(ctx); err != nil {
					return
				}
			}
		},
	})
	c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s, err := c.OpenStream(t.Context())
		if err != nil {
			break
		}
		_, _ = s.Write([]byte("x"))
	}
	<-c.Context().Done()
	if closed, ok := errors.AsType[*link.ClosedError](c.Err()); !ok || closed.Code != link.CodeTooManyStreams {
		t.Fatalf("got %v", c.Err())
	}
}

// Ensure addresses must be proved when many handshakes are pending, and that
// those above the limit are refused and not queued.
func TestHandshakeLimits(t *testing.T) {
	ca := linktest.NewCA(t)
	t.Run("retry", func(t *testing.T) {
		node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), RetryAbove: -1}, handlers{link.ALPNSensor: echo})
		c, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, c, "x"); err != nil {
			t.Fatal(err)
		}
		if got := node.Stats(); got.Retried == 0 || got.Handshaking != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("limit", func(t *testing.T) {
		node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), MaxHandshakes: -1}, handlers{link.ALPNSensor: echo})
		_, err := dial(t, node.Addr(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")})
		if !errors.Is(err, link.ErrBusy) {
			t.Errorf("got %v, want %v", err, link.ErrBusy)
		}
		if got := node.Stats().Refused["handshake-limit"]; got == 0 {
			t.Error("not counted")
		}
	})
	t.Run("nodes have places of their own", func(t *testing.T) {
		full := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", ""), MaxHandshakes: -1}, handlers{link.ALPNRaft: echo})
		other := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n2", "")}, handlers{link.ALPNRaft: echo})
		if _, err := other.Dial(t.Context(), full.Addr().String(), link.ALPNRaft); !errors.Is(err, link.ErrBusy) {
			t.Fatalf("who is no node that it knows: %v, want %v", err, link.ErrBusy)
		}
		if _, err := full.Dial(t.Context(), other.Addr().String(), link.ALPNRaft); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Dial(t.Context(), full.Addr().String(), link.ALPNRaft); err != nil {
			t.Errorf("a node that it dials: %v", err)
		}
	})
}

// Ensure a peer that vanishes without a word is noticed within its idle timeout.
func TestDeadPeerIsNoticed(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo})
	relay := newRelay(t, node.Addr())
	c, err := dial(t, relay.addr(), link.ALPNSensor, link.DialConfig{
		Credentials: ca.Issue(link.KindHost, "h-1", ""), MaxIdle: 600 * time.Millisecond, KeepAlive: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, c, "x"); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	relay.cut()
	select {
	case <-c.Context().Done():
	case <-time.After(5 * time.Second):
		t.Fatal("not noticed in 5 s")
	}
	if !errors.Is(c.Err(), link.ErrPeerLost) {
		t.Errorf("got %v, want %v", c.Err(), link.ErrPeerLost)
	}
	if took := time.Since(cut); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}
