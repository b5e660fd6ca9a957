package recorder

import (
	"context"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// FuzzSegment reads any bytes as a segment, and a good block behind them: nothing
// in front of it hides it.
func FuzzSegment(f *testing.F) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(decoder.Close)
	record := []byte("\x07\x00\x00\x00\x04last\x00\x00\x00")
	record[0] = byte(len(record) - 4)
	d := newDisk("", Config{})
	h := header{records: 1, raw: uint32(len(record)), opens: true, first: 1 << 40}
	payload := d.encoder.EncodeAll(record, nil)
	good := append(appendHeader(nil, h, payload), payload...)

	f.Add(good) // beside those in testdata/fuzz
	f.Fuzz(func(t *testing.T, data []byte) {
		if end := scan(data, func(header, []byte) bool { return true }); end > len(data) {
			t.Fatalf("ends at %d of %d", end, len(data))
		}
		_, _ = decodeSeal(data)
		last := ""
		r := reader{ctx: context.Background(), decoder: decoder, raw: make([]byte, 0, maxRaw), each: func(r *Record) error {
			last = r.Type
			return nil
		}}
		r.segment(slices.Concat(data, good))
		if r.err != nil || last != "last" {
			t.Fatalf("got %q, %v behind %d bytes", last, r.err, len(data))
		}
	})
}

// FuzzRecords decodes any bytes as the records of a block.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{}) // beside those in testdata/fuzz
	f.Fuzz(func(t *testing.T, raw []byte) {
		var g glossary
		seen := uint32(0)
		n, err := g.records(header{opens: true}, raw, func(r *Record) bool {
			if r.Process != nil && max(len(r.Process.Traits), len(r.Process.Argv)) > maxList {
				t.Fatalf("%d traits, %d arguments", len(r.Process.Traits), len(r.Process.Argv))
			}
			seen++
			return true
		})
		if n != seen || err == nil && n == 0 && len(raw) > 0 {
			t.Fatalf("%d of %d records, %v", n, seen, err)
		}
		if g.bytes > len(raw) {
			t.Fatalf("%d bytes described in %d", g.bytes, len(raw))
		}
	})
}
