package recorder

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Attr is what a record says under a name, nil when it says nothing.
func (r *Record) Attr(name string) *Attr {
	for i := range r.Attrs {
		if r.Attrs[i].Name == name {
			return &r.Attrs[i]
		}
	}
	return nil
}

// Text is the text under a name, "" when there is none.
func (r *Record) Text(name string) string {
	if a := r.Attr(name); a != nil && (a.Kind == KindText || a.Kind == KindBytes) {
		return a.Text
	}
	return ""
}

// Uint is the number under a name.
func (r *Record) Uint(name string) (uint64, bool) {
	a := r.Attr(name)
	if a == nil || a.Kind != KindUint {
		return 0, false
	}
	return a.Uint, true
}

// Flag says whether what a name means is so.
func (r *Record) Flag(name string) bool {
	a := r.Attr(name)
	return a != nil && a.Kind == KindTrue
}

// List are the texts under a name.
func (r *Record) List(name string) []string {
	if a := r.Attr(name); a != nil && a.Kind == KindTexts {
		return a.List
	}
	return nil
}

// Other is the process that a record names beside the acting one.
func (r *Record) Other(name string) (key event.ProcessKey, ok bool) {
	pid, has := r.Uint(name + "_pid")
	start, hasStart := r.Uint(name + "_start")
	return event.ProcessKey{PID: uint32(pid), Start: start}, has && hasStart //nolint:gosec // it was one when it was recorded
}

func (r *Record) number(name string) uint64 {
	v, _ := r.Uint(name)
	return v
}

// Process is the acting process as the stages know it, nil when the record describes none.
func (p *Process) Process(parent *event.Process) *event.Process {
	if p == nil || !p.Described {
		return nil
	}
	out := &event.Process{
		Key: p.Key, Parent: parent, Image: p.Image, Interpreter: p.Interpreter, Script: p.Script, Argv: p.Argv,
		ArgvBytes: p.ArgvBytes, ArgvTruncated: p.ArgvTruncated, UID: p.UID, User: p.User, LoginUID: p.LoginUID, SessionID: event.NoSession,
		Cwd: p.Cwd, Unit: p.Unit, Container: p.Container, Traits: p.Traits,
	}
	if len(p.SHA256) == len(out.SHA256) {
		out.Hashed = true
		copy(out.SHA256[:], p.SHA256)
	}
	return out
}

// Observation is the record as the rules look at it; nil when it is of no event that
// they do. What records do not keep is missing.
func (r *Record) Observation(p *event.Process, target *event.Process) *event.Observation {
	if p == nil {
		return nil
	}
	p.Anchor = r.Storyline
	o := &event.Observation{Time: r.Time, Process: p, Flow: r.Flow, Target: target}
	h := event.Header{Time: r.BootNs, Process: p.Key, UID: p.UID}
	if p.Parent != nil {
		h.Parent = p.Parent.Key
	}
	switch r.Type {
	case "exec":
		o.Event = r.exec(h, p)
	case "flow-open":
		if r.Flow == nil {
			return nil
		}
		o.Event = &event.FlowOpen{Header: h, Proto: r.Flow.Proto, Dir: r.Flow.Dir, Local: r.Flow.Local, Remote: r.Flow.Remote, Failed: r.Flow.Failed}
	case "dns":
		o.Event = r.dns(h)
	case "file":
		o.Event = r.file(h)
	case "privilege":
		o.Event = r.privilege(h)
	case "socket":
		o.Event = &event.Socket{Header: h, Family: uint16(r.number("family")), Type: uint16(r.number("socket_type")), //nolint:gosec // they were when recorded
			Protocol: uint32(r.number("protocol")), Errno: int32(r.number("errno")), Asked: r.Flag("asked")} //nolint:gosec // as above
	case "login", "logout":
		source, _ := netip.ParseAddrPort(r.Text("source"))
		o.Event = &event.Login{Header: h, User: r.Text("user"), Via: r.Text("via"), Terminal: r.Text("terminal"), Source: source,
			Host: r.Text("claimed_host"), LoginUID: p.LoginUID, End: r.Type == "logout"}
	default:
		return nil
	}
	return o
}

