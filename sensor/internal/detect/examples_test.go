package detect

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/rules"
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
	return netip.AddrPortFrom(a.Addr(), uint16(port)) //nolint:gosec // a test's own
}

func (s *staged) process(h *host) *event.Process {
	installer := ""
	if s.is(fieldInstalls) {
		installer = "/usr/bin/dpkg"
	}
	top := h.process(nil, installer)
	parent := h.process(top, s.text(fieldParentImage, "/srv/example/parent"), s.text(fieldParentCommandLine, "parent"))
	parent.User, parent.Traits = s.text(fieldParentUser, "example"), s.example[fieldParentTraits]
	p := h.process(parent, s.text(fieldImage, "/srv/example/program"))
	p.User, p.Cwd, p.Traits = s.text(fieldUser, "example"), s.text(fieldCurrentDirectory, "/"), s.example[fieldTraits]
	p.Script, p.Unit, p.Container = s.text(fieldScript, ""), s.text(fieldUnit, ""), s.text(fieldContainer, "")
	p.UID = uint32(s.number(fieldLogonID, 1234)) //nolint:gosec // parsed as 32 bits
	for i := range maxAuditArgs {
		if last := s.lastArg(); i <= last {
			p.Argv = append(p.Argv, s.text(fieldA0+i, "-"))
		}
	}
	if line := s.text(fieldCommandLine, ""); line != "" || len(p.Argv) == 0 {
		p.Argv = append(p.Argv, line)
	}
	if comm := s.text(fieldComm, ""); comm != "" {
		p.Argv[0] = comm
	}
	if s.is(fieldServes) || s.is(fieldInSession) || s.text(fieldOriginIP, "") != "" {
		p.Origin = &event.Flow{Remote: withPort(s.addr(fieldOriginIP, "192.0.2.77"), 4000), Local: netip.MustParseAddrPort("10.0.0.1:22")}
		p.Anchor = parent.Key
	}
	if s.is(fieldServes) {
		p.Anchor = p.Key
	}
	return p
}

func (s *staged) lastArg() int {
	for i := maxAuditArgs - 1; i >= 0; i-- {
		if len(s.example[fieldA0+i]) > 0 {
			return i
		}
	}
	return -1
}

// observation is of the kind that a rule is about; what cannot be is an error.
func (s *staged) observation(h *host, of string) (*event.Observation, event.Verdict, error) {
	p := s.process(h)
	o := &event.Observation{Time: h.tick(), Process: p}
	head := event.Header{Process: p.Key, UID: uint32(s.number(fieldAuditEUID, 1234))} //nolint:gosec // parsed as 32 bits
	switch of {
	case "process_creation":
		o.Event = &event.Exec{Header: head}
		if before := s.text(fieldPreviousImage, ""); before != "" {
			o.Before = &event.Process{Image: before}
		}
	case "network_connection":
		s.flow(o, head)
	case "dns_query":
		o.Event = &event.DNS{Header: head, Name: s.text(fieldQueryName, "example.org")}
	case "network_socket":
		s.socket(o, head)
	case "file_event", "file_delete", "image_load":
		s.file(o, head, of)
	case "privilege":
		s.privilege(h, o, head)
	default:
		return nil, event.Verdict{}, fmt.Errorf("an event of %s", of)
	}
	known := s.is(fieldKnown)
	return o, event.Verdict{Tracked: true, Known: known}, s.err
}

func (s *staged) flow(o *event.Observation, head event.Header) {
	source := withPort(s.addr(fieldSourceIP, "10.0.0.1"), s.number(fieldSourcePort, 40000))
	destination := withPort(s.addr(fieldDestinationIP, "198.51.100.7"), s.number(fieldDestinationPort, 4321))
	if key, told := s.example[fieldAuditKey]; told && len(key) == 0 {
		destination = netip.MustParseAddrPort("[2001:db8::7]:4321")
	}
	outbound := s.text(fieldInitiated, "true") == "true" && s.text(fieldSyscall, "connect") == "connect"
	f := &event.Flow{Proto: 6, Dir: event.Inbound, Local: destination, Remote: source, Name: s.text(fieldDestinationHostname, "")}
	if s.text(fieldProtocol, "tcp") == "udp" {
		f.Proto = 17
	}
	if outbound {
		f.Dir, f.Local, f.Remote = event.Outbound, source, destination
	}
	o.Flow = f
	o.Event = &event.FlowOpen{
		Header: head, Proto: f.Proto, Dir: f.Dir, Local: f.Local, Remote: f.Remote, Failed: s.text(fieldAuditSuccess, "yes") == "no",
	}
}

