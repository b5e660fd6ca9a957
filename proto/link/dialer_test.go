package link_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure connections that share a socket are each who they say, that the end of one
// leaves the others, and that closing the socket ends them all.
func TestSharedSocket(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo})
	d, err := link.NewDialer(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ids := []string{"h-1", "h-2", "h-3"}
	conns := make([]*link.Conn, len(ids))
	for i, id := range ids {
		if conns[i], err = d.Dial(ctx, node.Addr().String(), link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, id, "")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := conns[0].CloseWithReason(link.CodeOK, ""); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(ids); i++ {
		if conns[i].LocalAddr().String() != conns[0].LocalAddr().String() {
			t.Errorf("%s dials from %s, another from %s", ids[i], conns[i].LocalAddr(), conns[0].LocalAddr())
		}
		if got, err := ask(t, conns[i], "hello"); err != nil || got != "host/"+ids[i]+" hello" {
			t.Errorf("%s is answered %q, %v", ids[i], got, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(ids); i++ {
		select {
		case <-conns[i].Context().Done():
		case <-ctx.Done():
			t.Errorf("%s goes on without a socket", ids[i])
		}
	}
}

// Ensure a node shows its authority to those only who need to see it: who enrols knows a
// pin, and everybody else has the authority, and would keep another copy of it for as long
// as the connection lasts, at both ends.
func TestRootShownToStrangersOnly(t *testing.T) {
	ca := linktest.NewCA(t)
	node := serve(t, link.ListenConfig{Credentials: ca.Issue(link.KindNode, "n1", "")}, handlers{link.ALPNSensor: echo, link.ALPNEnroll: echo})
	for _, tt := range []struct {
		alpn string
		cfg  link.DialConfig
		want int
	}{
		{link.ALPNSensor, link.DialConfig{Credentials: ca.Issue(link.KindHost, "h-1", "")}, 1},
		{link.ALPNEnroll, link.DialConfig{PinnedCA: ca.Pin()}, 2},
	} {
		c, err := dial(t, node.Addr(), tt.alpn, tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Shown(); got != tt.want {
			t.Errorf("%s is shown %d certificates, want %d", tt.alpn, got, tt.want)
		}
	}
}
