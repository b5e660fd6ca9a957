package answer

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// view is a record as hunts and rules look at it.
type view struct {
	q      *question
	r      *recorder.Record
	kind   hunt.Kind
	parent *event.Process
	looked bool // for the parent
}

func kindOf(recordType string) hunt.Kind {
	switch recordType {
	case "exec", "process":
		return hunt.Process
	case "flow-open", "flow-close", "socket":
		return hunt.Network
	case "dns":
		return hunt.DNS
	case "file":
		return hunt.File
	case "privilege":
		return hunt.Privilege
	case "login", "logout":
		return hunt.Login
	}
	return hunt.Other
}

// started is who started the record's process; nil when nobody knows any more.
func (v *view) started() *event.Process {
	p := v.r.Process
	if p == nil || !p.Described || p.Parent.PID == 0 {
		return nil
	}
	if v.looked {
		return v.parent
	}
	v.looked = true
	image := v.r.Text(recorder.AttrParentImage)
	v.parent = v.q.process(p.Parent)
	// What the record says was so when it was written; what is known now may be later.
	if image != "" && (v.parent == nil || v.parent.Image != image) {
		v.parent = &event.Process{Key: p.Parent, Image: image}
	}
	v.q.unknown = v.q.unknown || v.parent == nil
	return v.parent
}

// process is what was read of a process, or is known of it now.
func (q *question) process(key event.ProcessKey) *event.Process {
	if p := q.seen[key]; p != nil {
		return p.Process(nil)
	}
	if q.cfg.Process == nil {
		return nil
	}
	return q.cfg.Process(key)
}

func (v *view) target() *event.Process {
	key, named := v.r.Other("target")
	if !named {
		return nil
	}
	if p := v.q.process(key); p != nil {
		return p
	}
	return nil
}

func (v *view) observation() *event.Observation {
	return v.r.Observation(v.r.Process.Process(v.started()), v.target())
}

// Kind implements hunt.Record.
func (v *view) Kind() hunt.Kind { return v.kind }

// Texts implements hunt.Record.
func (v *view) Texts(f hunt.Field, out []string) []string {
	one := func(s string) []string {
		if s == "" {
			return out
		}
		return append(out, s)
	}
	switch f {
	case hunt.Type:
		return one(v.r.Type)
	case hunt.Storyline:
		return one(storyline(v.r.Storyline))
	case hunt.ParentImage, hunt.ParentCommandLine, hunt.ParentUser:
		if p := v.started(); p != nil {
			switch f {
			case hunt.ParentImage:
				return one(p.Image)
			case hunt.ParentCommandLine:
				return one(strings.Join(p.Argv, " "))
			}
			return one(p.User)
		}
		return out
	case hunt.TargetImage:
		if p := v.target(); p != nil {
			return one(p.Image)
		}
		return out
	case hunt.RemoteName, hunt.Protocol, hunt.Direction:
		return v.flowText(f, out)
	case hunt.Argument, hunt.Trait:
		if p := v.r.Process; p != nil && f == hunt.Argument {
			return append(out, p.Argv...)
		} else if p != nil {
			return append(out, p.Traits...)
		}
		return out
	case hunt.CName:
		return append(out, v.r.List("cnames")...)
	}
	if name, of := attributes[f]; of {
		return one(v.r.Text(name))
	}
	return v.processText(f, out)
}

// attributes are the names of what records tell of their event.
var attributes = map[hunt.Field]string{
	hunt.Name: "query", hunt.Path: "path", hunt.NewPath: "target", hunt.Operation: "op", hunt.Class: "class", hunt.Call: "call",
	hunt.Text: "text", hunt.Account: "user", hunt.Via: "via", hunt.Terminal: "terminal",
	hunt.RCode: "rcode", hunt.Mode: "mode", hunt.Owner: "owner", hunt.Errno: "errno", hunt.TargetPID: "target_pid",
}

