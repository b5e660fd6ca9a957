package kernel

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// BenchmarkCutPacket prints what the programs take for a packet: idle, beside a program
// that does nothing at the same hook, and when they drop it.
func BenchmarkCutPacket(b *testing.B) {
	if !versionAtLeast(6, 6) {
		b.Skip("SKIP: needs tcx (6.6)")
	}
	l := newCutLab(b)
	null := returns(b, ebpf.SchedCLS, -1)
	l.host.Must(b, "attaching a program that does nothing", func() error {
		beside, err := link.AttachTCX(link.TCXOptions{Interface: l.index, Program: null, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			b.Cleanup(func() { _ = beside.Close() })
		}
		return err
	})
	program := l.cut.collection.Programs[bpf.CutProgCutOut]
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	each := func(p *ebpf.Program, do func()) float64 {
		before, err := p.Stats()
		if err != nil {
			b.Fatal(err)
		}
		do()
		after, err := p.Stats()
		if err != nil {
			b.Fatal(err)
		}
		return float64((after.Runtime - before.Runtime).Nanoseconds()) / float64(after.RunCount-before.RunCount)
	}
	flood := func() {
		l.host.Must(b, "sending", func() error {
			for range max(b.N, 200_000) {
				_, _ = l.socket.Write([]byte("x"))
			}
			return nil
		})
	}
	var none float64
	idle := each(program, func() { none = each(null, flood) })
	b.ReportMetric(idle, "kernel-ns/idle")
	b.ReportMetric(none, "kernel-ns/null")
	l.cut.Set(CutAll)
	b.ReportMetric(each(program, flood), "kernel-ns/coordinator")
	l.cut.beNobody()
	b.ReportMetric(each(program, func() {
		l.host.Must(b, "sending", func() error {
			for range max(b.N, 20_000) {
				_ = l.sender.Send(l.index, 0x88b5, netnstest.Ether(l.peerMAC, l.hostMAC, 0x88b5, []byte("x")))
			}
			return nil
		})
	}), "kernel-ns/drop")
	l.cut.Set(CutNone)
	// The same without the two clock readings that the account is made of.
	frame := netnstest.Ether(l.peerMAC, l.hostMAC, unix.ETH_P_IP, datagram4(peer4, 4444, 53, netnstest.Options{})([]byte("x")))
	for name, p := range map[string]*ebpf.Program{"run-ns/idle": program, "run-ns/null": null} {
		_, took, err := p.Benchmark(frame, 1_000_000, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(took.Nanoseconds()), name)
	}
}

// BenchmarkSniffPacket prints what judging a packet before packet sockets takes beside the
// same at tc, by the kernel's test runs, and what a program takes that does nothing.
func BenchmarkSniffPacket(b *testing.B) {
	l := newCutLab(b)
	shut := netnstest.Ether(l.hostMAC, l.peerMAC, unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, peer4, host4, netnstest.UDP(53, 4444, []byte("x")), netnstest.Options{}))
	open := netnstest.Ether(l.hostMAC, l.peerMAC, unix.ETH_P_IP, netnstest.IP4(unix.IPPROTO_UDP, peer4, host4, netnstest.UDP(cutNodePort, 4444, []byte("x")), netnstest.Options{}))
	run := func(name string, p *ebpf.Program, frame []byte) {
		_, took, err := p.Benchmark(frame, 1_000_000, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(took.Nanoseconds()), "run-ns/"+name)
	}
	run("null", returns(b, ebpf.XDP, xdpPasses), shut)
	l.cut.Set(CutAll)
	for _, name := range []string{bpf.CutProgCutSniff, bpf.CutProgCutIn} {
		run(name+"-drop", l.cut.collection.Programs[name], shut)
		run(name+"-coordinator", l.cut.collection.Programs[name], open)
	}
}

// BenchmarkCutSet prints what the store of the word takes.
func BenchmarkCutSet(b *testing.B) {
	host := netnstest.New(b)
	cut := openCut(b, host)
	for b.Loop() {
		cut.Set(CutNone)
	}
}

