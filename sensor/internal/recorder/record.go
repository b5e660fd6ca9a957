package recorder

import (
	"encoding/binary"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What a record has beside its type, time and attributes.
const (
	hasProcess     = 1
	hasDescription = 2
	hasStoryline   = 4
	hasFlow        = 8
)

// Record is one record as it is read back.
type Record struct {
	Type      string
	Boot      [16]byte // the kernel's boot id
	BootNs    uint64   // CLOCK_BOOTTIME
	Time      time.Time
	Process   *Process // nil when no process acted
	Storyline event.ProcessKey
	Flow      *event.Flow // Proto, Dir, the ends, Name, bytes and Failed
	Attrs     []Attr
}

// Process is who acted, as known at the time.
type Process struct {
	Key event.ProcessKey
	// Described false: all but the key is unknown, because nothing was learnt of the
	// process or the block that describes it is damaged.
	Described     bool
	Parent        event.ProcessKey
	Image         string
	Argv          []string
	ArgvBytes     uint32
	ArgvTruncated bool
	UID, LoginUID uint32
	User          string
	Cwd           string
	Unit          string
	Container     string
	Interpreter   string
	Script        string
	Traits        []string
	SHA256        string // 32 bytes, "" when the image was not hashed
}

// appendProcess writes a description. Two are equal when their bytes are.
func appendProcess(b []byte, p *event.Process) []byte {
	var parent event.ProcessKey
	if p.Parent != nil {
		parent = p.Parent.Key
	}
	b = appendKey(appendKey(b, p.Key), parent)
	b = appendText(b, bounded(p.Image))
	argv, whole := boundedArgv(p.Argv)
	b = appendTexts(b, argv)
	b = binary.AppendUvarint(b, uint64(p.ArgvBytes))
	b = appendFlag(b, p.ArgvTruncated || !whole)
	b = binary.AppendUvarint(b, uint64(p.UID))
	b = binary.AppendUvarint(b, uint64(p.LoginUID))
	for _, s := range [...]string{p.User, p.Cwd, p.Unit, p.Container, p.Interpreter, p.Script} {
		b = appendText(b, bounded(s))
	}
	b = appendTexts(b, p.Traits[:min(len(p.Traits), maxTraits)])
	if !p.Hashed {
		return append(b, 0)
	}
	return append(append(b, byte(len(p.SHA256))), p.SHA256[:]...)
}

func appendKey(b []byte, key event.ProcessKey) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(key.PID)), key.Start)
}

// maxTraits is more than there are kinds of.
const maxTraits = 64

// bounded cuts at what no path and no name reaches.
func bounded(s string) string { return s[:min(len(s), maxPath)] }

// maxPath is the kernel's PATH_MAX.
const maxPath = 4 << 10

// boundedArgv is as many arguments as maxText allows, and whether these are all.
func boundedArgv(argv []string) ([]string, bool) {
	room := maxText
	for i, a := range argv {
		if room -= len(a) + 1; room < 0 || i == maxList {
			return argv[:i], false
		}
	}
	return argv, true
}

func decodeProcess(raw []byte) (*Process, error) {
	c := cursor{rest: raw}
	p := &Process{Described: true}
	p.Key = event.ProcessKey{PID: c.uint32(), Start: c.uint()}
	p.Parent = event.ProcessKey{PID: c.uint32(), Start: c.uint()}
	p.Image, p.Argv = c.text(), c.texts()
	p.ArgvBytes, p.ArgvTruncated = c.uint32(), c.byte() != 0
	p.UID, p.LoginUID = c.uint32(), c.uint32()
	for _, s := range []*string{&p.User, &p.Cwd, &p.Unit, &p.Container, &p.Interpreter, &p.Script} {
		*s = c.text()
	}
	p.Traits, p.SHA256 = c.texts(), c.text()
	return p, c.err
}

func appendFlow(b []byte, f *event.Flow) []byte {
	b = append(b, f.Proto, byte(f.Dir))
	b = appendEndpoint(appendEndpoint(b, f.Local), f.Remote)
	b = appendText(b, bounded(f.Name))
	b = binary.AppendUvarint(b, f.BytesIn)
	b = binary.AppendUvarint(b, f.BytesOut)
	return appendFlag(b, f.Failed)
}

func (c *cursor) flow() *event.Flow {
	return &event.Flow{
		Proto: c.byte(), Dir: event.Direction(c.byte()), Local: c.endpoint(), Remote: c.endpoint(),
		Name: c.text(), BytesIn: c.uint(), BytesOut: c.uint(), Failed: c.byte() != 0,
	}
}

