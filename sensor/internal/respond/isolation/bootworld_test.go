package isolation

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// world is what a host that really boots has its wire to: it counts each frame that
// leaves the host's adapter, answers who asks where it is, and sends all ways in, the
// whole time. The wire is a stream, so that no frame is lost between adapter and count.
type world struct {
	inward  []inwardFrame
	account atomic.Pointer[flood] // of this boot
	frames  atomic.Uint64
	serving sync.WaitGroup
}

const (
	// maxFrame is more than the adapter makes of anything.
	maxFrame = 1 << 17
	// inwardEvery is how often all ways in are sent. Who does not take them, because it
	// boots, gets those that wait as soon as it can.
	inwardEvery = 2 * time.Millisecond
	// wireBytes is what may wait on the wire: an answer comes behind it.
	wireBytes = 4096
	// answersWaiting is how many answers may wait; who got none asks again.
	answersWaiting = 64
)

// begin opens a boot's account and returns the one before.
func (w *world) begin(phase uint32) (before *flood) {
	f, inward := bootFlood(bootLab())
	f.enter(phase)
	w.inward = inward
	return w.account.Swap(f)
}

// serve is the world until the wire ends, which is closed then.
func (w *world) serve(wire *net.UnixConn) error {
	if err := wire.SetWriteBuffer(wireBytes); err != nil {
		return err
	}
	answers := make(chan []byte, answersWaiting)
	w.serving.Go(func() {
		defer close(answers)
		for {
			frame, err := readFrame(wire)
			if err != nil {
				return
			}
			w.count(frame)
			if a := answer(frame); a != nil {
				select {
				case answers <- a:
				default:
				}
			}
		}
	})
	w.serving.Go(func() {
		defer func() { _ = wire.Close() }()
		tick := time.NewTicker(inwardEvery)
		defer tick.Stop()
		for {
			select {
			case a, ok := <-answers:
				if !ok || writeFrame(wire, a) != nil {
					return
				}
			case <-tick.C:
				if w.sendInward(wire) != nil {
					return
				}
			}
		}
	})
	return nil
}

func (w *world) count(frame []byte) {
	w.frames.Add(1)
	f := w.account.Load()
	if at := bytes.Index(frame, []byte("<Vd")); at >= 0 && len(frame) >= at+markerLength {
		var phase uint32
		var index int
		if n, _ := fmt.Sscanf(string(frame[at:at+markerLength]), "<Vd%d/%d>", &phase, &index); n == 2 && index >= len(f.paths)-len(w.inward) {
			// What came in was answered, by the kernel.
			f.paths[len(f.paths)-len(w.inward)-1].arrived[f.phase.Load()].Add(1)
			return
		}
	}
	f.count("the wire", frame)
}

func (w *world) sendInward(wire net.Conn) error {
	f := w.account.Load()
	first := len(f.paths) - len(w.inward)
	for i, in := range w.inward {
		phase := f.phase.Load()
		if err := writeFrame(wire, in.frame(markerOf(phase, first+i))); err != nil {
			return err
		}
		f.paths[first+i].sent[phase].Add(1)
	}
	return nil
}

// readFrame reads one as the emulator writes it to a stream: after its length.
func readFrame(in io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < 14 || size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	frame := make([]byte, size)
	_, err := io.ReadFull(in, frame)
	return frame, err
}

func writeFrame(out io.Writer, frame []byte) error {
	_, err := out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	return err
}
