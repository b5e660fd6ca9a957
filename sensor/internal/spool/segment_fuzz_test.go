package spool

import (
	"bytes"
	"testing"
)

func FuzzScan(f *testing.F) {
	seg := encodeHeader(segmentHeader{class: bulk, ordinal: 1, firstIndex: 7})
	for i := range uint64(3) {
		seg = append(seg, encodeRecord(10+i, 7+i, bytes.Repeat([]byte{byte(i)}, 20))...)
	}
	f.Add(seg)
	f.Add(seg[:len(seg)-5])
	f.Add(append(bytes.Clone(seg), recordMagic...))
	f.Add(append(bytes.Clone(seg), encodeRecord(3, 10, []byte("an earlier sequence"))...))
	f.Add(append(bytes.Clone(seg), encodeRecord(30, 2, []byte("an earlier index"))...))
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = decodeHeader(data)
		s := scan(data, 7)
		last := uint64(0)
		for _, e := range s.entries {
			sequence, _, payload, err := decodeRecord(data[e.offset:])
			if err != nil || sequence != e.sequence || len(payload) != int(e.size) || sequence <= last {
				t.Fatalf("entry %+v: sequence %d, %v", e, sequence, err)
			}
			last = sequence
		}
		damaged := uint64(0)
		for _, g := range s.gaps {
			damaged += g.To - g.From
		}
		if s.end > int64(len(data)) || s.nextIndex != 7+uint64(len(s.entries))+damaged {
			t.Fatalf("%+v of %d bytes", s, len(data))
		}
	})
}

func FuzzMeta(f *testing.F) {
	good, err := encodeMeta(meta{KernelBoot: "x", Current: 1, Streams: []streamMeta{{Ordinal: 1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeMeta(data); err == nil && m.Version != metaVersion {
			t.Fatalf("%+v", m)
		}
	})
}

// Ensure acknowledged records that are damaged are not called lost.
func TestGapLost(t *testing.T) {
	for _, tt := range []struct {
		gap   gap
		acked uint64
		want  uint64
	}{
		{gap{span: span{0, 3}, after: 10, before: 14}, 0, 3},
		{gap{span: span{0, 3}, after: 10, before: 20}, 0, 3},
		{gap{span: span{0, 3}, after: 10, before: 14}, 13, 0},
		{gap{span: span{0, 3}, after: 10, before: 14}, 50, 0},
		{gap{span: span{0, 3}, after: 10, before: 14}, 12, 1},
		{gap{span: span{0, 1}, after: 10, before: 12}, 11, 0},
	} {
		if got := tt.gap.lost(tt.gap.without(nil), tt.acked); got != tt.want {
			t.Errorf("%+v at %d: got %d, want %d", tt.gap, tt.acked, got, tt.want)
		}
	}
}

func TestSpans(t *testing.T) {
	var spans []span
	for _, s := range []span{{5, 7}, {1, 2}, {6, 9}, {2, 3}, {20, 21}} {
		spans = addSpan(spans, s)
	}
	for _, tt := range []struct {
		span span
		want uint64
	}{{span{0, 30}, 23}, {span{5, 9}, 0}, {span{3, 5}, 2}, {span{8, 10}, 1}, {span{20, 22}, 1}} {
		if got := tt.span.without(spans); got != tt.want {
			t.Errorf("%v without %v: got %d, want %d", tt.span, spans, got, tt.want)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	for _, c := range []class{bulk, critical} {
		name := segmentName(3, c, 9)
		ordinal, class, first, ok := parseSegmentName(name)
		if !ok || ordinal != 3 || class != c || first != 9 {
			t.Errorf("%s: %d %v %d %v", name, ordinal, class, first, ok)
		}
	}
	for _, bad := range []string{"", "position", "x.seg", "00000003-d-0000000000000009.seg", "3-b-9.seg"} {
		if _, _, _, ok := parseSegmentName(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}