// lastPacket sees, in the kernel and on its clock, the last packet that arrives.
type lastPacket struct {
	page []byte
	time *uint64 // CLOCK_BOOTTIME, ns
	n    *uint64
}

func watchLastPacket(b *testing.B, l *cutLab) *lastPacket {
	b.Helper()
	const mappable = 1 << 10 // BPF_F_MMAPABLE
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1, Flags: mappable})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.Close() })
	const (
		drop, next  = 2, -1
		skbProtocol = 16 // offsetof(struct __sk_buff, protocol)
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "last_packet", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		// IPv4 alone: what asks for neighbours and routers stays open.
		asm.LoadMem(asm.R2, asm.R1, skbProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, int32(netnstest.BigEndian16(unix.ETH_P_IP)), "next"),
		asm.FnKtimeGetBootNs.Call(),
		asm.LoadMapValue(asm.R1, m.FD(), 0),
		asm.StoreMem(asm.R1, 0, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R2, 1),
		asm.Add.Imm(asm.R1, 8),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, drop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("next"),
		asm.Return(),
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	index := l.peer.Index(b, netnstest.PeerDevice)
	l.peer.Must(b, "watching for packets", func() error {
		at, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			b.Cleanup(func() { _ = at.Close() })
		}
		return err
	})
	page, err := unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Munmap(page) })
	return &lastPacket{page: page, time: (*uint64)(unsafe.Pointer(&page[0])), n: (*uint64)(unsafe.Pointer(&page[8]))}
}

// quiet waits until no packet has come for a while, and returns when the last one did.
func (p *lastPacket) quiet(b *testing.B) uint64 {
	b.Helper()
	const silence = 5 * time.Millisecond
	seen, since := atomic.LoadUint64(p.n), time.Now()
	await(b, "packets to end", func() bool {
		if n := atomic.LoadUint64(p.n); n != seen {
			seen, since = n, time.Now()
		}
		return time.Since(since) > silence
	})
	return atomic.LoadUint64(p.time)
}

// BenchmarkCutLatency prints how long it takes from an exec, by the kernel's own time of
// it, to the last packet that leaves: through the sensor's programs, their ring and its
// reader, which here sets the word at once; no rule is asked. A process of the host sends
// as fast as it can meanwhile. Where that had no processor when the word was stored, the
// store counts, so that the figure is never too good. Null: how long a goroutine takes to
// run that waits for another process's word, in the same rounds: what the machine's
// scheduler adds to anything.
func BenchmarkCutLatency(b *testing.B) {
	if !versionAtLeast(6, 6) {
		b.Skip("SKIP: needs tcx (6.6)")
	}
	for _, kind := range []struct {
		name         string
		rounds       int
		prompt, busy bool
	}{{"prompt", 200, true, false}, {"clock", 200, false, false}, {"prompt-busy", 100, true, true}} {
		b.Run(kind.name, func(b *testing.B) {
			var cut, null []float64
			passed := 0
			cutLatency(b, max(b.N, kind.rounds), kind.prompt, kind.busy, func(last, stored, woken time.Duration) {
				cut = append(cut, float64(max(last, stored).Nanoseconds())/1e6)
				null = append(null, float64(woken.Nanoseconds())/1e6)
				if last > 0 {
					passed++
				}
			})
			for name, values := range map[string][]float64{"cut": cut, "null": null} {
				slices.Sort(values)
				b.ReportMetric(percentile(values, 50), "ms/"+name+"-p50")
				b.ReportMetric(percentile(values, 99), "ms/"+name+"-p99")
				b.ReportMetric(values[len(values)-1], "ms/"+name+"-max")
			}
			b.ReportMetric(float64(len(cut)), "rounds")
			b.ReportMetric(float64(passed), "rounds/with-a-packet")
		})
	}
}

func percentile(sorted []float64, p float64) float64 {
	return sorted[max(0, int(math.Ceil(p/100*float64(len(sorted))))-1)]
}

// waker is the null control: another process that writes what time it is.
type waker struct {
	ask  io.Writer
	took chan time.Duration
}

