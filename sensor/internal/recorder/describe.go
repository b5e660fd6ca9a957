package recorder

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Record types that the recorder writes of itself; those of events are below.
const (
	TypeStart       = "sensor-start"
	TypeStop        = "sensor-stop"
	TypeUncleanStop = "sensor-unclean-stop"
	TypeLoss        = "loss"
)

// AttrParentImage is what the parent of a new process ran when it began.
const AttrParentImage = "parent_image"

// noLogin is the login uid of what no login started.
const noLogin = 1<<32 - 1

// describe says in attributes what an event has beside its time, its process and
// its flow, and returns the record's type. A new event type needs a case here and a
// function below; until it has one it is recorded as what it is called in Go.
func describe(ev event.Event, a *Attrs) string {
	switch ev := ev.(type) {
	case *event.Exec:
		return describeExec(ev, a)
	case *event.Fork:
		return describeFork(ev, a)
	case *event.Exit:
		return describeExit(ev, a)
	case *event.FlowOpen:
		return describeFlowOpen(ev, a)
	case *event.FlowClose:
		return describeFlowClose(ev, a)
	case *event.DNS:
		return describeDNS(ev, a)
	case *event.Introduction:
		return describeIntroduction(ev, a)
	case *event.File:
		return describeFile(ev, a)
	case *event.Privilege:
		return describePrivilege(ev, a)
	case *event.Socket:
		return describeSocket(ev, a)
	case *event.Login:
		return describeLogin(ev, a)
	case *event.Tamper:
		return describeTamper(ev, a)
	}
	return describeUnknown(ev, a)
}

// The process of an exec record is already the new image; here is how it came to be.
func describeExec(ev *event.Exec, a *Attrs) string {
	if !bytes.Equal(ev.Filename, ev.Path) {
		a.Path("filename", ev.Filename)
	}
	a.Flag("path_truncated", ev.PathTruncated)
	a.Flag("set_id", ev.SetID)
	if ev.RealUID != ev.UID {
		a.Uint("real_uid", uint64(ev.RealUID))
	}
	a.Uint("gid", uint64(ev.GID))
	if ev.LoginUID != noLogin {
		a.Uint("login_uid", uint64(ev.LoginUID))
		a.Uint("login_session", uint64(ev.SessionID))
	}
	a.Some("old_tid", uint64(ev.OldTID))
	if ev.ArgvHash != 0 {
		a.Text("argv_hash", hex16(ev.ArgvHash))
	}
	a.Uint("device", ev.Image.Device)
	a.Uint("inode", ev.Image.Inode)
	a.Uint("change_time_ns", ev.Image.Change)
	a.Uint("image_bytes", ev.Image.Size)
	a.Uint("mount_ns", uint64(ev.Image.MountNS))
	return "exec"
}

// describeParent says who started what is new: a parent that lived long is described in
// segments that may be gone when somebody asks.
func describeParent(kind string, p *event.Process, a *Attrs) {
	if p != nil && p.Parent != nil && (kind == "exec" || kind == "process") {
		a.Text(AttrParentImage, bounded(p.Parent.Image))
	}
}

func describeFork(ev *event.Fork, a *Attrs) string {
	a.Process("child", ev.Child)
	return "fork"
}

// An introduction stands for the fork, and the exec if there was one, that the kernel
// kept back: the process of the record says what it runs.
func describeIntroduction(ev *event.Introduction, a *Attrs) string {
	a.Flag("executed", ev.ExecKey != 0)
	a.Some("exec_boot_ns", ev.ExecTime)
	return "process"
}

func describeTamper(ev *event.Tamper, a *Attrs) string {
	a.Text("what", ev.What)
	a.Text("detail", ev.Detail)
	a.Some("lasted_ns", uint64(max(ev.For, 0)))
	return "tamper"
}

func describeExit(ev *event.Exit, a *Attrs) string {
	a.Uint("code", uint64(max(ev.Code, 0)))
	a.Some("signal", uint64(max(ev.Signal, 0)))
	return "exit"
}

func describeFlowOpen(ev *event.FlowOpen, a *Attrs) string {
	a.Uint("cookie", ev.Flow.Cookie)
	a.Uint("net_ns", uint64(ev.NetNS))
	a.Ends(ev.Proto, ev.Dir, ev.Local, ev.Remote)
	a.room.Failed = ev.Failed
	a.Flag("tainted", ev.Tainted)
	return "flow-open"
}

func describeFlowClose(ev *event.FlowClose, a *Attrs) string {
	a.Uint("cookie", ev.Flow.Cookie)
	a.Uint("net_ns", uint64(ev.NetNS))
	a.Uint("packets_in", ev.PacketsIn)
	a.Uint("packets_out", ev.PktsOut)
	if ev.Opened != 0 && ev.Opened <= ev.Time {
		a.Uint("duration_ns", ev.Time-ev.Opened)
	}
	a.Ends(ev.Proto, ev.Dir, ev.Local, ev.Remote)
	a.room.BytesIn, a.room.BytesOut = ev.BytesIn, ev.BytesOut
	a.Flag("tainted", ev.Tainted)
	a.Flag("known", ev.Known)
	return "flow-close"
}

