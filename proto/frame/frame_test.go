package frame_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func message(version string) *sensorv1.SensorMessage {
	return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: version, Boot: []byte("0123456789abcdef"),
	}}}
}

// Ensure frames come out as they went in, however the stream is cut in pieces.
func TestRoundTrip(t *testing.T) {
	want := []proto.Message{
		message("1"),
		&sensorv1.SensorMessage{},
		message(string(bytes.Repeat([]byte("x"), 300<<10))),
		message("2"),
	}
	var buf bytes.Buffer
	for _, m := range want {
		if err := frame.Write(&buf, m); err != nil {
			t.Fatal(err)
		}
	}
	for name, reader := range map[string]func([]byte) io.Reader{
		"whole":        func(b []byte) io.Reader { return bytes.NewReader(b) },
		"byte by byte": func(b []byte) io.Reader { return iotest.OneByteReader(bytes.NewReader(b)) },
		"data and eof": func(b []byte) io.Reader { return iotest.DataErrReader(bytes.NewReader(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := reader(buf.Bytes())
			for i := range want {
				got := new(sensorv1.SensorMessage)
				if err := frame.Read(r, got); err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if !proto.Equal(got, want[i]) {
					t.Fatalf("frame %d differs", i)
				}
			}
			if err := frame.Read(r, new(sensorv1.SensorMessage)); err != io.EOF {
				t.Fatalf("after the last frame: got %v, want io.EOF", err)
			}
		})
	}
}

// Ensure every kind of bad input has its own error.
func TestReadRefuses(t *testing.T) {
	header := func(n uint32, body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, n), body...)
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want error
	}{
		{"half a header", []byte{0, 0}, frame.ErrTruncated},
		{"header only", header(5, ""), frame.ErrTruncated},
		{"half a body", header(5, "abc"), frame.ErrTruncated},
		{"one byte too many", header(frame.MaxFrame+1, "x"), frame.ErrTooLarge},
		{"as large as can be said", header(1<<32-1, "x"), frame.ErrTooLarge},
		{"not protobuf", header(3, "\xff\xff\xff"), frame.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := frame.Read(bytes.NewReader(tt.in), new(sensorv1.SensorMessage))
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
	failure := errors.New("connection lost")
	err := frame.Read(io.MultiReader(bytes.NewReader(header(9, "abc")), iotest.ErrReader(failure)), new(sensorv1.SensorMessage))
	if !errors.Is(err, failure) || errors.Is(err, frame.ErrTruncated) {
		t.Fatalf("a connection's own error: got %v", err)
	}
}

// Ensure a message that the other side would refuse is not sent in part.
func TestWriteRefusesTooLarge(t *testing.T) {
	var buf bytes.Buffer
	err := frame.Write(&buf, message(string(make([]byte, frame.MaxFrame))))
	if !errors.Is(err, frame.ErrTooLarge) || buf.Len() != 0 {
		t.Fatalf("got %v and %d bytes", err, buf.Len())
	}
}

// Ensure a peer that announces a megabyte and falls silent costs a chunk.
func TestReadAllocatesWhatArrived(t *testing.T) {
	in := binary.BigEndian.AppendUint32(nil, frame.MaxFrame)
	const rounds = 64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		if err := frame.Read(bytes.NewReader(in), new(sensorv1.SensorMessage)); !errors.Is(err, frame.ErrTruncated) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / rounds; got > 32<<10 {
		t.Fatalf("an announced megabyte allocated %d bytes", got)
	}
}

func FuzzRead(f *testing.F) {
	var good bytes.Buffer
	if err := frame.Write(&good, message("seed")); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 9, 1, 2})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			m := new(sensorv1.SensorMessage)
			err := frame.Read(r, m)
			if err == io.EOF {
				return
			}
			if err != nil {
				if !errors.Is(err, frame.ErrTooLarge) && !errors.Is(err, frame.ErrTruncated) && !errors.Is(err, frame.ErrMalformed) {
					t.Fatalf("untyped error: %v", err)
				}
				return
			}
			var again bytes.Buffer
			if err := frame.Write(&again, m); err != nil {
				t.Fatal(err)
			}
		}
	})
}
