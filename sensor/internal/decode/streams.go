package decode

import (
	"container/list"
	"encoding/binary"
	"errors"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Bounds of what is kept of streams. Both ends of a connection are anybody's.
const (
	// maxStreams bounds the streams, two a connection: a resolver keeps a few open to
	// each server that it asks. The one that was silent longest goes first.
	maxStreams = 1024
	// maxStreamBytes is the largest message with its length, and as much again that came
	// before what belongs in front of it.
	maxStreamBytes = 2 * (2 + 1<<16)
	// maxAllBytes bounds all streams together.
	maxAllBytes = 4 << 20
	// maxAhead bounds the pieces that wait in one stream, whatever their size.
	maxAhead = 64
	// maxWindow is the largest distance at which bytes still can belong in front of
	// others: the largest receive window without an operator's doing (tcp_rmem).
	maxWindow = 6 << 20
	// gapPatience is how long bytes that were missed are waited for: a sender repeats
	// them within seconds or gives the connection up.
	gapPatience = uint64(10e9)
	// streamIdle is how long a silent stream is kept (RFC 7766, 6.2.3, asks for seconds).
	streamIdle = uint64(120e9)

	lengthPrefix   = 2
	minMessage     = 12 + 5 // a header and the shortest question
	questionsField = lengthPrefix + 4
)

// StreamLosses counts what was lost of DNS over TCP.
type StreamLosses struct {
	Missing uint64 // times that bytes of a stream never came, so that the messages that they belong to are not known
	Evicted uint64 // streams that were given up for others while a message was incomplete
	Full    uint64 // times that a stream held too much that waited for what belongs in front of it
	Cut     uint64 // streams that ended or fell silent in the middle of a message
}

type streamKey struct {
	cookie  uint64
	ingress bool
}

type piece struct {
	position uint32
	data     []byte
	at       uint64 // when it came
}

type stream struct {
	key    streamKey
	next   uint32  // position of the first byte that has not come
	lost   bool    // where messages begin is not known
	ready  []byte  // of messages, the first of which begins here and is incomplete
	ahead  []piece // that wait for what belongs in front of them, by position
	queued int     // their bytes
	latest uint64
}

func (s *stream) held() int { return len(s.ready) + s.queued }

// Streams joins the segments of DNS over TCP to messages. It is for one goroutine; the
// zero value is ready.
//
// Of bytes that come twice the first are taken, as the kernel does with those that it
// has delivered. Segments are seen before the kernel checks them, so that a forged one
// that it throws away can hide a message here; it then is likely no DNS, which is counted.
type Streams struct {
	Losses StreamLosses
	NotDNS uint64 // messages that could not be read

	by    map[streamKey]*list.Element
	order list.List // silent longest first
	bytes int
}

// Add takes the next segment and hands on each message that it completes.
func (t *Streams) Add(seg *Segment, sink func(event.Event)) {
	t.expire(seg.Time)
	s := t.stream(seg)
	before := s.held()
	t.place(s, seg)
	s.advance(seg.Time, t)
	t.messages(s, seg, sink)
	s.latest = seg.Time
	t.bytes += s.held() - before
	if seg.Last && len(s.ahead) == 0 {
		t.end(s, &t.Losses.Cut)
	}
	for t.bytes > maxAllBytes {
		t.evict()
	}
}

func (t *Streams) stream(seg *Segment) *stream {
	key := streamKey{seg.Cookie, seg.Ingress}
	if el := t.by[key]; el != nil {
		t.order.MoveToBack(el)
		return el.Value.(*stream) //nolint:forcetypeassert // only streams are in it
	}
	if t.by == nil {
		t.by = map[streamKey]*list.Element{}
	}
	if len(t.by) >= maxStreams {
		t.evict()
	}
	s := &stream{key: key}
	if seg.Position != 0 && seg.Position > maxWindow {
		// Older than the sensor: it has begun long ago.
		s.next, s.lost = seg.Position, true
	}
	t.by[key] = t.order.PushBack(s)
	return s
}

func (t *Streams) evict() {
	t.end(t.order.Front().Value.(*stream), &t.Losses.Evicted) //nolint:forcetypeassert // as above
}

// end forgets a stream; what it leaves unfinished is counted.
func (t *Streams) end(s *stream, cause *uint64) {
	if s.held() > 0 {
		*cause++
	}
	t.bytes -= s.held()
	t.order.Remove(t.by[s.key])
	delete(t.by, s.key)
}

func (t *Streams) expire(now uint64) {
	for el := t.order.Front(); el != nil; el = t.order.Front() {
		s := el.Value.(*stream) //nolint:forcetypeassert // as above
		if s.latest+streamIdle > now {
			return
		}
		t.end(s, &t.Losses.Cut)
	}
}

// place puts a segment's bytes where they belong: behind what is ready, or aside.
func (t *Streams) place(s *stream, seg *Segment) {
	data, distance := seg.Data, int32(seg.Position-s.next) //nolint:gosec // modulo 2^32, as TCP counts
	switch {
	case distance < 0:
		repeated := -int(distance)
		if repeated >= len(data) {
			return
		}
		s.take(data[repeated:])
	case distance == 0:
		s.take(data)
	case distance > maxWindow:
		t.Losses.Missing++
		s.restart(seg.Position)
		s.take(data)
	case len(data) > 0:
		if len(s.ahead) >= maxAhead || s.queued+len(data) > maxStreamBytes/2 {
			t.Losses.Full++
			s.restart(s.ahead[0].position)
		}
		s.insert(piece{seg.Position, data, seg.Time})
	}
}

func (s *stream) insert(p piece) {
	at := len(s.ahead)
	for at > 0 && int32(s.ahead[at-1].position-p.position) > 0 { //nolint:gosec // as above
		at--
	}
	s.ahead = append(s.ahead, piece{})
	copy(s.ahead[at+1:], s.ahead[at:])
	s.ahead[at] = p
	s.queued += len(p.data)
}

// take adds bytes to the messages; where they are lost, only bytes that begin one.
func (s *stream) take(data []byte) {
	s.next += uint32(len(data)) //nolint:gosec // a segment has at most 64 KiB
	if s.lost && !beginsMessage(data) {
		return
	}
	s.lost = false
	s.ready = append(s.ready, data...)
}

// restart gives up what is missing before position. Where the next message begins is
// not known then.
func (s *stream) restart(position uint32) {
	s.next, s.lost, s.ready = position, true, nil
}

// advance takes the pieces that now follow, and gives up bytes that were waited for in vain.
func (s *stream) advance(now uint64, t *Streams) {
	for len(s.ahead) > 0 {
		first := s.ahead[0]
		distance := int32(first.position - s.next) //nolint:gosec // modulo 2^32
		if distance > 0 {
			if first.at+gapPatience > now {
				return
			}
			t.Losses.Missing++
			s.restart(first.position)
			distance = 0
		}
		s.ahead = s.ahead[1:]
		s.queued -= len(first.data)
		if repeated := -int(distance); repeated < len(first.data) {
			s.take(first.data[repeated:])
		}
	}
	s.ahead = nil
}

// messages hands on what is complete.
func (t *Streams) messages(s *stream, seg *Segment, sink func(event.Event)) {
	for len(s.ready) >= lengthPrefix {
		length := int(binary.BigEndian.Uint16(s.ready))
		if len(s.ready) < lengthPrefix+length {
			return
		}
		e := &event.DNS{Header: seg.Header, Transport: "tcp", Local: seg.Local, Remote: seg.Remote}
		switch err := parseMessage(e, s.ready[lengthPrefix:lengthPrefix+length], false); {
		case err == nil:
			sink(e)
		case errors.Is(err, ErrNotDNS):
			t.NotDNS++
		}
		s.ready = s.ready[lengthPrefix+length:]
	}
	if len(s.ready) == 0 {
		s.ready = nil
	}
}

// beginsMessage guesses, where bytes were lost, whether a message begins here: they
// mostly begin with a segment, and have one question.
func beginsMessage(b []byte) bool {
	if len(b) < lengthPrefix+minMessage {
		return false
	}
	reserved := b[lengthPrefix+3] & 0x40
	return binary.BigEndian.Uint16(b) >= minMessage && binary.BigEndian.Uint16(b[questionsField:]) == 1 && reserved == 0
}