// maxDescriptions and maxDescribed bound what a chapter describes, and so what
// writer and reader remember; they are looked at when a block begins.
const (
	maxDescriptions = 4096
	maxDescribed    = 1 << 20 // bytes
)

// glossary is the reader's side of a chapter.
type glossary struct {
	boot    [16]byte
	chapter uint64
	known   map[uint64]entry
	raw     []byte // of the descriptions, one after another
	bytes   int
	// wanted says whether a record of a storyline is looked at; nil: all are. What a storm of
	// processes left is a hundred times what one storyline of it is asked for. A process that
	// came into another storyline is described there anew.
	wanted func(storyline event.ProcessKey) bool
}

// entry is where a description lies as it was read, a fifth of what it is when somebody asks for it.
type entry struct {
	from, to int
	process  *Process // nil: nobody has asked yet
}

// turn forgets what an earlier chapter described.
func (g *glossary) turn(h header) {
	if g.known == nil || h.opens || h.chapter != g.chapter || h.boot != g.boot {
		g.forget()
		g.boot, g.chapter = h.boot, h.chapter
	}
}

// forget is for another segment; what took room is used again.
func (g *glossary) forget() {
	if g.known == nil {
		g.known = map[uint64]entry{}
	}
	clear(g.known)
	g.boot, g.chapter, g.raw, g.bytes = [16]byte{}, 0, g.raw[:0], 0
}

// describe takes a description, unless the file has more than a writer would write.
func (g *glossary) describe(id uint64, raw []byte) {
	if g.bytes += len(raw); g.bytes <= maxDescribed+maxRaw {
		g.raw = append(g.raw, raw...)
		g.known[id] = entry{from: len(g.raw) - len(raw), to: len(g.raw)}
	}
}

// process is who was described by a number; nil when nobody was.
func (g *glossary) process(id uint64) (*Process, error) {
	d, ok := g.known[id]
	if !ok || d.process != nil {
		return d.process, nil
	}
	p, err := decodeProcess(g.raw[d.from:d.to])
	if err != nil {
		return nil, err
	}
	g.known[id] = entry{process: p}
	return p, nil
}

// records decodes a block's records in order, hands those that are wanted to each and returns
// how many it had whole.
func (g *glossary) records(h header, raw []byte, each func(*Record) bool) (n uint32, err error) {
	g.turn(h)
	c := cursor{rest: raw}
	r, boot := &Record{}, uint64(0)
	for len(c.rest) > 0 {
		size := c.take(4)
		if size == nil {
			return n, c.err
		}
		body := c.take(uint64(binary.LittleEndian.Uint32(size)))
		if c.err != nil {
			return n, c.err
		}
		*r = Record{Boot: h.boot, BootNs: boot}
		wanted, err := g.record(r, body)
		if err != nil {
			return n, err
		}
		boot = r.BootNs
		n++
		if !wanted {
			continue
		}
		r.Time = time.Unix(0, h.wall(boot)).UTC()
		if !each(r) {
			return n, nil
		}
		r = &Record{} // that one is each's to keep
	}
	return n, nil
}

// record reads one record, whose BootNs is that of the one before it; false: it is not wanted,
// and only its time was read.
func (g *glossary) record(r *Record, body []byte) (wanted bool, err error) {
	c := cursor{rest: body}
	kind := c.take(c.uint())
	r.BootNs += uint64(c.int()) //nolint:gosec // wraps back to where it came from
	has := c.byte()
	var id uint64
	var key event.ProcessKey
	var description []byte
	if has&hasProcess != 0 {
		id, key = c.uint(), event.ProcessKey{PID: c.uint32(), Start: c.uint()}
		if has&hasDescription != 0 {
			description = c.take(c.uint())
		}
	}
	if has&hasStoryline != 0 {
		r.Storyline = event.ProcessKey{PID: c.uint32(), Start: c.uint()}
	}
	if c.err != nil {
		return false, c.err
	}
	if has&hasProcess != 0 {
		if g.wanted != nil && !g.wanted(r.Storyline) {
			return false, nil
		}
		if has&hasDescription != 0 {
			g.describe(id, description)
		}
		if r.Process, err = g.process(id); err != nil {
			return false, err
		}
		if r.Process == nil || r.Process.Key != key {
			r.Process = &Process{Key: key}
		}
	}
	r.Type = string(kind)
	if has&hasFlow != 0 {
		r.Flow = c.flow()
	}
	r.Attrs = c.attrs()
	return true, c.err
}
