package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// staged makes an observation, as enrich does, that has the values of an example.
type staged struct {
	example sigma.Example
	err     error
}

func (s *staged) text(field int, otherwise string) string {
	if values := s.example[field]; len(values) > 0 {
		return values[0]
	}
	return otherwise
}

func (s *staged) is(field int) bool { return s.text(field, "false") == "true" }

func (s *staged) number(field int, otherwise uint64) uint64 {
	n, err := strconv.ParseUint(s.text(field, strconv.FormatUint(otherwise, 10)), 10, 32)
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("a number: %w", err)
	}
	return n
}

func (s *staged) addr(field int, otherwise string) netip.AddrPort {
	addr, err := netip.ParseAddr(s.text(field, otherwise))
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("an address: %w", err)
	}
	return netip.AddrPortFrom(addr, 0)
}

func withPort(a netip.AddrPort, port uint64) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), uint16(port)) //nolint:gosec // below 65536 in every record that is made up
}

func (s *staged) process(h *host) *event.Process {
	installer := ""
	if s.is(taxonomy.Installs) {
		installer = "/usr/bin/dpkg"
	}
	top := h.process(nil, installer)
	parent := h.process(top, s.text(taxonomy.ParentImage, "/srv/example/parent"), s.text(taxonomy.ParentCommandLine, "parent"))
	parent.User, parent.Traits = s.text(taxonomy.ParentUser, "example"), s.example[taxonomy.ParentTraits]
	p := h.process(parent, s.text(taxonomy.Image, "/srv/example/program"))
	p.User, p.Cwd, p.Traits = s.text(taxonomy.User, "example"), s.text(taxonomy.CurrentDirectory, "/"), s.example[taxonomy.Traits]
	p.Script, p.Unit, p.Container = s.text(taxonomy.Script, ""), s.text(taxonomy.Unit, ""), s.text(taxonomy.Container, "")
	p.UID = uint32(s.number(taxonomy.LogonID, 1234)) //nolint:gosec // parsed as 32 bits
	for i := range taxonomy.MaxAuditArgs {
		if last := s.lastArg(); i <= last {
			p.Argv = append(p.Argv, s.text(taxonomy.A0+i, "-"))
		}
	}
	if line := s.text(taxonomy.CommandLine, ""); line != "" || len(p.Argv) == 0 {
		p.Argv = append(p.Argv, line)
	}
	if comm := s.text(taxonomy.Comm, ""); comm != "" {
		p.Argv[0] = comm
	}
	if s.is(taxonomy.Serves) || s.is(taxonomy.InSession) || s.text(taxonomy.OriginIP, "") != "" {
		p.Origin = &event.Flow{Remote: withPort(s.addr(taxonomy.OriginIP, "192.0.2.77"), 4000), Local: netip.MustParseAddrPort("10.0.0.1:22")}
		p.Anchor = parent.Key
	}
	if s.is(taxonomy.Serves) {
		p.Anchor = p.Key
	}
	return p
}

func (s *staged) lastArg() int {
	for i := taxonomy.MaxAuditArgs - 1; i >= 0; i-- {
		if len(s.example[taxonomy.A0+i]) > 0 {
			return i
		}
	}
	return -1
}

// observation is of the kind that a rule is about; what cannot be is an error.
func (s *staged) observation(h *host, of string) (*event.Observation, event.Verdict, error) {
	p := s.process(h)
	o := &event.Observation{Time: h.tick(), Process: p}
	head := event.Header{Process: p.Key, UID: uint32(s.number(taxonomy.AuditEUID, 1234))} //nolint:gosec // parsed as 32 bits
	switch of {
	case "process_creation":
		o.Event = &event.Exec{Header: head}
		if before := s.text(taxonomy.PreviousImage, ""); before != "" {
			o.Before = &event.Process{Image: before}
		}
	case "network_connection":
		s.flow(o, head)
	case "dns_query":
		o.Event = &event.DNS{Header: head, Name: s.text(taxonomy.QueryName, "example.org")}
	case "network_socket":
		s.socket(o, head)
	case "file_event", "file_delete", "image_load":
		s.file(o, head, of)
	case "privilege":
		s.privilege(h, o, head)
	default:
		return nil, event.Verdict{}, fmt.Errorf("an event of %s", of)
	}
	known := s.is(taxonomy.Known)
	return o, event.Verdict{Tracked: true, Known: known}, s.err
}

func (s *staged) flow(o *event.Observation, head event.Header) {
	source := withPort(s.addr(taxonomy.SourceIP, "10.0.0.1"), s.number(taxonomy.SourcePort, 40000))
	destination := withPort(s.addr(taxonomy.DestinationIP, "198.51.100.7"), s.number(taxonomy.DestinationPort, 4321))
	if key, told := s.example[taxonomy.AuditKey]; told && len(key) == 0 {
		destination = netip.MustParseAddrPort("[2001:db8::7]:4321")
	}
	outbound := s.text(taxonomy.Initiated, "true") == "true" && s.text(taxonomy.Syscall, "connect") == "connect"
	f := &event.Flow{Proto: 6, Dir: event.Inbound, Local: destination, Remote: source, Name: s.text(taxonomy.DestinationHostname, "")}
	if s.text(taxonomy.Protocol, "tcp") == "udp" {
		f.Proto = 17
	}
	if outbound {
		f.Dir, f.Local, f.Remote = event.Outbound, source, destination
	}
	o.Flow = f
	o.Event = &event.FlowOpen{
		Header: head, Proto: f.Proto, Dir: f.Dir, Local: f.Local, Remote: f.Remote, Failed: s.text(taxonomy.AuditSuccess, "yes") == "no",
	}
}

