package detect

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// The fields that rules may name, as the Sigma taxonomy does for Linux, and
// Vedette's own below "vedette.".
const (
	fieldImage = iota
	fieldCommandLine
	fieldParentImage
	fieldParentCommandLine
	fieldUser
	fieldParentUser
	fieldCurrentDirectory
	fieldLogonID
	fieldProcessID
	fieldParentProcessID
	fieldHashes
	fieldSHA256
	fieldInitiated
	fieldProtocol
	fieldSourceIP
	fieldSourcePort
	fieldDestinationIP
	fieldDestinationPort
	fieldDestinationHostname
	fieldQueryName
	// fieldTraits: memfd, deleted, world-writable-dir, set-id, hidden-path.
	fieldTraits
	fieldParentTraits
	// fieldPreviousImage: what the process was before it executed Image.
	fieldPreviousImage
	fieldScript
	fieldUnit
	fieldContainer
	// fieldServes: true when this very process was forked for an accepted connection.
	fieldServes
	// fieldOriginIP: whence the session came that the process belongs to.
	fieldOriginIP
	// fieldSocketFamily, fieldSocketType: inet, inet6, packet, xdp, vsock; raw or a number.
	fieldSocketFamily
	fieldSocketType
	// fieldSocketResult: made, refused, or asked (by io_uring, what became of it is not known).
	fieldSocketResult
	fieldTerminal
	// fieldVia: the program that let a login in: sshd, login, cron, …
	fieldVia
	// fieldKnown: true when this host does this all the time.
	fieldKnown
	// fieldTargetFilename: the file, whatever alias led to it; of a rename or a link both names.
	fieldTargetFilename
	// fieldOperation: write, create, rename, …; of category privilege setuid, ptrace, …
	fieldOperation
	// fieldFileClass: credential, persistence, binary, module, web, history, log, other.
	fieldFileClass
	// fieldNewName: what it is called after a rename or a link; else as TargetFilename.
	fieldNewName
	// fieldSetID: true when the file runs as its owner or group.
	fieldSetID
	fieldTargetProcessID
	fieldImageLoaded
	// fieldLoadedTraits: memfd, deleted, world-writable-dir, hidden-path, of the library.
	fieldLoadedTraits
	// fieldInSession: true when the process belongs to a session that came in over the network.
	fieldInSession
	// fieldInstalls: true when the process or one that it descends from is a package manager.
	fieldInstalls
	// What follows is of category privilege.
	fieldCall
	fieldSucceeded
	fieldError
	fieldCommand
	fieldMarks
	fieldNamespaces
	fieldCapabilities
	fieldEffectiveUID
	fieldPreviousUID
	fieldName
	fieldClaimed
	fieldTargetImage
	fieldTargetUser
	// fieldStoryline: PID.START of its root, as findings name it.
	fieldStoryline
	// What follows is for auditd's rules, see audit.go.
	fieldAuditType
	fieldSyscall
	fieldComm
	fieldAuditName
	fieldAuditNameType
	fieldAuditKey
	fieldAuditSuccess
	fieldAuditUID
	fieldAuditEUID
	fieldAuditSession
	fieldArgc
	fieldA0
	fieldCount = fieldA0 + maxAuditArgs
)

var processFields = map[string]int{
	"Image": fieldImage, "CommandLine": fieldCommandLine,
	"ParentImage": fieldParentImage, "ParentCommandLine": fieldParentCommandLine,
	"User": fieldUser, "ParentUser": fieldParentUser, "CurrentDirectory": fieldCurrentDirectory,
	"LogonId": fieldLogonID, "ProcessId": fieldProcessID, "ParentProcessId": fieldParentProcessID,
	"Hashes": fieldHashes, "sha256": fieldSHA256, "Sha256": fieldSHA256,
	"vedette.ImageTraits": fieldTraits, "vedette.ParentTraits": fieldParentTraits,
	"vedette.Script": fieldScript, "vedette.Unit": fieldUnit, "vedette.Container": fieldContainer,
	"vedette.InSession": fieldInSession, "vedette.Installs": fieldInstalls,
	"vedette.ServesConnection": fieldServes, "vedette.OriginIp": fieldOriginIP, "vedette.Known": fieldKnown,
	"vedette.Storyline": fieldStoryline,
}

func with(more map[string]int) map[string]int {
	all := make(map[string]int, len(processFields)+len(more))
	for name, number := range processFields {
		all[name] = number
	}
	for name, number := range more {
		all[name] = number
	}
	return all
}

// source is one kind of record; bare words are looked for in text, which is what the
// kernel's key of such an event holds.
func source(category string, more map[string]int, text ...int) sigma.Source {
	return sigma.Source{Of: category, Category: category, Fields: with(more), Text: text}
}

