package detect

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// record gives an observation's fields, each made when a rule first asks. It is
// used again for the next observation, and so is the memory of the texts that it had to
// make: they hold until the next reset, and who keeps one copies it.
type record struct {
	o      *event.Observation
	v      event.Verdict
	raw    [taxonomy.FieldCount][]string
	folded [taxonomy.FieldCount][]string
	have   [taxonomy.FieldCount]uint8 // 1: raw, 2: folded
	texts  []byte
}

// maxTexts bounds what is kept between observations; longer texts are of hostile events.
const maxTexts = 64 << 10

func (r *record) reset(o *event.Observation, v event.Verdict) {
	r.o, r.v = o, v
	r.have = [taxonomy.FieldCount]uint8{}
	if r.texts = r.texts[:0]; cap(r.texts) > maxTexts {
		r.texts = nil
	}
}

// Field implements sigma.Record.
func (r *record) Field(n int) []string {
	if r.have[n]&1 == 0 {
		r.have[n] |= 1
		r.raw[n] = r.values(n, r.raw[n][:0])
	}
	return r.raw[n]
}

// Folded implements sigma.Record.
func (r *record) Folded(n int) []string {
	if r.have[n]&2 == 0 {
		r.have[n] |= 2
		r.folded[n] = r.folded[n][:0]
		for _, v := range r.Field(n) {
			if sigma.IsFolded(v) {
				r.folded[n] = append(r.folded[n], v)
				continue
			}
			from := len(r.texts)
			r.texts = sigma.AppendFold(r.texts, v)
			r.folded[n] = append(r.folded[n], r.text(from))
		}
	}
	return r.folded[n]
}

// text is what was appended to texts since from. Nothing writes there again before reset,
// and what grew out of it stays as it was.
func (r *record) text(from int) string {
	made := r.texts[from:]
	return unsafe.String(unsafe.SliceData(made), len(made))
}

func (r *record) joined(argv []string) string {
	if len(argv) == 1 {
		return argv[0]
	}
	from := len(r.texts)
	for i, arg := range argv {
		if i > 0 {
			r.texts = append(r.texts, ' ')
		}
		r.texts = append(r.texts, arg...)
	}
	return r.text(from)
}

// values appends what the event has for a field. A fact that is not known gives
// no value, so that a rule cannot match on its absence by accident of timing.
func (r *record) values(n int, out []string) []string {
	switch ev := r.o.Event.(type) {
	case *event.Socket:
		if text, ok := socketValue(n, ev); ok {
			return append(out, text)
		}
	case *event.Login:
		if text, ok := loginValue(n, ev); ok && text != "" {
			return append(out, text)
		} else if ok {
			return out
		}
	}
	p := r.o.Process
	text := func(s string) []string {
		if s == "" {
			return out
		}
		return append(out, s)
	}
	switch n {
	case taxonomy.Image:
		return text(p.Image)
	case taxonomy.CommandLine:
		return text(r.joined(p.Argv))
	case taxonomy.User:
		return text(p.User)
	case taxonomy.CurrentDirectory:
		return text(p.Cwd)
	case taxonomy.LogonID:
		return append(out, strconv.FormatUint(uint64(p.UID), 10))
	case taxonomy.ProcessID:
		return append(out, strconv.FormatUint(uint64(p.Key.PID), 10))
	case taxonomy.Hashes:
		if p.Hashed {
			return append(out, "SHA256="+strings.ToUpper(hex.EncodeToString(p.SHA256[:])))
		}
	case taxonomy.SHA256:
		if p.Hashed {
			return append(out, hex.EncodeToString(p.SHA256[:]))
		}
	case taxonomy.Traits:
		return append(out, p.Traits...)
	case taxonomy.Script:
		return text(p.Script)
	case taxonomy.Unit:
		return text(p.Unit)
	case taxonomy.Container:
		return text(p.Container)
	case taxonomy.Serves:
		return append(out, strconv.FormatBool(p.Origin != nil && p.Anchor == p.Key))
	case taxonomy.OriginIP:
		if p.Origin != nil {
			return append(out, p.Origin.Remote.Addr().Unmap().String())
		}
	case taxonomy.Known:
		return append(out, strconv.FormatBool(r.v.Known))
	case taxonomy.PreviousImage:
		if r.o.Before != nil {
			return text(r.o.Before.Image)
		}
	case taxonomy.ParentImage, taxonomy.ParentCommandLine, taxonomy.ParentUser, taxonomy.ParentProcessID, taxonomy.ParentTraits:
		return r.parentValues(n, out)
	case taxonomy.Installs:
		return append(out, strconv.FormatBool(installs(p)))
	case taxonomy.InSession:
		return append(out, strconv.FormatBool(p.Origin != nil))
	case taxonomy.QueryName:
		if d, ok := r.o.Event.(*event.DNS); ok {
			return text(d.Name)
		}
	case taxonomy.Storyline:
		return append(out, storyline(p))
	default:
		if n >= taxonomy.AuditType {
			return auditValues(n, r.o, out)
		}
		if f, ok := r.o.Event.(*event.File); ok {
			return fileValues(n, f, out)
		}
		if p, ok := r.o.Event.(*event.Privilege); ok {
			return privilegeValues(n, r.o, p, out)
		}
		if r.o.Flow != nil {
			return flowValues(n, r.o.Flow, out)
		}
	}
	return out
}

func (r *record) parentValues(n int, out []string) []string {
	p := r.o.Process.Parent
	if p == nil {
		return out
	}
	s := ""
	switch n {
	case taxonomy.ParentImage:
		s = p.Image
	case taxonomy.ParentCommandLine:
		s = r.joined(p.Argv)
	case taxonomy.ParentUser:
		s = p.User
	case taxonomy.ParentProcessID:
		s = strconv.FormatUint(uint64(p.Key.PID), 10)
	case taxonomy.ParentTraits:
		return append(out, p.Traits...)
	}
	if s == "" {
		return out
	}
	return append(out, s)
}

// flowValues: in Sigma's words, source is who opened the connection.
func flowValues(n int, f *event.Flow, out []string) []string {
	source, destination, name := f.Local, f.Remote, f.Name
	if f.Dir == event.Inbound {
		source, destination, name = f.Remote, f.Local, ""
	}
	addr := func(a netip.AddrPort) []string { return append(out, a.Addr().Unmap().WithZone("").String()) }
	port := func(a netip.AddrPort) []string { return append(out, strconv.Itoa(int(a.Port()))) }
	switch n {
	case taxonomy.Initiated:
		return append(out, strconv.FormatBool(f.Dir == event.Outbound))
	case taxonomy.Protocol:
		return append(out, protocol(f.Proto))
	case taxonomy.SourceIP:
		return addr(source)
	case taxonomy.SourcePort:
		return port(source)
	case taxonomy.DestinationIP:
		return addr(destination)
	case taxonomy.DestinationPort:
		return port(destination)
	case taxonomy.DestinationHostname:
		if name != "" {
			return append(out, name)
		}
	}
	return out
}

func protocol(number uint8) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return strconv.Itoa(int(number))
}