// dnsPort is where a host that answers look-ups does so.
const dnsPort = 53

func describeDNS(ev *event.DNS, a *Attrs) string {
	a.Text("query", ev.Name)
	a.Uint("query_type", uint64(ev.Type))
	a.Uint("query_id", uint64(ev.ID))
	a.Bool("response", ev.Response)
	if ev.Response {
		a.Uint("rcode", uint64(ev.RCode))
		a.Texts("cnames", ev.CNAMEs)
		a.Texts("addresses", texts(ev.Addrs))
		a.Some("ttl_s", uint64(ev.TTL.Seconds()))
	}
	a.Flag("truncated", ev.Truncated)
	direction := event.Outbound
	if ev.Local.Port() == dnsPort {
		direction = event.Inbound
	}
	const tcp, udp = 6, 17
	proto := uint8(udp)
	if ev.Transport != "" {
		a.Text("transport", ev.Transport)
		if ev.Transport == "tcp" {
			proto = tcp
		}
	}
	a.Ends(proto, direction, ev.Local, ev.Remote)
	return "dns"
}

func describeFile(ev *event.File, a *Attrs) string {
	a.Text("op", ev.Op.String())
	a.Text("class", ev.Class.String())
	a.Path("path", ev.Path)
	if len(ev.Target) > 0 {
		a.Path("target", ev.Target)
	}
	a.Flag("path_truncated", ev.Truncated)
	a.Uint("device", uint64(ev.Device))
	a.Uint("inode", ev.Inode)
	a.Uint("mode", uint64(ev.Mode))
	a.Uint("owner", uint64(ev.Owner))
	a.Some("open_flags", uint64(ev.OpenFlags))
	a.Some("errno", uint64(max(-int64(ev.Result), 0)))
	a.Flag("io_uring", ev.URing)
	a.Flag("memfd", ev.MemoryFD)
	a.Flag("open_place", ev.OpenPlace)
	return "file"
}

func describePrivilege(ev *event.Privilege, a *Attrs) string {
	a.Text("op", string(ev.Operation))
	if ev.Call != "" {
		a.Text("call", ev.Call)
	}
	a.Flag("compat", ev.Compat)
	if ev.Result < 0 {
		a.Uint("errno", uint64(-ev.Result))
	}
	if ev.Target != (event.ProcessKey{}) {
		a.Process("target", ev.Target)
	}
	a.Some("command", uint64(ev.Command))
	a.Some("arguments", ev.Arguments)
	a.Some("object", ev.Object)
	a.Some("object_kind", uint64(ev.Kind))
	if ev.UIDBefore != ev.UID && !ev.NoBefore {
		a.Uint("uid_before", uint64(ev.UIDBefore))
	}
	if ev.CapsBefore != ev.Caps && !ev.NoBefore {
		a.Text("capabilities_before", hex16(ev.CapsBefore))
		a.Text("capabilities", hex16(ev.Caps))
	}
	if len(ev.Name) > 0 {
		a.Path("text", ev.Name)
	}
	for i, claimed := range ev.Claimed {
		a.Path(fmt.Sprintf("claimed_%d", i+1), claimed)
	}
	a.Flag("gained", ev.Gained)
	a.Flag("unexplained", ev.Unexplained)
	a.Flag("own_object", ev.Ours)
	a.Flag("writable", ev.Writable)
	a.Flag("modified", ev.Modified)
	a.Flag("memory_file", ev.MemoryFile)
	a.Flag("from_kernel", ev.FromKernel)
	return "privilege"
}

func describeSocket(ev *event.Socket, a *Attrs) string {
	a.Uint("family", uint64(ev.Family))
	a.Uint("socket_type", uint64(ev.Type))
	a.Uint("protocol", uint64(ev.Protocol))
	a.Some("errno", uint64(max(ev.Errno, 0)))
	a.Flag("asked", ev.Asked)
	return "socket"
}

func describeLogin(ev *event.Login, a *Attrs) string {
	a.Text("user", ev.User)
	a.Text("via", ev.Via)
	if ev.Terminal != "" {
		a.Text("terminal", ev.Terminal)
	}
	if ev.Source.IsValid() {
		a.Text("source", ev.Source.String())
	}
	if ev.Host != "" {
		a.Text("claimed_host", ev.Host)
	}
	a.Uint("login_session", uint64(ev.SessionID))
	if ev.End {
		return "logout"
	}
	return "login"
}

// hex16 is a number in its sixteen hex digits.
func hex16(v uint64) string {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], v)
	return hex.EncodeToString(raw[:])
}

func texts(addrs []netip.Addr) []string {
	var all []string
	for _, addr := range addrs {
		all = append(all, addr.String())
	}
	return all
}

func describeUnknown(ev event.Event, a *Attrs) string {
	a.Text("event", fmt.Sprintf("%T", ev))
	return "other"
}

// describeKey says what the event alone tells of a process of which no more is known.
func describeKey(h *event.Header, a *Attrs) {
	comm, _, _ := bytes.Cut(h.Comm[:], []byte{0})
	a.Path("comm", comm)
	a.Uint("acting_uid", uint64(h.UID))
}