var schema = sigma.Schema{
	source("process_creation", map[string]int{"vedette.PreviousImage": fieldPreviousImage}, fieldCommandLine, fieldImage),
	source("network_connection", map[string]int{
		"Initiated": fieldInitiated, "Protocol": fieldProtocol,
		"SourceIp": fieldSourceIP, "SourcePort": fieldSourcePort,
		"DestinationIp": fieldDestinationIP, "DestinationPort": fieldDestinationPort,
		"DestinationHostname": fieldDestinationHostname,
	}),
	source("dns_query", map[string]int{"QueryName": fieldQueryName}, fieldQueryName, fieldImage),
	source("network_socket", map[string]int{
		"Protocol": fieldProtocol, "vedette.SocketFamily": fieldSocketFamily,
		"vedette.SocketType": fieldSocketType, "vedette.SocketResult": fieldSocketResult,
	}),
	source("authentication", map[string]int{
		"SourceIp": fieldSourceIP, "SourcePort": fieldSourcePort, "Terminal": fieldTerminal, "vedette.Via": fieldVia,
	}),
	source("file_event", map[string]int{
		"TargetFilename": fieldTargetFilename, "vedette.Operation": fieldOperation, "vedette.FileClass": fieldFileClass,
		"vedette.NewName": fieldNewName, "vedette.SetId": fieldSetID,
	}, fieldTargetFilename, fieldImage),
	source("file_delete", map[string]int{
		"TargetFilename": fieldTargetFilename, "vedette.Operation": fieldOperation, "vedette.FileClass": fieldFileClass,
	}, fieldTargetFilename, fieldImage),
	source("image_load", map[string]int{"ImageLoaded": fieldImageLoaded, "vedette.LoadedTraits": fieldLoadedTraits}),
	source("privilege", privilegeFields),
}

// record gives an observation's fields, each made when a rule first asks. It is
// used again for the next observation, and so is the memory of the texts that it had to
// make: they hold until the next reset, and who keeps one copies it.
type record struct {
	o      *event.Observation
	v      event.Verdict
	raw    [fieldCount][]string
	folded [fieldCount][]string
	have   [fieldCount]uint8 // 1: raw, 2: folded
	texts  []byte
}

// maxTexts bounds what is kept between observations; longer texts are of hostile events.
const maxTexts = 64 << 10

func (r *record) reset(o *event.Observation, v event.Verdict) {
	r.o, r.v = o, v
	r.have = [fieldCount]uint8{}
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
	case fieldImage:
		return text(p.Image)
	case fieldCommandLine:
		return text(r.joined(p.Argv))
	case fieldUser:
		return text(p.User)
	case fieldCurrentDirectory:
		return text(p.Cwd)
	case fieldLogonID:
		return append(out, strconv.FormatUint(uint64(p.UID), 10))
	case fieldProcessID:
		return append(out, strconv.FormatUint(uint64(p.Key.PID), 10))
	case fieldHashes:
		if p.Hashed {
			return append(out, "SHA256="+strings.ToUpper(hex.EncodeToString(p.SHA256[:])))
		}
	case fieldSHA256:
		if p.Hashed {
			return append(out, hex.EncodeToString(p.SHA256[:]))
		}
	case fieldTraits:
		return append(out, p.Traits...)
	case fieldScript:
		return text(p.Script)
	case fieldUnit:
		return text(p.Unit)
	case fieldContainer:
		return text(p.Container)
	case fieldServes:
		return append(out, strconv.FormatBool(p.Origin != nil && p.Anchor == p.Key))
	case fieldOriginIP:
		if p.Origin != nil {
			return append(out, p.Origin.Remote.Addr().Unmap().String())
		}
	case fieldKnown:
		return append(out, strconv.FormatBool(r.v.Known))
	case fieldPreviousImage:
		if r.o.Before != nil {
			return text(r.o.Before.Image)
		}
	case fieldParentImage, fieldParentCommandLine, fieldParentUser, fieldParentProcessID, fieldParentTraits:
		return r.parentValues(n, out)
	case fieldInstalls:
		return append(out, strconv.FormatBool(installs(p)))
	case fieldInSession:
		return append(out, strconv.FormatBool(p.Origin != nil))
	case fieldQueryName:
		if d, ok := r.o.Event.(*event.DNS); ok {
			return text(d.Name)
		}
	case fieldStoryline:
		return append(out, storyline(p))
	default:
		if n >= fieldAuditType {
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
	case fieldParentImage:
		s = p.Image
	case fieldParentCommandLine:
		s = r.joined(p.Argv)
	case fieldParentUser:
		s = p.User
	case fieldParentProcessID:
		s = strconv.FormatUint(uint64(p.Key.PID), 10)
	case fieldParentTraits:
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
	case fieldInitiated:
		return append(out, strconv.FormatBool(f.Dir == event.Outbound))
	case fieldProtocol:
		return append(out, protocol(f.Proto))
	case fieldSourceIP:
		return addr(source)
	case fieldSourcePort:
		return port(source)
	case fieldDestinationIP:
		return addr(destination)
	case fieldDestinationPort:
		return port(destination)
	case fieldDestinationHostname:
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
