package decode

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// wire is a query for a name as it is on TCP.
func wire(t testing.TB, name string) []byte {
	t.Helper()
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
}

func segmentAt(position int, data []byte) *Segment {
	return &Segment{
		Header: event.Header{Time: 1, Process: event.ProcessKey{PID: 7}}, Cookie: 1, Position: uint32(position), Data: data,
		Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:53"),
	}
}

// joined are the names that a row of segments told of.
func joined(streams *Streams, segments ...*Segment) (names []string) {
	for _, s := range segments {
		streams.Add(s, func(e event.Event) { names = append(names, e.(*event.DNS).Name) })
	}
	return names
}

// Ensure that messages are found however TCP cuts, repeats and reorders their bytes.
func TestStreamsJoin(t *testing.T) {
	one, two := wire(t, "one.example."), wire(t, "two.example.")
	both := slices.Concat(one, two)
	n := len(one)
	at := func(from, to int) *Segment { return segmentAt(from, both[from:to]) }
	bytewise := make([]*Segment, len(both))
	for i := range both {
		bytewise[i] = at(i, i+1)
	}
	for name, tt := range map[string][]*Segment{
		"a message each":               {at(0, n), at(n, len(both))},
		"both in one":                  {at(0, len(both))},
		"length cut in two":            {at(0, 1), at(1, n+1), at(n+1, len(both))},
		"byte by byte":                 bytewise,
		"length apart, as some send":   {at(0, 2), at(2, n), at(n, n+2), at(n+2, len(both))},
		"backwards":                    {at(n+5, len(both)), at(n-3, n+5), at(4, n-3), at(0, 4)},
		"all twice":                    {at(0, n), at(0, n), at(n, len(both)), at(n, len(both))},
		"repeated with more":           {at(0, 10), at(0, n+4), at(3, len(both))},
		"overlapping, out of order":    {at(5, n+5), at(0, 9), at(n-9, len(both))},
		"nothing between":              {at(0, 0), at(0, n), at(n, n), at(n, len(both))},
		"one within what waits":        {at(8, len(both)), at(10, 12), at(0, 8)},
		"what waits comes twice":       {at(8, 20), at(8, 20), at(0, 8), at(20, len(both))},
		"all byte by byte, reversed 9": slices.Concat(reversed(bytewise[:9]), bytewise[9:]),
	} {
		var streams Streams
		if got := joined(&streams, tt...); !slices.Equal(got, []string{"one.example", "two.example"}) {
			t.Errorf("%s: %q", name, got)
		}
		if streams.Losses != (StreamLosses{}) || streams.bytes != 0 {
			t.Errorf("%s: losses %+v, %d bytes kept", name, streams.Losses, streams.bytes)
		}
	}
}

