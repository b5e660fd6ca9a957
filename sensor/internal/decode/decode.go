// Package decode turns the bytes that the programs in package bpf wrote into
// events. It is pure: no I/O and no clock; the only state is that of Streams, which
// joins segments to DNS messages.
//
// Invariant: whatever the bytes are, the answer is an event or ErrMalformed, and
// an event keeps none of the bytes: the ring that they lie in is reused.
package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// ErrMalformed: the bytes are not a record of this version of the programs.
var ErrMalformed = errors.New("malformed kernel record")

// enum event_type of bpf/include/event.h.
const (
	typeExec      = 1
	typeFork      = 2
	typeExit      = 3
	typeFlowOpen  = 4
	typeFlowClose = 5
	typeDNS       = 6
	typeProcess   = 7
	typeSegment   = 10
	typeSocket    = 11
	typePrivilege = 9
)

// Sizes and offsets of bpf/include/event.h; a test compares them with its BTF.
const (
	headSize = 88
	execSize = headSize + 96
	forkSize = headSize + 16
	exitSize = headSize + 8
	flowSize = headSize + 88
	dnsSize  = headSize + 40
	taskSize = 64

	introductionSize = headSize + 16
	segmentSize      = headSize + 56
	socketSize       = headSize + 16
)

// Flags of a head, by type.
const (
	execPathTruncated = 1
	execArgvTruncated = 2
	execMemoryFD      = 4
	execSetID         = 8

	flowInbound  = 1
	flowFailed   = 2
	flowKnown    = 8
	flowTainted  = 16
	flowAccepted = 32

	dnsIngress = 1
	dnsCut     = 2
	dnsKnown   = 4

	segmentIngress = 1
	segmentLast    = 2

	socketAsked = 1
)

const (
	familyIPv4 = 2
	familyIPv6 = 10
	// maxArguments bounds what one record may become: 4 KiB hold at most so many.
	maxArguments = 4096
)

var order = binary.LittleEndian // the only byte order that the object is built for

// Decode reads one record.
func Decode(raw []byte) (event.Event, error) {
	if len(raw) < headSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	if size := order.Uint32(raw[4:]); uint64(size) != uint64(len(raw)) {
		return nil, fmt.Errorf("%w: says %d bytes, has %d", ErrMalformed, size, len(raw))
	}
	kind := order.Uint16(raw)
	switch kind {
	case typeExec:
		return decodeExec(raw)
	case typeFork:
		return decodeFork(raw)
	case typeExit:
		return decodeExit(raw)
	case typeFlowOpen, typeFlowClose:
		return decodeFlow(raw, kind)
	case typeDNS:
		return decodeDNS(raw)
	case typeProcess:
		return decodeIntroduction(raw)
	case typeSegment:
		return decodeSegment(raw)
	case typeSocket:
		return decodeSocket(raw)
	case typeFile:
		return decodeFile(raw)
	case typePrivilege:
		return decodePrivilege(raw)
	default:
		return nil, fmt.Errorf("%w: type %d", ErrMalformed, kind)
	}
}

func head(raw []byte, h *event.Header) (flags uint16) {
	h.Time = order.Uint64(raw[8:])
	h.Process.Start = order.Uint64(raw[16:])
	h.Parent.Start = order.Uint64(raw[24:])
	h.CgroupID = order.Uint64(raw[32:])
	h.Key = order.Uint64(raw[40:])
	h.Process.PID = order.Uint32(raw[48:])
	h.TID = order.Uint32(raw[52:])
	h.Parent.PID = order.Uint32(raw[56:])
	h.UID = order.Uint32(raw[60:])
	h.NetNS = order.Uint32(raw[64:])
	copy(h.Comm[:], raw[72:88])
	return order.Uint16(raw[2:])
}