func (r *Record) exec(h event.Header, p *event.Process) *event.Exec {
	ev := &event.Exec{Header: h, Path: []byte(p.Image), Filename: []byte(p.Image), Interpreter: []byte(p.Interpreter),
		PathTruncated: r.Flag("path_truncated"), SetID: r.Flag("set_id"), ArgvBytes: p.ArgvBytes, ArgvTruncated: p.ArgvTruncated,
		LoginUID: p.LoginUID, SessionID: event.NoSession}
	if name := r.Text("filename"); name != "" {
		ev.Filename = []byte(name)
	}
	for _, arg := range p.Argv {
		ev.Argv = append(ev.Argv, []byte(arg))
	}
	return ev
}

func (r *Record) dns(h event.Header) *event.DNS {
	response := r.Flag("response")
	ev := &event.DNS{Header: h, Name: r.Text("query"), Type: uint16(r.number("query_type")), Response: response, //nolint:gosec // it was when recorded
		RCode: uint8(r.number("rcode")), CNAMEs: r.List("cnames"), Truncated: r.Flag("truncated"), //nolint:gosec // as above
		TTL: time.Duration(r.number("ttl_s")) * time.Second} //nolint:gosec // as above
	for _, text := range r.List("addresses") {
		if addr, err := netip.ParseAddr(text); err == nil {
			ev.Addrs = append(ev.Addrs, addr)
		}
	}
	return ev
}

func (r *Record) file(h event.Header) *event.File {
	ev := &event.File{Header: h, Path: []byte(r.Text("path")), Truncated: r.Flag("path_truncated"), Inode: r.number("inode"),
		Device: uint32(r.number("device")), Mode: uint32(r.number("mode")), Owner: uint32(r.number("owner")), //nolint:gosec // they were when recorded
		Result: -int32(r.number("errno")), URing: r.Flag("io_uring"), MemoryFD: r.Flag("memfd"), OpenPlace: r.Flag("open_place"), NLink: 1} //nolint:gosec // as above
	if target := r.Text("target"); target != "" {
		ev.Target = []byte(target)
	}
	op, class := r.Text("op"), r.Text("class")
	for n := event.FileWrite; n <= event.FileMapExec; n++ {
		if n.String() == op {
			ev.Op = n
		}
	}
	for n := event.FileOther; n <= event.FileLog; n++ {
		if n.String() == class {
			ev.Class = n
		}
	}
	return ev
}

func (r *Record) privilege(h event.Header) *event.Privilege {
	ev := &event.Privilege{Header: h, Operation: event.Operation(r.Text("op")), Call: r.Text("call"), Compat: r.Flag("compat"),
		Command: uint32(r.number("command")), Arguments: r.number("arguments"), Object: r.number("object"), //nolint:gosec // it was when recorded
		Kind: event.ObjectKind(r.number("object_kind")), Gained: r.Flag("gained"), Unexplained: r.Flag("unexplained"), //nolint:gosec // as above
		Ours: r.Flag("own_object"), Writable: r.Flag("writable"), Modified: r.Flag("modified"), MemoryFile: r.Flag("memory_file"),
		FromKernel: r.Flag("from_kernel"), UIDBefore: h.UID}
	ev.Target, _ = r.Other("target")
	if errno, refused := r.Uint("errno"); refused {
		ev.Result = -int64(errno) //nolint:gosec // as above
	}
	if uid, other := r.Uint("uid_before"); other {
		ev.UIDBefore = uint32(uid) //nolint:gosec // as above
	}
	ev.CapsBefore, _ = strconv.ParseUint(r.Text("capabilities_before"), 16, 64)
	ev.Caps, _ = strconv.ParseUint(r.Text("capabilities"), 16, 64)
	if text := r.Text("text"); text != "" {
		ev.Name = []byte(text)
	}
	for i := range r.Attrs {
		if strings.HasPrefix(r.Attrs[i].Name, "claimed_") {
			ev.Claimed = append(ev.Claimed, []byte(r.Attrs[i].Text))
		}
	}
	return ev
}
