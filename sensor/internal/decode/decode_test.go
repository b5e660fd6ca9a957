package decode

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// record is a head of a type with what follows it.
func record(kind, flags uint16, rest ...any) []byte {
	b := make([]byte, headSize)
	order.PutUint16(b, kind)
	order.PutUint16(b[2:], flags)
	for i := 8; i < headSize; i++ {
		b[i] = byte(i)
	}
	for _, v := range rest {
		var err error
		if b, err = binary.Append(b, order, v); err != nil {
			panic(err)
		}
	}
	order.PutUint32(b[4:], uint32(len(b)))
	return b
}

func wantHead() event.Header {
	h := event.Header{
		Time:     0x0f0e0d0c0b0a0908,
		Process:  event.ProcessKey{PID: 0x33323130, Start: 0x1716151413121110},
		Parent:   event.ProcessKey{PID: 0x3b3a3938, Start: 0x1f1e1d1c1b1a1918},
		TID:      0x37363534,
		UID:      0x3f3e3d3c,
		CgroupID: 0x2726252423222120,
		Key:      0x2f2e2d2c2b2a2928,
		NetNS:    0x43424140,
	}
	for i := range h.Comm {
		h.Comm[i] = byte(72 + i)
	}
	return h
}

func execRecord(flags uint16, path, filename, interp, argv string) []byte {
	return record(typeExec, flags,
		[]uint64{1, 2, 3, 4}, []uint32{5, 6, 7, 8, 9, 10, 11, 12}, uint64(13), []uint32{14, 15}, uint64(16),
		[]uint16{uint16(len(argv)), uint16(len(path)), uint16(len(filename)), uint16(len(interp))},
		[]byte(argv+path+filename+interp))
}