func decodeExec(raw []byte) (event.Event, error) {
	if len(raw) < execSize {
		return nil, fmt.Errorf("%w: exec of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Exec)
	flags := head(raw, &e.Header)
	b := raw[headSize:]
	e.Image = event.ImageID{
		Device:   order.Uint64(b[0:]),
		Inode:    order.Uint64(b[8:]),
		Change:   order.Uint64(b[16:]),
		Size:     order.Uint64(b[24:]),
		NLink:    order.Uint32(b[32:]),
		MountNS:  order.Uint32(b[36:]),
		MemoryFD: flags&execMemoryFD != 0,
	}
	e.OldTID = order.Uint32(b[40:])
	e.RealUID = order.Uint32(b[44:])
	e.GID = order.Uint32(b[48:])
	e.LoginUID = order.Uint32(b[52:])
	e.SessionID = order.Uint32(b[56:])
	e.ArgvBytes = order.Uint32(b[60:])
	e.Cwd = event.DirectoryID{Inode: order.Uint64(b[64:]), Device: order.Uint32(b[72:]), Mount: order.Uint32(b[76:])}
	e.ArgvHash = order.Uint64(b[80:])
	argvLen, pathLen := int(order.Uint16(b[88:])), int(order.Uint16(b[90:]))
	nameLen, interpLen := int(order.Uint16(b[92:])), int(order.Uint16(b[94:]))
	tail := raw[execSize:]
	if argvLen+pathLen+nameLen+interpLen != len(tail) {
		return nil, fmt.Errorf("%w: exec says %d+%d+%d+%d bytes, has %d", ErrMalformed, argvLen, pathLen, nameLen, interpLen, len(tail))
	}
	e.PathTruncated = flags&execPathTruncated != 0
	e.ArgvTruncated = flags&execArgvTruncated != 0
	e.SetID = flags&execSetID != 0

	// One allocation holds all the strings.
	own := make([]byte, 0, len(tail)+1)
	argv := tail[:argvLen]
	tail = tail[argvLen:]
	own = appendPath(own, tail[:pathLen], e.PathTruncated || e.Image.MemoryFD)
	e.Path = own[:len(own):len(own)]
	tail = tail[pathLen:]
	cut := func(n int) []byte {
		from := len(own)
		own = append(own, tail[:n]...)
		tail = tail[n:]
		return own[from:len(own):len(own)]
	}
	e.Filename = cut(nameLen)
	e.Interpreter = cut(interpLen)
	tail = argv
	e.Argv = splitArgv(cut(argvLen))
	return e, nil
}

// appendPath turns round the components, which come from the file upward and each
// ended by NUL. A path whose beginning is unknown has no leading slash.
func appendPath(out, components []byte, relative bool) []byte {
	if len(components) == 0 {
		return out
	}
	components = bytes.TrimSuffix(components, []byte{0})
	for first := true; ; first = false {
		at := bytes.LastIndexByte(components, 0)
		if !first || !relative {
			out = append(out, '/')
		}
		out = append(out, components[at+1:]...)
		if at < 0 {
			return out
		}
		components = components[:at]
	}
}

func splitArgv(argv []byte) [][]byte {
	if len(argv) == 0 {
		return nil
	}
	argv = bytes.TrimSuffix(argv, []byte{0})
	out := make([][]byte, 0, min(bytes.Count(argv, []byte{0})+1, maxArguments))
	for len(out) < maxArguments {
		at := bytes.IndexByte(argv, 0)
		if at < 0 {
			return append(out, argv)
		}
		out = append(out, argv[:at:at])
		argv = argv[at+1:]
	}
	return out
}

func decodeFork(raw []byte) (event.Event, error) {
	if len(raw) != forkSize {
		return nil, fmt.Errorf("%w: fork of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Fork)
	head(raw, &e.Header)
	e.Child = event.ProcessKey{Start: order.Uint64(raw[headSize:]), PID: order.Uint32(raw[headSize+8:])}
	return e, nil
}

func decodeIntroduction(raw []byte) (event.Event, error) {
	if len(raw) != introductionSize {
		return nil, fmt.Errorf("%w: introduction of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Introduction)
	head(raw, &e.Header)
	e.ExecKey = order.Uint64(raw[headSize:])
	e.ExecTime = order.Uint64(raw[headSize+8:])
	return e, nil
}

func decodeExit(raw []byte) (event.Event, error) {
	if len(raw) != exitSize {
		return nil, fmt.Errorf("%w: exit of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.Exit)
	head(raw, &e.Header)
	status := order.Uint32(raw[headSize:]) // as wait(2) gives it
	e.Code = int32(status >> 8 & 0xff)
	e.Signal = int32(status & 0x7f)
	return e, nil
}

// flow is what is read of struct event_flow for either event.
type flow struct {
	event.FlowClose
	failed, accepted bool
}

func readFlow(raw []byte) (f flow, err error) {
	flags := head(raw, &f.Header)
	b := raw[headSize:]
	f.Flow.Cookie = order.Uint64(b[0:])
	f.Opened = order.Uint64(b[8:])
	f.BytesIn = order.Uint64(b[16:])
	f.BytesOut = order.Uint64(b[24:])
	f.PacketsIn = order.Uint64(b[32:])
	f.PktsOut = order.Uint64(b[40:])
	family := order.Uint16(b[48:])
	protocol := order.Uint16(b[50:])
	if protocol > 0xff {
		return f, fmt.Errorf("%w: protocol %d", ErrMalformed, protocol)
	}
	f.Proto = uint8(protocol)
	local, okLocal := address(family, b[56:72], order.Uint16(b[52:]))
	remote, okRemote := address(family, b[72:88], order.Uint16(b[54:]))
	if !okLocal || !okRemote {
		return f, fmt.Errorf("%w: address family %d", ErrMalformed, family)
	}
	f.Local, f.Remote, f.Flow.Remote = local, remote, remote
	if flags&flowInbound != 0 {
		f.Dir = event.Inbound
	}
	f.failed = flags&flowFailed != 0
	f.accepted = flags&flowAccepted != 0
	f.Known = flags&flowKnown != 0
	f.Tainted = flags&flowTainted != 0
	return f, nil
}

func decodeFlow(raw []byte, kind uint16) (event.Event, error) {
	if len(raw) != flowSize {
		return nil, fmt.Errorf("%w: flow of %d bytes", ErrMalformed, len(raw))
	}
	f, err := readFlow(raw)
	if err != nil {
		return nil, err
	}
	if kind == typeFlowClose {
		return &f.FlowClose, nil
	}
	return &event.FlowOpen{
		Header:   f.Header,
		Flow:     f.Flow,
		Proto:    f.Proto,
		Dir:      f.Dir,
		Local:    f.Local,
		Remote:   f.Remote,
		Failed:   f.failed,
		Accepted: f.accepted,

		Tainted: f.Tainted,
	}, nil
}

// UDPFlow reads a value of the table of UDP flows as the flow's end at time end,
// and says when its latest datagram was.
func UDPFlow(value []byte, end uint64) (closed *event.FlowClose, last uint64, err error) {
	if len(value) != flowSize+8 {
		return nil, 0, fmt.Errorf("%w: UDP flow of %d bytes", ErrMalformed, len(value))
	}
	f, err := readFlow(value[:flowSize])
	if err != nil {
		return nil, 0, err
	}
	f.Time = end
	return &f.FlowClose, order.Uint64(value[flowSize:]), nil
}

// address makes IPv4 of IPv4-mapped IPv6, because that is what is on the wire.
func address(family uint16, b []byte, port uint16) (netip.AddrPort, bool) {
	switch family {
	case familyIPv4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), port), true
	case familyIPv6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), port), true
	default:
		return netip.AddrPort{}, false
	}
}

// Task is one record of the task iterator.
type Task struct {
	Key, Parent event.ProcessKey
	UID         uint32
	CgroupID    uint64
	NetNS       uint32
	Comm        string
	InScope     bool
}

// Tasks reads the whole output of the task iterator.
func Tasks(raw []byte) ([]Task, error) {
	if len(raw)%taskSize != 0 {
		return nil, fmt.Errorf("%w: tasks of %d bytes", ErrMalformed, len(raw))
	}
	tasks := make([]Task, 0, len(raw)/taskSize)
	for ; len(raw) > 0; raw = raw[taskSize:] {
		comm, _, _ := bytes.Cut(raw[48:64], []byte{0})
		tasks = append(tasks, Task{
			Key:      event.ProcessKey{Start: order.Uint64(raw[0:]), PID: order.Uint32(raw[24:])},
			Parent:   event.ProcessKey{Start: order.Uint64(raw[8:]), PID: order.Uint32(raw[28:])},
			CgroupID: order.Uint64(raw[16:]),
			UID:      order.Uint32(raw[32:]),
			NetNS:    order.Uint32(raw[36:]),
			InScope:  order.Uint32(raw[40:]) != 0,
			Comm:     string(comm),
		})
	}
	return tasks, nil
}
