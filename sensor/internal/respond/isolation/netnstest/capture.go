package netnstest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Capture sees every frame that arrives at one device.
type Capture struct {
	fd int
}

const (
	captureBufferBytes = 16 << 20
	// quiet is how long nothing may arrive before a capture believes that no more
	// comes: veth delivers within microseconds, a busy machine within milliseconds.
	quiet = 60 * time.Millisecond
)

// NewCapture starts to capture.
func NewCapture(t testing.TB, n *Namespace, device string) *Capture {
	t.Helper()
	return NewCaptureOf(t, n, device, unix.ETH_P_ALL)
}

// NewCaptureOf starts to capture what is of one ethertype, on one device or, with "", on
// all.
func NewCaptureOf(t testing.TB, n *Namespace, device string, ethertype uint16) *Capture {
	t.Helper()
	c := &Capture{fd: -1}
	index := 0
	if device != "" {
		index = n.Index(t, device)
	}
	n.Must(t, "opening a capture", func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		c.fd = fd
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBufferBytes)
		// What this side sends is not asked for, and a flood of it would never be quiet.
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: BigEndian16(ethertype), Ifindex: index})
	})
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	return c
}

// Frames are all that arrived since the last call, once the wire is quiet.
func (c *Capture) Frames(t testing.TB) [][]byte {
	t.Helper()
	var frames [][]byte
	buffer := make([]byte, 1<<16)
	for {
		size, _, err := unix.Recvfrom(c.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, int(quiet.Milliseconds()))
			if err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatalf("waiting for frames: %v", err)
			}
			if err == nil && ready == 0 {
				return frames
			}
			continue
		case err != nil:
			t.Fatalf("capturing: %v", err)
		}
		frames = append(frames, bytes.Clone(buffer[:size]))
	}
}

// Each calls fn with each frame that arrives until quit is closed and the wire is
// quiet. fn must not keep the frame.
func (c *Capture) Each(quit <-chan struct{}, fn func(frame []byte)) {
	buffer := make([]byte, 1<<16)
	for {
		size, _, err := unix.Recvfrom(c.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, int(quiet.Milliseconds()))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case <-quit:
				if err == nil && ready == 0 {
					return
				}
			default:
			}
			continue
		case err != nil: // ENETDOWN: the device is gone; a closed descriptor
			if errors.Is(err, unix.ENETDOWN) {
				continue
			}
			return
		}
		fn(buffer[:size])
	}
}

// Count is the number of newly arrived frames that hold marker.
func (c *Capture) Count(t testing.TB, marker []byte) int {
	t.Helper()
	seen := 0
	for _, frame := range c.Frames(t) {
		if bytes.Contains(frame, marker) {
			seen++
		}
	}
	return seen
}

// BigEndian16 is a number in network order, for the kernel's link-layer addresses.
func BigEndian16(v uint16) uint16 { return v<<8 | v>>8 }