func TestExec(t *testing.T) {
	want := func(change func(*event.Exec)) *event.Exec {
		e := &event.Exec{
			Header: wantHead(),
			Image:  event.ImageID{Device: 1, Inode: 2, Change: 3, Size: 4, NLink: 5, MountNS: 6},
			OldTID: 7, RealUID: 8, GID: 9, LoginUID: 10, SessionID: 11, ArgvBytes: 12, Cwd: event.DirectoryID{Inode: 13, Device: 14, Mount: 15}, ArgvHash: 16,
			Path: []byte{}, Filename: []byte{}, Interpreter: []byte{},
		}
		change(e)
		return e
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want *event.Exec
	}{
		"plain": {execRecord(0, "true\x00bin\x00usr\x00", "/bin/true", "", "true\x00\x00\xff\x00"), want(func(e *event.Exec) {
			e.Path, e.Filename = []byte("/usr/bin/true"), []byte("/bin/true")
			e.Argv = [][]byte{[]byte("true"), {}, {0xff}}
		})},
		"script": {execRecord(0, "sh\x00", "./s", "/bin/sh", "/bin/sh\x00./s\x00"), want(func(e *event.Exec) {
			e.Path, e.Filename, e.Interpreter = []byte("/sh"), []byte("./s"), []byte("/bin/sh")
			e.Argv = [][]byte{[]byte("/bin/sh"), []byte("./s")}
		})},
		"truncated": {execRecord(execPathTruncated|execArgvTruncated, "c\x00b\x00", "", "", "a\x00b"), want(func(e *event.Exec) {
			e.Path, e.PathTruncated, e.ArgvTruncated = []byte("b/c"), true, true
			e.Argv = [][]byte{[]byte("a"), []byte("b")}
		})},
		"memfd": {execRecord(execMemoryFD|execSetID, "memfd:x\x00", "/dev/fd/3", "", ""), want(func(e *event.Exec) {
			e.Path, e.Filename, e.Image.MemoryFD, e.SetID = []byte("memfd:x"), []byte("/dev/fd/3"), true, true
		})},
		"nothing": {execRecord(0, "", "", "", ""), want(func(*event.Exec) {})},
	} {
		got, err := Decode(tt.raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(event.Event(tt.want), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

// Ensure that an event keeps nothing of the ring.
func TestExecOwnsItsBytes(t *testing.T) {
	raw := execRecord(0, "true\x00", "name", "interp", "arg\x00")
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] = 'X'
	}
	e := got.(*event.Exec)
	if all := string(e.Path) + string(e.Filename) + string(e.Interpreter) + string(e.Argv[0]); all != "/truenameinterparg" {
		t.Errorf("after the ring was reused: %q", all)
	}
	_ = append(e.Path, "overwritten"...)
	if string(e.Filename) != "name" {
		t.Error("appending to one string writes into the next")
	}
}

func TestForkAndExit(t *testing.T) {
	got, err := Decode(record(typeFork, 0, uint64(77), uint32(78), uint32(0)))
	if diff := cmp.Diff(event.Event(&event.Fork{Header: wantHead(), Child: event.ProcessKey{PID: 78, Start: 77}}), got); err != nil || diff != "" {
		t.Errorf("fork: %v %s", err, diff)
	}
	for status, want := range map[uint32]event.Exit{
		0:        {},
		3 << 8:   {Code: 3},
		9:        {Signal: 9},
		0x80 | 6: {Signal: 6}, // with a core
	} {
		want.Header = wantHead()
		got, err := Decode(record(typeExit, 0, status, uint32(0)))
		if diff := cmp.Diff(event.Event(&want), got); err != nil || diff != "" {
			t.Errorf("exit %#x: %v %s", status, err, diff)
		}
	}
}

// Ensure that segments and sockets are read whole, and refused when they are not.
func TestSegmentAndSocket(t *testing.T) {
	segment := func(length uint16) []byte {
		return record(typeSegment, segmentIngress|segmentLast, uint64(1), uint32(2), []uint16{familyIPv4, length, 4, 53}, uint32(0),
			[16]byte{10, 0, 0, 1}, [16]byte{10, 0, 0, 2}, []byte("abc"))
	}
	got, err := Decode(segment(3))
	want := &Segment{
		Header: wantHead(), Cookie: 1, Position: 2, Ingress: true, Last: true, Data: []byte("abc"),
		Local: netip.MustParseAddrPort("10.0.0.1:4"), Remote: netip.MustParseAddrPort("10.0.0.2:53"),
	}
	if diff := cmp.Diff(event.Event(want), got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("segment: %v %s", err, diff)
	}
	if _, err := Decode(segment(4)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a segment that says more than it has: %v", err)
	}
	got, err = Decode(record(typeSocket, 0, int32(-13), uint32(768), []uint16{17, 3}, uint32(0)))
	if diff := cmp.Diff(event.Event(&event.Socket{Header: wantHead(), Family: 17, Type: 3, Protocol: 768, Errno: 13}), got); err != nil || diff != "" {
		t.Errorf("socket: %v %s", err, diff)
	}
}

func flowRecord(kind, flags, family uint16, local, remote [16]byte) []byte {
	return record(kind, flags, []uint64{1, 2, 3, 4, 5, 6}, []uint16{family, 6, 1000, 53}, local, remote)
}

func TestFlow(t *testing.T) {
	four := [16]byte{192, 0, 2, 1}
	mapped := netip.MustParseAddr("::ffff:192.0.2.1").As16()
	six := netip.MustParseAddr("2001:db8::1").As16()
	for _, tt := range []struct {
		family uint16
		bytes  [16]byte
		want   string
	}{{familyIPv4, four, "192.0.2.1"}, {familyIPv6, mapped, "192.0.2.1"}, {familyIPv6, six, "2001:db8::1"}} {
		got, err := Decode(flowRecord(typeFlowClose, flowInbound, tt.family, tt.bytes, tt.bytes))
		if err != nil {
			t.Fatal(err)
		}
		local := netip.AddrPortFrom(netip.MustParseAddr(tt.want), 1000)
		remote := netip.AddrPortFrom(local.Addr(), 53)
		want := &event.FlowClose{
			Header: wantHead(), Flow: event.FlowID{Cookie: 1, Remote: remote}, Proto: 6, Dir: event.Inbound,
			Local: local, Remote: remote, Opened: 2, BytesIn: 3, BytesOut: 4, PacketsIn: 5, PktsOut: 6,
		}
		if diff := cmp.Diff(event.Event(want), got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
	got, err := Decode(flowRecord(typeFlowOpen, flowFailed, familyIPv4, four, four))
	if open, ok := got.(*event.FlowOpen); err != nil || !ok || !open.Failed || open.Dir != event.Outbound {
		t.Errorf("failed connect: %+v %v", got, err)
	}
	value := append(flowRecord(typeFlowOpen, 0, familyIPv4, four, four), 9, 0, 0, 0, 0, 0, 0, 0)
	closed, last, err := UDPFlow(value, 99)
	if err != nil || last != 9 || closed.Time != 99 || closed.BytesIn != 3 {
		t.Errorf("UDP flow: %+v %d %v", closed, last, err)
	}
}

func dnsRecord(flags uint16, message []byte) []byte {
	return record(typeDNS, flags, []uint16{familyIPv4, uint16(len(message)), 5353, 53}, [16]byte{10, 0, 0, 1}, [16]byte{10, 0, 0, 2}, message)
}

func pack(t testing.TB, m dnsmessage.Message) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func answer(n int) dnsmessage.Message {
	name := dnsmessage.MustNewName("A-b_c.EXAMPLE.")
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, Response: true, RCode: dnsmessage.RCodeNameError},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET}},
	}
	for i := range n {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: uint32(1000 - i)},
			Body:   &dnsmessage.AAAAResource{AAAA: [16]byte{15: byte(i)}},
		})
	}
	return m
}

