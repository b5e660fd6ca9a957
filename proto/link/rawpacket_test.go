package link_test

import (
	"net"
	"testing"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// Ensure that packets which only an attacker writes, from one who has shaken hands, cost a
// node bounded memory and at most three times the bytes in answers, and no honest sensor
// anything.
func TestFloodWithinConnection(t *testing.T) {
	for name, next := range map[string]func(i uint64) []byte{
		"path challenges": func(uint64) []byte {
			var out []byte
			for range 120 {
				out = append(out, linktest.Frames(0x1a, linktest.Noise(8))...)
			}
			return out
		},
		"connection ids": func(i uint64) []byte {
			var out []byte
			for k := range uint64(20) { // each retires all before it
				n := 1 + 20*i + k
				out = append(out, linktest.Frames(0x18, linktest.Varint(n), linktest.Varint(n), []byte{8}, linktest.Noise(8), linktest.Noise(16))...)
			}
			return out
		},
		"retired ids": func(i uint64) []byte { return linktest.Frames(0x19, linktest.Varint(i)) },
		"pings":       func(uint64) []byte { return []byte{1, 0, 0, 0} },
		"far crypto": func(i uint64) []byte {
			return linktest.Frames(0x06, linktest.Varint(1<<40+i), linktest.Varint(900), linktest.Noise(900))
		},
		"far stream": func(i uint64) []byte {
			return linktest.Frames(0x0e, linktest.Varint(0), linktest.Varint(1<<40), linktest.Varint(900), linktest.Noise(900))
		},
		"holey stream": func(i uint64) []byte {
			return linktest.Frames(0x0e, linktest.Varint(0), linktest.Varint(2*i), linktest.Varint(1), linktest.Noise(1))
		},
		"many streams": func(i uint64) []byte {
			return linktest.Frames(0x0e, linktest.Varint(4*i), linktest.Varint(0), linktest.Varint(1), linktest.Noise(1))
		},
		"far ack": func(i uint64) []byte {
			return linktest.Frames(0x02, linktest.Varint(1<<50), linktest.Varint(0), linktest.Varint(0), linktest.Varint(1<<49))
		},
		"blocked frames": func(i uint64) []byte { return linktest.Frames(0x14, linktest.Varint(i)) },
	} {
		t.Run(name, func(t *testing.T) {
			node := newFloodNode(t)
			attacker := linktest.NewRaw(t, node.Addr().(*net.UDPAddr))
			before := heap()
			var sent int64
			for i := range uint64(floodedPackets) {
				n, err := attacker.Socket.Write(attacker.Packet(next(i)))
				if err != nil {
					continue // an ICMP error of a node that is gone would fail the sensor below
				}
				sent += int64(n)
			}
			if err := honest(t, node); err != nil {
				t.Fatalf("honest sensor: %v", err)
			}
			grown := heap() - before
			t.Logf("%d bytes sent, %d received, heap grown by %d KiB, %v", sent, attacker.Received.Load(), grown>>10, node.Stats().Refused)
			if float64(attacker.Received.Load()) > mostAmplified*float64(sent) {
				t.Errorf("amplified %d bytes to %d", sent, attacker.Received.Load())
			}
			if grown > mostOfOne {
				t.Errorf("heap grew by %d bytes", grown)
			}
		})
	}
}

// floodedPackets of one attacker, and what they may cost the node: its queues of control
// frames are bounded by their number.
const (
	floodedPackets = 3000
	mostOfOne      = 4 << 20
)

// Ensure that the attacker of this file is heard: its packets are what a node accepts.
func TestRawPacketsAreAccepted(t *testing.T) {
	node := newFloodNode(t)
	attacker := linktest.NewRaw(t, node.Addr().(*net.UDPAddr))
	until(t, "the connection", func() bool { return node.Stats().Open == 1 })
	if _, err := attacker.Socket.Write(attacker.Packet(linktest.Frames(0x1d, linktest.Varint(link.CodeOK), linktest.Varint(0)))); err != nil {
		t.Fatal(err)
	}
	until(t, "its end by a hand-made packet", func() bool { return node.Stats().Open == 0 })
}

// Ensure that one who moves to an address which is not its own makes the node send little there.
func TestFloodFromStolenPath(t *testing.T) {
	node := newFloodNode(t)
	attacker := linktest.NewRaw(t, node.Addr().(*net.UDPAddr))
	var sent int64
	for i := range 64 {
		victim, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 78, byte(i+1))}, node.Addr().(*net.UDPAddr))
		if err != nil {
			t.Skipf("SKIP: no loopback address of its own to be had: %v", err)
		}
		t.Cleanup(func() { _ = victim.Close() })
		attacker.Count(victim)
		for range 20 {
			n, err := victim.Write(attacker.Packet(append(linktest.Frames(0x1a, linktest.Noise(8)), 1)))
			if err != nil {
				t.Fatal(err)
			}
			sent += int64(n)
		}
	}
	if err := honest(t, node); err != nil {
		t.Fatalf("honest sensor: %v", err)
	}
	t.Logf("%d bytes sent, %d received", sent, attacker.Received.Load())
	if float64(attacker.Received.Load()) > mostAmplified*float64(sent) {
		t.Errorf("amplified %d bytes to %d", sent, attacker.Received.Load())
	}
}