func (s *staged) socket(o *event.Observation, head event.Header) {
	families := map[string]uint16{"inet": 2, "inet6": 10, "packet": 17, "xdp": 44, "vsock": 40}
	ev := &event.Socket{Header: head, Family: families[s.text(fieldSocketFamily, "vsock")], Type: 1}
	if s.text(fieldSocketType, "") == "raw" {
		ev.Type = event.SocketTypeRaw
	}
	switch s.text(fieldSocketResult, "made") {
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
	case len(s.example[fieldAuditNameType]) > 0 && s.example[fieldAuditNameType][0] == "CREATE":
		ev.Op = event.FileCreate
	}
	for op := event.FileWrite; op <= event.FileMapExec; op++ {
		if op.String() == s.text(fieldOperation, "") || slices.Contains(fileCalls[op], s.text(fieldSyscall, "")) {
			ev.Op = op
		}
	}
	for class := event.FileOther; class <= event.FileLog; class++ {
		if class.String() == s.text(fieldFileClass, "") {
			ev.Class = class
		}
	}
	ev.Path = []byte(s.text(fieldTargetFilename, s.text(fieldAuditName, s.text(fieldImageLoaded, "/srv/example/file"))))
	if name := s.text(fieldNewName, ""); name != "" {
		ev.Path = []byte(name)
		if ev.Op == event.FileRename {
			ev.Path, ev.Target = []byte(s.text(fieldTargetFilename, name)), []byte(name)
		}
	}
	if s.is(fieldSetID) {
		ev.Mode = regular | setUIDBit
	}
	for _, trait := range s.example[fieldLoadedTraits] {
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
		Header: head, Operation: event.Operation(s.text(fieldOperation, "memfd")), Call: s.text(fieldCall, s.text(fieldSyscall, "")),
		Name: []byte(s.text(fieldName, "")), UIDBefore: uint32(s.number(fieldPreviousUID, 1234)), //nolint:gosec // parsed as 32 bits
	}
	ev.UID = uint32(s.number(fieldEffectiveUID, 1234)) //nolint:gosec // parsed as 32 bits
	if !slices.Contains([]string{"true", ""}, s.text(fieldSucceeded, "true")) || s.text(fieldError, "") != "" {
		ev.Result = -1 // EPERM
	}
	for _, mark := range s.example[fieldMarks] {
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
		if want := s.text(fieldCommand, ""); want == "" || strings.EqualFold(ev.CommandName(), want) {
			break
		}
	}
	for _, c := range s.example[fieldClaimed] {
		ev.Claimed = append(ev.Claimed, []byte(c))
	}
	ev.Gained = ev.Gained || len(s.example[fieldCapabilities]) > 0
	for bit := range 41 {
		ev.Caps = 1 << bit
		if want := s.example[fieldCapabilities]; len(want) == 0 || slices.Contains(ev.GainedCapabilities(), want[0]) {
			break
		}
	}
	for bit := range 64 {
		ev.Arguments = 1 << bit
		if want := s.example[fieldNamespaces]; len(want) == 0 || slices.Contains(ev.Namespaces(), want[0]) {
			break
		}
	}
	if s.text(fieldTargetImage, "") != "" || s.text(fieldTargetUser, "") != "" {
		o.Target = h.process(nil, s.text(fieldTargetImage, "/srv/example/target"))
		o.Target.User = s.text(fieldTargetUser, "example")
	}
	o.Event = ev
}

// givenOf is what auditd's rules find in every record of a kind.
var givenOf = map[string]sigma.Example{
	"process_creation": {
		fieldAuditType: {"SYSCALL", "EXECVE", "PATH", "CWD", "PROCTITLE"}, fieldSyscall: {"execve"}, fieldAuditSuccess: {"yes"}, fieldAuditNameType: {"NORMAL"},
	},
	"file_event":         {fieldAuditType: {"SYSCALL", "PATH"}, fieldAuditSuccess: {"yes"}},
	"file_delete":        {fieldAuditType: {"SYSCALL", "PATH"}, fieldAuditSuccess: {"yes"}, fieldAuditNameType: {"DELETE"}},
	"network_connection": {fieldAuditType: {"SYSCALL"}},
	"privilege":          {fieldAuditType: {"SYSCALL"}},
}

// Ensure each rule, built in or of the ecosystem, that can match has an event of the sensor's
// own kinds that it matches, and one that it does not, made up from its condition.
func TestExamples(t *testing.T) {
	t.Run("built in", func(t *testing.T) { tryExamples(t, engine(t), parseAll(t, rules.Files)) })
	t.Run("ecosystem", func(t *testing.T) {
		dir := ecosystem(t)
		tryExamples(t, engine(t, func(c *Config) { c.RulesDir = dir; c.MinLevel = event.Informational }), parseAll(t, os.DirFS(dir)))
	})
}

func tryExamples(t *testing.T, e *Engine, of []*sigma.Rule) {
	h := newHost()
	positive, negative, mapped := 0, 0, 0
	var without []string
	for _, r := range of {
		matched, missed := false, false
		used := false
		why := ""
		for kind, set := range e.sets {
			for _, m := range set.rules {
				if m.id != idOf(&r.Header) {
					continue
				}
				used = true
				match, miss, err := m.Examples(givenOf[kind])
				if err != nil {
					why = err.Error()
					continue
				}
				for _, x := range []struct {
					example sigma.Example
					want    bool
				}{{match, true}, {miss, false}} {
					s := &staged{example: x.example}
					o, v, err := s.observation(h, kind)
					if err != nil {
						why += fmt.Sprintf("%s: %v; ", kind, err)
						continue
					}
					got := slices.Contains(e.matching(o, v), m)
					switch {
					case got && x.want:
						matched = true
					case !got && !x.want:
						missed = true
					default:
						why += fmt.Sprintf("%s: %v for %v; ", kind, got, x.example)
					}
				}
			}
		}
		if !used {
			continue
		}
		mapped++
		if matched {
			positive++
		}
		if missed {
			negative++
		}
		if !matched || !missed {
			without = append(without, r.Title+": "+why)
		}
	}
	t.Logf("of %d rules %d are used; events were made up for %d that match, %d that do not", len(of), mapped, positive, negative)
	for _, text := range without {
		t.Log(strings.ToValidUTF8(text, "?"))
	}
	if len(without) > 0 {
		t.Errorf("%d rules lack one", len(without))
	}
}