func TestDNS(t *testing.T) {
	got, err := Decode(dnsRecord(0, pack(t, answer(2))))
	if err != nil {
		t.Fatal(err)
	}
	want := &event.DNS{
		Header: wantHead(), Transport: "udp", Response: true, ID: 7, Name: "a-b_c.example", Type: 28, RCode: 3, TTL: 999 * time.Second,
		Addrs: []netip.Addr{netip.MustParseAddr("::"), netip.MustParseAddr("::1")},
		Local: netip.MustParseAddrPort("10.0.0.1:5353"), Remote: netip.MustParseAddrPort("10.0.0.2:53"),
	}
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(event.Event(want), got, compare, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestDNSBounds(t *testing.T) {
	got, err := Decode(dnsRecord(0, pack(t, answer(200))))
	if e, ok := got.(*event.DNS); err != nil || !ok || len(e.Addrs) != maxAnswers || !e.Truncated {
		t.Errorf("200 answers: %v, %+v", err, got)
	}
	message := pack(t, answer(20))
	got, err = Decode(dnsRecord(dnsCut, message[:len(message)-10]))
	if e, ok := got.(*event.DNS); err != nil || !ok || len(e.Addrs) != 19 || !e.Truncated {
		t.Errorf("cut by us: %v, %+v", err, got)
	}
	if _, err := Decode(dnsRecord(0, message[:len(message)-10])); !errors.Is(err, ErrNotDNS) {
		t.Errorf("broken by the sender: %v", err)
	}
	for _, junk := range []string{"", "x", strings.Repeat("\xff", 40), strings.Repeat("\xc0\x0c", 300)} {
		if _, err := Decode(dnsRecord(0, []byte(junk))); !errors.Is(err, ErrNotDNS) {
			t.Errorf("%.10q: %v", junk, err)
		}
	}
}

func TestPresentName(t *testing.T) {
	for wire, want := range map[string]string{
		"WWW.Example.": "www.example", ".": "", "": "", "a b\\\"\x00\xff.": `a\032b\092\034\000\255`, "no-dot": "no-dot",
	} {
		if got := presentName([]byte(wire)); got != want {
			t.Errorf("presentName(%q) = %q, want %q", wire, got, want)
		}
	}
}

func TestMalformed(t *testing.T) {
	good := [][]byte{
		execRecord(0, "a\x00", "b", "c", "d"), record(typeFork, 0, uint64(1), uint64(2)), record(typeExit, 0, uint64(1)),
		flowRecord(typeFlowOpen, 0, familyIPv4, [16]byte{}, [16]byte{}), dnsRecord(0, pack(t, answer(1))),
	}
	for _, raw := range good {
		if _, err := Decode(raw); err != nil {
			t.Fatalf("type %d: %v", raw[0], err)
		}
		for n := range raw {
			short := append([]byte(nil), raw[:n]...)
			if n >= headSize {
				order.PutUint32(short[4:], uint32(n))
			}
			if _, err := Decode(short); !errors.Is(err, ErrMalformed) {
				t.Errorf("type %d cut to %d of %d bytes: %v", raw[0], n, len(raw), err)
			}
		}
	}
	for name, raw := range map[string][]byte{
		"type 0":   record(0, 0),
		"type 99":  record(99, 0),
		"family":   flowRecord(typeFlowOpen, 0, 7, [16]byte{}, [16]byte{}),
		"too long": append(good[1], 0),
	} {
		if _, err := Decode(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTasks(t *testing.T) {
	raw, err := binary.Append(nil, order, struct {
		A [3]uint64
		B [6]uint32
		C [16]byte
	}{[3]uint64{1, 2, 3}, [6]uint32{4, 5, 6, 7, 1, 0}, [16]byte{'s', 'h'}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Tasks(raw)
	want := []Task{{Key: event.ProcessKey{PID: 4, Start: 1}, Parent: event.ProcessKey{PID: 5, Start: 2}, CgroupID: 3, UID: 6, NetNS: 7, InScope: true, Comm: "sh"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := Tasks(raw[1:]); !errors.Is(err, ErrMalformed) {
		t.Errorf("odd length: %v", err)
	}
}

// FuzzDecode: whatever a record holds, the answer is an event or a known error.
func FuzzDecode(f *testing.F) {
	f.Add(execRecord(0, "true\x00bin\x00", "/bin/true", "/bin/sh", "a\x00b\x00"))
	f.Add(execRecord(15, "", "", "", ""))
	f.Add(record(typeFork, 0, uint64(1), uint64(2)))
	f.Add(record(typeExit, 0, uint64(256)))
	f.Add(flowRecord(typeFlowClose, 1, familyIPv6, [16]byte{}, [16]byte{15: 1}))
	f.Add(dnsRecord(0, pack(f, answer(3))))
	f.Add(dnsRecord(dnsCut, []byte("\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01\xc0\x0c")))
	f.Add(record(typeSegment, segmentLast, uint64(1), uint32(2), []uint16{familyIPv4, 3, 4, 53}, uint32(0), [32]byte{}, []byte("abc")))
	f.Add(record(typeSocket, 0, int32(-1), uint32(3), []uint16{17, 3}, uint32(0)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= headSize {
			order.PutUint32(raw[4:], uint32(len(raw))) // so that more than the length is tried
		}
		e, err := Decode(raw)
		switch {
		case err == nil && e.Head() == nil:
			t.Fatal("an event without a head")
		case err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotDNS):
			t.Fatalf("undocumented error %v", err)
		}
		if x, ok := e.(*event.Exec); ok && err == nil {
			n := len(x.Path) + len(x.Filename) + len(x.Interpreter)
			for _, a := range x.Argv {
				n += len(a)
			}
			if n > len(raw)+1 {
				t.Fatalf("%d bytes of strings from a record of %d", n, len(raw))
			}
		}
	})
}

func BenchmarkExec(b *testing.B) {
	raw := execRecord(0, "true\x00bin\x00usr\x00", "/bin/true", "", "true\x00--version\x00")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
