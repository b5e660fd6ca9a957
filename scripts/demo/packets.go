package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tap counts the frames that go to a host from one neighbour, by AF_PACKET at the
// switch's end of its cable: what the wire carried, whatever any socket made of it, and
// nothing that the host's sensor would have to tell as a program that reads packets
// there. ARP and neighbour discovery are not counted, since isolation leaves them open
// on purpose.
type tap struct {
	v4, v6, other atomic.Int64
	fd            int
	done          sync.WaitGroup
}

// listen opens a tap at the switch's port of a host.
func listen(at host) (*tap, error) {
	t := &tap{fd: -1}
	err := at.sw.Do(func() error {
		link, err := net.InterfaceByName(at.name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return fmt.Errorf("opening a packet socket: %w", err)
		}
		timeout := unix.NsecToTimeval(int64(50 * time.Millisecond))
		if err := unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		return unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	return t, err
}

// run counts the frames that from sent, until ctx ends.
func (t *tap) run(ctx context.Context, from net.HardwareAddr) {
	t.done.Add(1)
	go func() {
		defer t.done.Done()
		defer unix.Close(t.fd)
		frame := make([]byte, 2048)
		for ctx.Err() == nil {
			n, _, err := unix.Recvfrom(t.fd, frame, 0)
			if err != nil || n < 14 || string(frame[6:12]) != string(from) {
				continue
			}
			switch kind := binary.BigEndian.Uint16(frame[12:14]); {
			case kind == unix.ETH_P_ARP:
			case kind == unix.ETH_P_IP:
				t.v4.Add(1)
			case kind == unix.ETH_P_IPV6 && n > 54 && frame[20] == unix.IPPROTO_ICMPV6 && frame[54] >= 133 && frame[54] <= 136:
			case kind == unix.ETH_P_IPV6:
				t.v6.Add(1)
			default:
				t.other.Add(1)
			}
		}
	}()
}

func hardware(h host) (mac net.HardwareAddr, err error) {
	err = h.ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = link.HardwareAddr
		}
		return err
	})
	return mac, err
}

// traffic is what got through between two hosts in one second of trying.
type traffic struct {
	v4Out, v6Out int64 // frames from the host seen at its neighbour
	v4In, v6In   int64 // frames from the neighbour that a socket of the host received
}

func (t traffic) none() bool { return t == traffic{} }
func (t traffic) all() bool  { return t.v4Out > 0 && t.v6Out > 0 && t.v4In > 0 && t.v6In > 0 }
func (t traffic) String() string {
	return fmt.Sprintf("out %d IPv4 and %d IPv6 packets, in %d and %d", t.v4Out, t.v6Out, t.v4In, t.v6In)
}

// tryOut sends UDP and TCP over both families from h to peer and back, and counts what arrives.
func tryOut(ctx context.Context, h, peer host) (traffic, error) {
	mac, err := hardware(h)
	if err != nil {
		return traffic{}, err
	}
	out, err := listen(peer)
	if err != nil {
		return traffic{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	out.run(ctx, mac)
	var in4, in6 atomic.Int64
	var work sync.WaitGroup
	const port = 9009
	for family, count := range map[string]*atomic.Int64{h.v4: &in4, h.v6: &in6} {
		if err := receive(ctx, &work, h, family, port, count); err != nil {
			cancel()
			work.Wait()
			return traffic{}, err
		}
	}
	send(ctx, &work, h, peer.v4, port)
	send(ctx, &work, h, peer.v6, port)
	send(ctx, &work, peer, h.v4, port)
	send(ctx, &work, peer, h.v6, port)
	work.Wait()
	out.done.Wait()
	return traffic{out.v4.Load(), out.v6.Load() + out.other.Load(), in4.Load(), in6.Load()}, nil
}

func receive(ctx context.Context, work *sync.WaitGroup, at host, address string, port int, count *atomic.Int64) error {
	return at.ns.Do(func() error {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(address, fmt.Sprint(port)))
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		work.Go(func() {
			defer stop()
			buffer := make([]byte, 64)
			for {
				if _, _, err := conn.ReadFrom(buffer); err != nil {
					return
				}
				count.Add(1)
			}
		})
		return nil
	})
}

// send tries ten datagrams and connects over a second; a refusal to send is part of being cut.
func send(ctx context.Context, work *sync.WaitGroup, from host, address string, port int) {
	work.Go(func() {
		_ = from.ns.Do(func() error {
			target := net.JoinHostPort(address, fmt.Sprint(port))
			for range 10 {
				if conn, err := net.Dial("udp", target); err == nil {
					_, _ = conn.Write([]byte("knock"))
					_ = conn.Close()
				}
				if conn, err := net.DialTimeout("tcp", target, 50*time.Millisecond); err == nil {
					_ = conn.Close()
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(20 * time.Millisecond):
				}
			}
			return nil
		})
	})
}
