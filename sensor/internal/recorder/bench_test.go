package recorder

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// mixed is what a busy host does: events of many processes, most of which were
// described already.
func mixed(n int) (events []event.Event, processes []*event.Process) {
	local, remote := netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:443")
	for i := range n {
		p := process(uint32(i/8) + 2)
		p.Argv = []string{"/usr/bin/prog", "--config", "/etc/prog/config.yaml", "--verbose", p.Image}
		h := event.Header{Time: uint64(i) * 1000, Process: p.Key}
		var ev event.Event = &event.Fork{Header: h, Child: event.ProcessKey{PID: uint32(i), Start: uint64(i)}}
		switch i % 4 {
		case 1:
			ev = &event.Exec{Header: h, Path: []byte(p.Image), Filename: []byte(p.Image), Image: event.ImageID{Inode: uint64(i), Device: 5, Size: 9000}}
		case 2:
			ev = &event.FlowClose{Header: h, Proto: 6, Local: local, Remote: remote, BytesIn: uint64(i)}
		case 3:
			ev = &event.Exit{Header: h, Code: 1}
		}
		events, processes = append(events, ev), append(processes, p)
	}
	return events, processes
}

// BenchmarkRecord is what an event costs its path; the writer's share is below.
func BenchmarkRecord(b *testing.B) {
	events, processes := mixed(4096)
	r := Open(b.TempDir(), Config{})
	defer func() { _ = r.Close() }()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Record(events[i%len(events)], processes[i%len(events)], nil)
		if len(r.full) == queueBlocks-1 {
			b.StopTimer()
			if err := r.flush(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

// BenchmarkRecordAndWrite is the whole cost: encoding, compressing, writing.
func BenchmarkRecordAndWrite(b *testing.B) {
	events, processes := mixed(4096)
	r := Open(b.TempDir(), Config{})
	defer func() { _ = r.Close() }()
	b.ReportAllocs()

	for i := 0; b.Loop(); i++ {
		r.Record(events[i%len(events)], processes[i%len(events)], nil)
		if len(r.full) == queueBlocks-1 {
			if err := r.flush(); err != nil {
				b.Fatal(err)
			}
		}

	}
}

// Ensure the writer lives in 2 MiB, however much it is given.
func TestMemory(t *testing.T) {
	const most = 2 << 20
	events, processes := mixed(50_000)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what finalisers and pools let go
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	r := Open(t.TempDir(), Config{})
	for i := range events {
		r.Record(events[i], processes[i], nil)
		if len(r.full) == queueBlocks-1 {
			if err := r.flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 100_000 { // and with a full queue
		r.Record(events[0], processes[0], nil)
	}
	used := int64(heap()) - int64(before)
	t.Logf("%d KiB", used>>10)
	if used > most {
		t.Errorf("%d bytes, want at most %d", used, most)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(events)
	runtime.KeepAlive(processes)
}
