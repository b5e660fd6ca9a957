package recorder

import (
	"encoding/binary"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Kind is what an attribute's value is.
type Kind uint8

// Kinds; the numbers are the format's. Flags have no value beside their kind.
const (
	KindUint  Kind = 1
	KindText  Kind = 2 // a path, a name, an argument: text as far as it is valid UTF-8
	KindBytes Kind = 3 // never text
	KindTexts Kind = 4
	KindTrue  Kind = 5
	KindFalse Kind = 6
)

const (
	maxText = 8 << 10 // bytes of a text; PATH_MAX and the kernel's share of argv are 4 KiB
	maxList = 4 << 10 // as many arguments as fit into 4 KiB

	cut = "_truncated" // ends the name of the flag that goes with a value cut at these
)

// Attr is one thing that a record says of its event.
type Attr struct {
	Name string
	Kind Kind
	Uint uint64
	Text string // KindText and KindBytes
	List []string
}

// Attrs takes what an event's describer says, in the order in which it is told.
// Names are snake_case; a process other than the acting one is told as NAME_pid and
// NAME_start, by which a query for that process finds the record.
type Attrs struct {
	buf  []byte
	flow *event.Flow
	room event.Flow // where flow points when the event brings only its ends
}

func (a *Attrs) reset() { a.buf, a.flow = a.buf[:0], nil }

func (a *Attrs) name(kind Kind, name string) { a.buf = appendText(append(a.buf, byte(kind)), name) }

// Uint tells a number.
func (a *Attrs) Uint(name string, v uint64) {
	a.name(KindUint, name)
	a.buf = binary.AppendUvarint(a.buf, v)
}

// Some tells a number that is not zero.
func (a *Attrs) Some(name string, v uint64) {
	if v != 0 {
		a.Uint(name, v)
	}
}

// Flag tells what is true; what is false is told by Bool alone.
func (a *Attrs) Flag(name string, set bool) {
	if set {
		a.name(KindTrue, name)
	}
}

// Bool tells what is so or is not.
func (a *Attrs) Bool(name string, set bool) {
	if a.Flag(name, set); !set {
		a.name(KindFalse, name)
	}
}

// Text tells a text that is not empty; its bytes are kept as they are.
func (a *Attrs) Text(name, s string) {
	if s != "" {
		a.name(KindText, name)
		a.buf = appendText(a.buf, s[:min(len(s), maxText)])
		if len(s) > maxText {
			a.Flag(name+cut, true)
		}
	}
}

// Path is Text for what the decoder leaves as bytes.
func (a *Attrs) Path(name string, raw []byte) {
	if len(raw) > 0 {
		a.raw(KindText, name, raw)
	}
}

// Bytes tells what is no text.
func (a *Attrs) Bytes(name string, raw []byte) { a.raw(KindBytes, name, raw) }

func (a *Attrs) raw(kind Kind, name string, raw []byte) {
	a.name(kind, name)
	kept := raw[:min(len(raw), maxText)]
	a.buf = append(binary.AppendUvarint(a.buf, uint64(len(kept))), kept...)
	if len(raw) > maxText {
		a.Flag(name+cut, true)
	}
}

// Texts tells a list that is not empty.
func (a *Attrs) Texts(name string, all []string) {
	if len(all) > 0 {
		a.name(KindTexts, name)
		a.buf = appendTexts(a.buf, all[:min(len(all), maxList)])
		if len(all) > maxList {
			a.Flag(name+cut, true)
		}
	}
}

// Process tells a process that is not the acting one.
func (a *Attrs) Process(name string, key event.ProcessKey) {
	a.name(KindUint, name+"_pid")
	a.buf = binary.AppendUvarint(a.buf, uint64(key.PID))
	a.name(KindUint, name+"_start")
	a.buf = binary.AppendUvarint(a.buf, key.Start)
}

// Ends gives the record a flow of which only the two ends are known.
func (a *Attrs) Ends(proto uint8, dir event.Direction, local, remote netip.AddrPort) {
	a.room = event.Flow{Proto: proto, Dir: dir, Local: local, Remote: remote}
	a.flow = &a.room
}

func (c *cursor) attrs() []Attr {
	var all []Attr
	for c.err == nil {
		kind := Kind(c.byte())
		if kind == 0 {
			break
		}
		attr := Attr{Kind: kind, Name: c.text()}
		switch kind {
		case KindUint:
			attr.Uint = c.uint()
		case KindText, KindBytes:
			attr.Text = c.text()
		case KindTexts:
			attr.List = c.texts()
		case KindTrue:
			attr.Uint = 1
		case KindFalse:
		default:
			c.fail()
		}
		if c.err == nil {
			all = append(all, attr)
		}
	}
	return all
}