func reversed(s []*Segment) []*Segment {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

// Ensure that both directions and both ends of a connection are streams of their own,
// and that a message says whose it is.
func TestStreamsApart(t *testing.T) {
	message := wire(t, "x.example.")
	in, other := segmentAt(0, message[:9]), segmentAt(0, message)
	in.Ingress, other.Cookie = true, 2
	var streams Streams
	var got []*event.DNS
	for _, s := range []*Segment{segmentAt(0, message[:5]), in, other, segmentAt(5, message[5:])} {
		streams.Add(s, func(e event.Event) { got = append(got, e.(*event.DNS)) })
	}
	if len(got) != 2 || got[0].Process.PID != 7 || got[1].Transport != "tcp" || got[1].Remote.Port() != 53 || got[1].Type != 1 {
		t.Errorf("got %+v", got)
	}
}

// Ensure that bytes that never come are counted and what follows is read again.
func TestStreamsMissing(t *testing.T) {
	one, two, three := wire(t, "one.example."), wire(t, "two.example."), wire(t, "three.example.")
	var streams Streams
	late := segmentAt(len(one)+len(two), three)
	late.Time += gapPatience
	if got := joined(&streams, segmentAt(0, one[:5]), segmentAt(len(one), two), late); !slices.Equal(got, []string{"two.example", "three.example"}) {
		t.Errorf("after a gap: %q", got)
	}
	if streams.Losses != (StreamLosses{Missing: 1}) {
		t.Errorf("losses %+v", streams.Losses)
	}
}

// Ensure that a message in large pieces behind a gap is read as one.
func TestStreamsMissingBeforeLarge(t *testing.T) {
	one, two := wire(t, "one.example."), wire(t, "two.example.")
	var streams Streams
	late := segmentAt(len(one)+len(two), one)
	late.Time += gapPatience
	got := joined(&streams, segmentAt(len(one), two[:25]), segmentAt(len(one)+25, two[25:]), late)
	if !slices.Equal(got, []string{"two.example", "one.example"}) {
		t.Errorf("after a gap: %q", got)
	}
}

// Ensure that each bound holds and is counted.
func TestStreamsBounds(t *testing.T) {
	message := wire(t, "x.example.")
	half := message[:10]
	t.Run("streams", func(t *testing.T) {
		var streams Streams
		for i := range maxStreams + 3 {
			s := segmentAt(0, half)
			s.Cookie = uint64(i)
			joined(&streams, s)
		}
		if len(streams.by) != maxStreams || streams.Losses != (StreamLosses{Evicted: 3}) || streams.bytes != maxStreams*len(half) {
			t.Errorf("%d streams, %d bytes, losses %+v", len(streams.by), streams.bytes, streams.Losses)
		}
	})
	t.Run("all bytes", func(t *testing.T) {
		var streams Streams
		large := make([]byte, 60000)
		large[0], large[1] = 0xff, 0xff
		for i := range 2 * maxAllBytes / len(large) {
			s := segmentAt(0, large)
			s.Cookie = uint64(i)
			joined(&streams, s)
			if streams.bytes > maxAllBytes {
				t.Fatalf("%d bytes", streams.bytes)
			}
		}
		if streams.Losses.Evicted == 0 {
			t.Error("nothing was counted")
		}
	})
	t.Run("out of order", func(t *testing.T) {
		var streams Streams
		for i := range maxAhead + 1 {
			joined(&streams, segmentAt(100+2*i, []byte{0}))
		}
		if streams.Losses != (StreamLosses{Full: 1}) {
			t.Errorf("losses %+v", streams.Losses)
		}
	})
	t.Run("silence", func(t *testing.T) {
		var streams Streams
		later := segmentAt(0, message)
		later.Cookie, later.Time = 2, 2+streamIdle
		if got := joined(&streams, segmentAt(0, half), later); len(got) != 1 || len(streams.by) != 1 || streams.Losses != (StreamLosses{Cut: 1}) {
			t.Errorf("%q, %d streams, losses %+v", got, len(streams.by), streams.Losses)
		}
	})
	t.Run("end", func(t *testing.T) {
		var streams Streams
		last := segmentAt(0, half)
		last.Last = true
		if joined(&streams, last); len(streams.by) != 0 || streams.Losses != (StreamLosses{Cut: 1}) {
			t.Errorf("%d streams, losses %+v", len(streams.by), streams.Losses)
		}
	})
	t.Run("not DNS", func(t *testing.T) {
		var streams Streams
		if got := joined(&streams, segmentAt(0, []byte("\x00\x05GET /\x00\x02ok"))); got != nil || streams.NotDNS != 2 {
			t.Errorf("%q, %d not DNS", got, streams.NotDNS)
		}
	})
}

// Ensure that any cutting, repeating and local reordering of any messages gives each of
// them once, in order, with nothing lost.
func TestStreamsAnyOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var all []byte
		var want []string
		for i := range rapid.IntRange(1, 20).Draw(r, "messages") {
			name := fmt.Sprintf("m%d.%s.example", i, rapid.StringMatching("[a-z]{0,40}").Draw(r, "name")+"x")
			want = append(want, name)
			all = append(all, wire(t, name+".")...)
		}
		var segments []*Segment
		for at := 0; at < len(all); {
			n := min(rapid.IntRange(1, 60).Draw(r, "size"), len(all)-at)
			back := min(rapid.IntRange(0, 5).Draw(r, "overlap"), at)
			segments = append(segments, segmentAt(at-back, all[at-back:at+n]))
			if rapid.IntRange(0, 4).Draw(r, "again") == 0 {
				segments = append(segments, segmentAt(at, all[at:at+n]))
			}
			at += n
		}
		for i := range segments { // an exchange at most 8 apart, as networks do
			j := min(i+rapid.IntRange(0, 8).Draw(r, "exchange"), len(segments)-1)
			segments[i], segments[j] = segments[j], segments[i]
		}
		var streams Streams
		if got := joined(&streams, segments...); !slices.Equal(got, want) || streams.Losses != (StreamLosses{}) || streams.bytes != 0 {
			r.Fatalf("got %q, want %q; losses %+v, %d bytes", got, want, streams.Losses, streams.bytes)
		}
	})
}

// FuzzStreams: whatever comes, the bounds hold and the count of bytes is right.
func FuzzStreams(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x13\x00\x11\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01"))
	f.Add([]byte("\x00\x00\x10\x00\x05hello\x01\x00\x00\x10\x05\x00\xffabc\x43\xff\x00\x00\x02xy"))
	f.Fuzz(func(t *testing.T, script []byte) {
		var streams Streams
		now := uint64(1)
		for len(script) >= 5 {
			op := script[0]
			s := segmentAt(0, nil)
			s.Cookie, s.Ingress, s.Last = uint64(op&3), op&4 != 0, op&8 != 0
			s.Position = uint32(script[1])<<(op>>4) + uint32(script[2])
			now += uint64(script[3]) << 26
			s.Time = now
			n := min(int(script[4]), len(script)-5)
			s.Data = script[5 : 5+n]
			script = script[5+n:]
			streams.Add(s, func(event.Event) {})
			held := 0
			for el := streams.order.Front(); el != nil; el = el.Next() {
				one := el.Value.(*stream)
				queued := 0
				for _, p := range one.ahead {
					queued += len(p.data)
				}
				if queued != one.queued || one.held() > maxStreamBytes || len(one.ahead) > maxAhead {
					t.Fatalf("a stream holds %d, says %d", queued, one.queued)
				}
				held += one.held()
			}
			if held != streams.bytes || len(streams.by) != streams.order.Len() {
				t.Fatalf("%d bytes held, %d counted", held, streams.bytes)
			}
		}
	})
}
