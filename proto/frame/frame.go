// Package frame puts one protobuf message after another on a byte stream: a
// big-endian u32 length, then that many bytes of body.
//
// Invariant: whatever a peer sends, Read allocates no more than it received
// (rounded up to a chunk) and never more than MaxFrame, and every way to be
// wrong has its own error.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// ProtocolVersion is what Hello, Welcome and EnrollRequest carry. A peer with
// another one is refused before anything else of its message is believed.
const ProtocolVersion = 1

// MaxFrame is the largest body in bytes.
const MaxFrame = 1 << 20

const (
	headerSize = 4
	// chunk bounds what a declared, not yet received length makes us allocate:
	// thousands of peers may each declare a megabyte and then fall silent.
	chunk = 16 << 10
)

var (
	// ErrTooLarge: the body is larger than MaxFrame. The stream is not usable any more.
	ErrTooLarge = errors.New("frame too large")
	// ErrTruncated: the stream ended inside a frame.
	ErrTruncated = errors.New("frame truncated")
	// ErrMalformed: the body is not the message it should be.
	ErrMalformed = errors.New("frame malformed")
)

// Write sends m as one frame in one call of w.Write. It writes nothing when m
// is too large.
func Write(w io.Writer, m proto.Message) error {
	size := proto.Size(m)
	if size > MaxFrame {
		return fmt.Errorf("%w: %s of %d bytes, at most %d are allowed", ErrTooLarge, m.ProtoReflect().Descriptor().Name(), size, MaxFrame)
	}
	buf := make([]byte, headerSize, headerSize+size)
	buf, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, m)
	if err != nil {
		return fmt.Errorf("encoding frame: %w", err)
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-headerSize))
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("writing frame: %w", err)
	}
	return nil
}

// Read fills m with the next frame. It returns io.EOF, unwrapped, when the
// stream ended between two frames; a connection's own error is wrapped.
func Read(r io.Reader, m proto.Message) error {
	size, err := Await(r)
	if err != nil {
		return err
	}
	return ReadBody(r, size, m)
}

// Await is the first half of Read: it returns the size of the next frame's body, which is
// for ReadBody to judge. What lies on the stack while it waits is little: a node has ten
// thousand goroutines that wait, and need a large stack only for what comes then.
func Await(r io.Reader) (size uint32, err error) {
	header := make([]byte, headerSize)
	for got := 0; got < headerSize; {
		n, err := r.Read(header[got:])
		if got += n; got < headerSize && err != nil {
			return 0, headerError(err, got)
		}
	}
	return binary.BigEndian.Uint32(header), nil
}

//go:noinline
func headerError(err error, got int) error {
	if got == 0 && errors.Is(err, io.EOF) {
		return io.EOF
	}
	return readError(err, got, headerSize)
}

// ReadBody is the second half of Read.
func ReadBody(r io.Reader, size uint32, m proto.Message) error {
	if size > MaxFrame {
		return fmt.Errorf("%w: %d bytes announced, at most %d are allowed", ErrTooLarge, size, MaxFrame)
	}
	body, err := readBody(r, int(size))
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return fmt.Errorf("%w: not a %s: %w", ErrMalformed, m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

func readBody(r io.Reader, size int) ([]byte, error) {
	body := make([]byte, 0, min(size, chunk))
	for len(body) < size {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(size, 4*cap(body))), body...)
		}
		n, err := io.ReadFull(r, body[len(body):min(size, cap(body))])
		body = body[:len(body)+n]
		if err != nil {
			return nil, readError(err, len(body), size)
		}
	}
	return body, nil
}

func readError(err error, got, want int) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %d of %d bytes", ErrTruncated, got, want)
	}
	return fmt.Errorf("reading frame: %w", err)
}
