package uplink_test

import (
	"net"
	"sync"
	"testing"
)

// relay carries datagrams between one client and a node until it is cut.
type relay struct {
	front *net.UDPConn
	mu    sync.Mutex
	gone  bool
	from  *net.UDPAddr
}

func (r *relay) addr() string { return r.front.LocalAddr().String() }

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
}

func newRelay(t *testing.T, to net.Addr) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{front: front}
	var wg sync.WaitGroup
	carry := func(in, out *net.UDPConn, target func(from *net.UDPAddr) *net.UDPAddr) {
		buf := make([]byte, 65536)
		for {
			n, from, err := in.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if addr := target(from); addr != nil {
				_, _ = out.WriteToUDP(buf[:n], addr)
			}
		}
	}
	wg.Go(func() {
		carry(front, back, func(from *net.UDPAddr) *net.UDPAddr {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.from = from
			if r.gone {
				return nil
			}
			return to.(*net.UDPAddr)
		})
	})
	wg.Go(func() {
		carry(back, front, func(*net.UDPAddr) *net.UDPAddr {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.gone {
				return nil
			}
			return r.from
		})
	})
	t.Cleanup(func() {
		_ = front.Close()
		_ = back.Close()
		wg.Wait()
	})
	return r
}