func (v *view) processText(f hunt.Field, out []string) []string {
	p := v.r.Process
	if p == nil || !p.Described {
		return out
	}
	s := ""
	switch f {
	case hunt.Image:
		s = p.Image
	case hunt.CommandLine:
		s = strings.Join(p.Argv, " ")
	case hunt.User:
		s = p.User
	case hunt.Cwd:
		s = p.Cwd
	case hunt.Unit:
		s = p.Unit
	case hunt.Container:
		s = p.Container
	case hunt.Script:
		s = p.Script
	case hunt.Interpreter:
		s = p.Interpreter
	case hunt.SHA256:
		s = hex.EncodeToString([]byte(p.SHA256))
	}
	if s == "" {
		return out
	}
	return append(out, s)
}

func (v *view) flowText(f hunt.Field, out []string) []string {
	flow := v.r.Flow
	if flow == nil {
		return out
	}
	s := flow.Name
	switch f {
	case hunt.Protocol:
		s = protocol(flow.Proto)
	case hunt.Direction:
		s = "out"
		if flow.Dir == event.Inbound {
			s = "in"
		}
	}
	if s == "" {
		return out
	}
	return append(out, s)
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

// Number implements hunt.Record.
func (v *view) Number(f hunt.Field) (uint64, bool) {
	p, flow := v.r.Process, v.r.Flow
	switch f {
	case hunt.PID, hunt.ParentPID, hunt.UID, hunt.LoginUID:
		switch {
		case p == nil:
			return 0, false
		case f == hunt.PID:
			return uint64(p.Key.PID), true
		case !p.Described:
			return 0, false
		case f == hunt.ParentPID:
			return uint64(p.Parent.PID), p.Parent.PID != 0
		case f == hunt.UID:
			return uint64(p.UID), true
		}
		return uint64(p.LoginUID), p.LoginUID != event.NoSession
	case hunt.RemotePort, hunt.LocalPort, hunt.BytesIn, hunt.BytesOut, hunt.Failed:
		switch {
		case flow == nil:
			return 0, false
		case f == hunt.RemotePort:
			return uint64(flow.Remote.Port()), flow.Remote.IsValid()
		case f == hunt.LocalPort:
			return uint64(flow.Local.Port()), flow.Local.IsValid()
		case f == hunt.BytesIn:
			return flow.BytesIn, v.r.Type == "flow-close"
		case f == hunt.BytesOut:
			return flow.BytesOut, v.r.Type == "flow-close"
		}
		return truth(flow.Failed), true
	case hunt.Gained:
		return truth(v.r.Flag("gained")), v.kind == hunt.Privilege
	case hunt.Unexplained:
		return truth(v.r.Flag("unexplained")), v.kind == hunt.Privilege
	}
	return v.r.Uint(attributes[f])
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Addresses implements hunt.Record.
func (v *view) Addresses(f hunt.Field, out []netip.Addr) []netip.Addr {
	switch f {
	case hunt.RemoteAddress:
		if v.r.Flow != nil && v.r.Flow.Remote.IsValid() {
			return append(out, v.r.Flow.Remote.Addr())
		}
	case hunt.LocalAddress:
		if v.r.Flow != nil && v.r.Flow.Local.IsValid() {
			return append(out, v.r.Flow.Local.Addr())
		}
	case hunt.SourceAddress:
		if source, err := netip.ParseAddrPort(v.r.Text("source")); err == nil {
			return append(out, source.Addr())
		}
	case hunt.AnswerAddress:
		for _, text := range v.r.List("addresses") {
			if addr, err := netip.ParseAddr(text); err == nil {
				out = append(out, addr)
			}
		}
	}
	return out
}

func storyline(key event.ProcessKey) string {
	if key == (event.ProcessKey{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d", key.PID, key.Start)
}

// storylineOf reads what storyline writes; zero when it is nothing of the kind.
func storylineOf(text string) (key event.ProcessKey) {
	var pid uint32
	var start uint64
	if n, err := fmt.Sscanf(text, "%d.%d", &pid, &start); n != 2 || err != nil {
		return key
	}
	if key = (event.ProcessKey{PID: pid, Start: start}); storyline(key) != text {
		return event.ProcessKey{}
	}
	return key
}

// sighting is the record as it is told.
func (v *view) sighting() *sensorv1.Sighting {
	r := v.r
	row := &sensorv1.Sighting{Time: r.Time.UnixNano(), Kind: v.kind.String(), Type: r.Type, Storyline: storyline(r.Storyline), Flow: v.flow()}
	if p := r.Process; p != nil {
		row.Process = &sensorv1.Process{Pid: p.Key.PID, Start: p.Key.Start,
			StartTime: r.Time.UnixNano() - int64(r.BootNs-p.Key.Start)} //nolint:gosec // wraps back when the process began after it
		if p.Described {
			describe(row.Process, p)
			row.ParentPid, row.ParentStart = p.Parent.PID, p.Parent.Start
		}
		unknown := v.q.unknown
		if parent := v.started(); parent != nil {
			row.ParentImage = []byte(parent.Image)
			row.ParentArgv = rawTexts(parent.Argv)
		}
		v.q.unknown = unknown
	}
	for i := range r.Attrs {
		a := &r.Attrs[i]
		if a.Name == recorder.AttrParentImage {
			continue
		}
		d := &sensorv1.Detail{Name: strings.ToValidUTF8(a.Name, "\uFFFD")}
		switch a.Kind {
		case recorder.KindUint:
			d.Value = &sensorv1.Detail_Number{Number: a.Uint}
		case recorder.KindTexts:
			d.Value = &sensorv1.Detail_Texts{Texts: &sensorv1.TextList{Texts: rawTexts(a.List)}}
		case recorder.KindTrue, recorder.KindFalse:
			d.Value = &sensorv1.Detail_Flag{Flag: a.Kind == recorder.KindTrue}
		default:
			d.Value = &sensorv1.Detail_Text{Text: []byte(a.Text)}
		}
		row.Details = append(row.Details, d)
	}
	return row
}

func describe(out *sensorv1.Process, p *recorder.Process) {
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	out.Image, out.Argv, out.ArgvTruncated, out.ArgvBytes = []byte(p.Image), rawTexts(p.Argv), p.ArgvTruncated, p.ArgvBytes
	out.Uid, out.User, out.LoginUid = p.UID, valid(p.User), p.LoginUID
	out.Unit, out.Container = valid(p.Unit), valid(p.Container)
	out.Cwd, out.Interpreter, out.Script, out.Sha256 = []byte(p.Cwd), []byte(p.Interpreter), []byte(p.Script), []byte(p.SHA256)
	for _, trait := range p.Traits {
		out.ImageTraits = append(out.ImageTraits, valid(trait))
	}
}

func rawTexts(in []string) (out [][]byte) {
	for _, s := range in {
		out = append(out, []byte(s))
	}
	return out
}

func (v *view) flow() *sensorv1.Flow {
	f := v.r.Flow
	if f == nil {
		return nil
	}
	out := &sensorv1.Flow{Protocol: uint32(f.Proto), Inbound: f.Dir == event.Inbound, Name: strings.ToValidUTF8(f.Name, "\uFFFD"),
		BytesIn: f.BytesIn, BytesOut: f.BytesOut, Failed: f.Failed,
		LocalPort: uint32(f.Local.Port()), RemotePort: uint32(f.Remote.Port())}
	if f.Local.IsValid() {
		out.Local = f.Local.Addr().Unmap().AsSlice()
	}
	if f.Remote.IsValid() {
		out.Remote = f.Remote.Addr().Unmap().AsSlice()
	}
	switch v.r.Type {
	case "flow-open":
		out.Opened = v.r.Time.UnixNano()
	case "flow-close":
		out.Closed = v.r.Time.UnixNano()
		if ns, ok := v.r.Uint("duration_ns"); ok {
			out.Opened = out.Closed - int64(ns) //nolint:gosec // a duration
		}
	}
	return out
}
