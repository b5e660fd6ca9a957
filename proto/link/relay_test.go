package link_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// relay carries datagrams between one client and a node until it is cut.
type relay struct {
	front  *net.UDPConn
	isCut  atomic.Bool
	client atomic.Pointer[net.UDPAddr]
}

func newRelay(t *testing.T, node net.Addr) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp4", nil, node.(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			r.client.Store(from)
			if !r.isCut.Load() {
				_, _ = back.Write(buf[:n])
			}
		}
	})
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, err := back.Read(buf)
			if err != nil {
				return
			}
			if client := r.client.Load(); client != nil && !r.isCut.Load() {
				_, _ = front.WriteToUDP(buf[:n], client)
			}
		}
	})
	t.Cleanup(func() {
		_ = front.Close()
		_ = back.Close()
		wg.Wait()
	})
	return r
}

func (r *relay) addr() net.Addr { return r.front.LocalAddr() }
func (r *relay) cut()           { r.isCut.Store(true) }