func newWaker(b *testing.B) *waker {
	b.Helper()
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=tell-time")
	ask, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	read, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	w := &waker{ask: ask, took: make(chan time.Duration)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for at := make([]byte, 8); ; {
			if _, err := io.ReadFull(read, at); err != nil {
				return
			}
			now, _ := bootTime()
			w.took <- time.Duration(now - binary.NativeEndian.Uint64(at))
		}
	}()
	b.Cleanup(func() { _ = ask.Close(); <-ended; _ = child.Wait() })
	return w
}

func (w *waker) wake(b *testing.B) time.Duration {
	b.Helper()
	if _, err := w.ask.Write([]byte{0}); err != nil {
		b.Fatal(err)
	}
	return <-w.took
}

// tellTime is a role: the time, for each byte that comes.
func tellTime() int {
	for one := make([]byte, 1); ; {
		if _, err := os.Stdin.Read(one); err != nil {
			return 0
		}
		now, err := bootTime()
		if err == nil {
			_, err = os.Stdout.Write(binary.NativeEndian.AppendUint64(nil, now))
		}
		if err != nil {
			return 1
		}
	}
}

// cutLatency tells, of each round, how long after the exec the last packet arrived and
// the word was stored, and how long a wake-up took that has nothing to do with it.
func cutLatency(b *testing.B, rounds int, prompt, busy bool, tell func(last, stored, woken time.Duration)) {
	if err := GoBeforeOthers(); err != nil { // as the sensor does
		b.Fatal(err)
	}
	l := newCutLab(b)
	packets := watchLastPacket(b, l)
	source, err := Open(Config{Scope: Scope{Kind: ScopeNetNS, Path: l.host.Path()}, Prompt: prompt})
	if err != nil {
		b.Fatal(err)
	}
	type verdict struct{ event, stored uint64 }
	verdicts := make(chan verdict, 1)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() {
		done <- source.Run(ctx, func(e event.Event) {
			if exec, ok := e.(*event.Exec); ok && strings.HasSuffix(string(exec.Path), "/true") {
				l.cut.Set(CutAll)
				stored, _ := bootTime()
				verdicts <- verdict{exec.Time, stored}
			}
		})
	}()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		if err := source.Close(); err != nil {
			b.Error(err)
		}
	})
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), "VEDETTE_TEST_ROLE=udp-flood", "VEDETTE_TEST_PEER="+netnstest.PeerIP4+":9")
	b.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	l.host.Must(b, "starting a sender", child.Start)
	// Not by this process, which has the reader to run.
	shell := exec.Command("sh", "-c", "while read line; do /bin/true; done")
	attacker, err := shell.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	l.host.Must(b, "starting a shell", shell.Start)
	b.Cleanup(func() { _ = attacker.Close(); _ = shell.Wait() })
	if busy {
		loop := exec.Command("sh", "-c", "while :; do /bin/false; sleep 0.02; done")
		l.host.Must(b, "starting a loop", loop.Start)
		b.Cleanup(func() { _ = loop.Process.Kill(); _ = loop.Wait() })
	}
	control := newWaker(b)
	asleep := func() bool { return busy || atomic.LoadUint64(source.poll.until) == 0 }
	for range rounds {
		l.cut.Set(CutNone)
		began := atomic.LoadUint64(packets.n)
		await(b, "the sender to send", func() bool { return atomic.LoadUint64(packets.n) > began+100 })
		// The reader looks once more after its first sleep.
		since := time.Now()
		await(b, "the reader to sleep", func() bool {
			if !asleep() {
				since = time.Now()
			}
			return busy || time.Since(since) > 2*busyTick
		})
		woken := control.wake(b)
		if _, err := io.WriteString(attacker, "\n"); err != nil {
			b.Fatal(err)
		}
		select {
		case v := <-verdicts:
			last := packets.quiet(b)
			// Earlier than the exec: the sender had no processor from there on.
			tell(time.Duration(max(int64(last-v.event), 0)), time.Duration(v.stored-v.event), woken)
		case <-time.After(slow.Deadline(5 * time.Second)):
			b.Fatalf("the exec was not told: %v", source.Losses())
		}
	}
}