func (s *staged) socket(o *event.Observation, head event.Header) {
	families := map[string]uint16{"inet": 2, "inet6": 10, "packet": 17, "xdp": 44, "vsock": 40}
	ev := &event.Socket{Header: head, Family: families[s.text(taxonomy.SocketFamily, "vsock")], Type: 1}
	if s.text(taxonomy.SocketType, "") == "raw" {
		ev.Type = event.SocketTypeRaw
	}
	switch s.text(taxonomy.SocketResult, "made") {
	case "asked":
		ev.Asked = true
	case "refused":
		ev.Errno = 1
	}
	o.Event = ev
}

func (s *staged) file(o *event.Observation, head event.Header, of string) {
	ev := &event.File{Header: head, Op: event.FileWrite, NLink: 1}
	switch {
	case of == "file_delete":
		ev.Op = event.FileUnlink
	case of == "image_load":
		ev.Op = event.FileMapExec
	case len(s.example[taxonomy.AuditNameType]) > 0 && s.example[taxonomy.AuditNameType][0] == "CREATE":
		ev.Op = event.FileCreate
	}
	for op := event.FileWrite; op <= event.FileMapExec; op++ {
		if op.String() == s.text(taxonomy.Operation, "") || slices.Contains(fileCalls[op], s.text(taxonomy.Syscall, "")) {
			ev.Op = op
		}
	}
	for class := event.FileOther; class <= event.FileLog; class++ {
		if class.String() == s.text(taxonomy.FileClass, "") {
			ev.Class = class
		}
	}
	ev.Path = []byte(s.text(taxonomy.TargetFilename, s.text(taxonomy.AuditName, s.text(taxonomy.ImageLoaded, "/srv/example/file"))))
	if name := s.text(taxonomy.NewName, ""); name != "" {
		ev.Path = []byte(name)
		if ev.Op == event.FileRename {
			ev.Path, ev.Target = []byte(s.text(taxonomy.TargetFilename, name)), []byte(name)
		}
	}
	if s.is(taxonomy.SetID) {
		ev.Mode = regular | setUIDBit
	}
	for _, trait := range s.example[taxonomy.LoadedTraits] {
		switch trait {
		case event.TraitMemFD:
			ev.MemoryFD = true
		case event.TraitDeleted:
			ev.NLink = 0
		case event.TraitWorldWritable:
			ev.OpenPlace = true
		case event.TraitHidden:
			ev.Path = []byte("/srv/.hidden/file")
		}
	}
	o.Event = ev
}

func (s *staged) privilege(h *host, o *event.Observation, head event.Header) {
	ev := &event.Privilege{
		Header: head, Operation: event.Operation(s.text(taxonomy.Operation, "memfd")), Call: s.text(taxonomy.Call, s.text(taxonomy.Syscall, "")),
		Name: []byte(s.text(taxonomy.Name, "")), UIDBefore: uint32(s.number(taxonomy.PreviousUID, 1234)), //nolint:gosec // parsed as 32 bits
	}
	ev.UID = uint32(s.number(taxonomy.EffectiveUID, 1234)) //nolint:gosec // parsed as 32 bits
	if !slices.Contains([]string{"true", ""}, s.text(taxonomy.Succeeded, "true")) || s.text(taxonomy.Error, "") != "" {
		ev.Result = -1 // EPERM
	}
	for _, mark := range s.example[taxonomy.Marks] {
		flag := map[string]*bool{
			"gained": &ev.Gained, "unexplained": &ev.Unexplained, "sensor": &ev.Ours, "claimed-object": &ev.ClaimedObject, "writable": &ev.Writable,
			"modified": &ev.Modified, "memory-file": &ev.MemoryFile, "from-kernel": &ev.FromKernel, "host-mounts": &ev.HostMounts, "32-bit": &ev.Compat,
		}[mark]
		if flag != nil {
			*flag = true
		}
	}
	for number := range uint32(1 << 15) {
		ev.Command = number
		if want := s.text(taxonomy.Command, ""); want == "" || strings.EqualFold(ev.CommandName(), want) {
			break
		}
	}
	for _, c := range s.example[taxonomy.Claimed] {
		ev.Claimed = append(ev.Claimed, []byte(c))
	}
	ev.Gained = ev.Gained || len(s.example[taxonomy.Capabilities]) > 0
	for bit := range 41 {
		ev.Caps = 1 << bit
		if want := s.example[taxonomy.Capabilities]; len(want) == 0 || slices.Contains(ev.GainedCapabilities(), want[0]) {
			break
		}
	}
	for bit := range 64 {
		ev.Arguments = 1 << bit
		if want := s.example[taxonomy.Namespaces]; len(want) == 0 || slices.Contains(ev.Namespaces(), want[0]) {
			break
		}
	}
	if s.text(taxonomy.TargetImage, "") != "" || s.text(taxonomy.TargetUser, "") != "" {
		o.Target = h.process(nil, s.text(taxonomy.TargetImage, "/srv/example/target"))
		o.Target.User = s.text(taxonomy.TargetUser, "example")
	}
	o.Event = ev
}
