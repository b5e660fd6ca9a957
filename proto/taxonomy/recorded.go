package taxonomy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/sigma"
)

// maxRecordedProcesses bounds whom a Recording remembers to know parents by; the oldest go.
const maxRecordedProcesses = 65536

// Recording reads what a sensor's recorder told, one JSON object a line, in the order of
// time, so that parents are known by their own records. It is not for several goroutines.
type Recording struct {
	processes map[string]*process
	order     []string
}

// Record is one record as rules see it.
type Record struct {
	sigma.Example
	Of    string       // kind of record; "" when it is of none that rules can be about
	Known sigma.Fields // that the recording tells; what others held is not known
	Time  string
	Type  string
	Image string
}

type text string

// UnmarshalJSON takes a string, or what was no text.
func (t *text) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '{' {
		var coded struct {
			Base64 []byte `json:"base64"`
		}
		if err := json.Unmarshal(raw, &coded); err != nil {
			return fmt.Errorf("reading bytes: %w", err)
		}
		*t = text(coded.Base64)
		return nil
	}
	return json.Unmarshal(raw, (*string)(t))
}

type process struct {
	ID          string  `json:"id"`
	PID         uint32  `json:"pid"`
	Start       uint64  `json:"start"`
	ParentPID   *uint32 `json:"parent_pid"`
	ParentStart *uint64 `json:"parent_start"`
	Image       *text   `json:"image"`
	Argv        []text  `json:"argv"`
	Truncated   bool    `json:"argv_truncated"`
	UID         *uint32 `json:"uid"`
	User        text    `json:"user"`
	LoginUID    *uint32 `json:"login_uid"`
	Cwd         text    `json:"cwd"`
	Unit        text    `json:"unit"`
	Container   text    `json:"container"`
	Script      text    `json:"script"`
	Traits      []text  `json:"traits"`
	SHA256      string  `json:"sha256"`
}

type recorded struct {
	Time      string   `json:"time"`
	Type      string   `json:"type"`
	Process   *process `json:"process"`
	Storyline string   `json:"storyline"`
	Flow      *struct {
		Protocol  string `json:"protocol"`
		Direction string `json:"direction"`
		Local     string `json:"local"`
		Remote    string `json:"remote"`
		Name      text   `json:"name"`
		Failed    bool   `json:"failed"`
	} `json:"flow"`

	Op       string `json:"op"`
	Class    string `json:"class"`
	Path     text   `json:"path"`
	Target   *text  `json:"target"`
	Query    text   `json:"query"`
	Response bool   `json:"response"`
	Call     string `json:"call"`
	Errno    uint64 `json:"errno"`
	Text     *text  `json:"text"`
	User     text   `json:"user"`
	Via      text   `json:"via"`
	Terminal text   `json:"terminal"`
	Source   string `json:"source"`
}

// Read takes one line.
func (r *Recording) Read(line []byte) (*Record, error) {
	var in recorded
	if err := json.Unmarshal(line, &in); err != nil {
		return nil, fmt.Errorf("reading record: %w", err)
	}
	out := &Record{Example: sigma.Example{}, Time: in.Time, Type: in.Type, Of: in.kind()}
	if p := in.Process; p != nil {
		if p.Image != nil {
			out.Image = string(*p.Image)
		}
		r.describe(out, p)
		r.remember(p)
	}
	if in.Storyline != "" {
		out.put(Storyline, in.Storyline)
	}
	switch out.Of {
	case "process_creation":
		out.exec(in.Process)
	case "network_connection":
		out.flow(&in)
	case "dns_query":
		out.put(QueryName, string(in.Query))
	case "file_event", "file_delete", "image_load":
		out.file(&in)
	case "privilege":
		out.privilege(&in)
	case "authentication":
		out.login(&in)
	}
	return out, nil
}

func (in *recorded) kind() string {
	switch in.Type {
	case "exec":
		return "process_creation"
	case "flow-open":
		return "network_connection"
	case "dns":
		if !in.Response {
			return "dns_query"
		}
	case "file":
		switch in.Op {
		case "map-exec":
			return "image_load"
		case "unlink", "rmdir":
			return "file_delete"
		}
		return "file_event"
	case "privilege":
		return "privilege"
	case "socket":
		return "network_socket"
	case "login":
		return "authentication"
	}
	return ""
}

// put tells a field; a value that is empty says that the event had none.
func (r *Record) put(field int, values ...string) {
	r.Known = r.Known.With(field)
	for _, v := range values {
		if v != "" {
			r.Example[field] = append(r.Example[field], v)
		}
	}
}

func (r *Recording) describe(out *Record, p *process) {
	out.put(ProcessID, strconv.FormatUint(uint64(p.PID), 10))
	if p.Image == nil {
		return
	}
	out.put(Image, string(*p.Image))
	if !p.Truncated {
		out.put(CommandLine, p.line())
	}
	out.put(User, string(p.User))
	out.put(CurrentDirectory, string(p.Cwd))
	out.put(Unit, string(p.Unit))
	out.put(Container, string(p.Container))
	out.put(Script, string(p.Script))
	out.put(Traits, plain(p.Traits)...)
	if p.UID != nil {
		out.put(LogonID, strconv.FormatUint(uint64(*p.UID), 10))
	}
	if p.LoginUID != nil {
		out.put(AuditUID, strconv.FormatUint(uint64(*p.LoginUID), 10))
	}
	if p.SHA256 != "" {
		out.put(SHA256, p.SHA256)
		out.put(Hashes, "SHA256="+strings.ToUpper(p.SHA256))
	}
	if p.ParentPID == nil || p.ParentStart == nil {
		return
	}
	out.put(ParentProcessID, strconv.FormatUint(uint64(*p.ParentPID), 10))
	if parent := r.processes[key(*p.ParentPID, *p.ParentStart)]; parent != nil {
		out.put(ParentImage, string(*parent.Image))
		if !parent.Truncated {
			out.put(ParentCommandLine, parent.line())
		}
		out.put(ParentUser, string(parent.User))
		out.put(ParentTraits, plain(parent.Traits)...)
	}
}

func key(pid uint32, start uint64) string { return fmt.Sprintf("%d.%d", pid, start) }

func (r *Recording) remember(p *process) {
	if p.Image == nil {
		return
	}
	if r.processes == nil {
		r.processes = map[string]*process{}
	}
	id := key(p.PID, p.Start)
	if _, known := r.processes[id]; !known {
		r.order = append(r.order, id)
	}
	r.processes[id] = p
	if len(r.order) > maxRecordedProcesses {
		delete(r.processes, r.order[0])
		r.order = r.order[1:]
	}
}

func plain(list []text) (all []string) {
	for _, t := range list {
		all = append(all, string(t))
	}
	return all
}

func (p *process) line() string { return strings.Join(plain(p.Argv), " ") }

// audit tells what auditd's rules find in each record of the kind.
func (r *Record) audit(also ...string) {
	for field, values := range Given(r.Of) {
		r.put(field, values...)
	}
	if len(also) > 0 {
		r.put(Syscall, also...)
	}
}

// commLength is TASK_COMM_LEN without the end.
const commLength = 15

func (r *Record) exec(p *process) {
	r.audit()
	if p == nil || p.Image == nil {
		return
	}
	names := []string{path.Base(string(*p.Image))}
	if len(p.Argv) > 0 {
		names = append(names, path.Base(string(p.Argv[0])))
	}
	for i := range names {
		names[i] = names[i][:min(len(names[i]), commLength)]
	}
	r.put(Comm, slices.Compact(names)...)
	r.put(AuditName, string(*p.Image), string(p.Script))
	if p.Truncated {
		return
	}
	r.put(Argc, strconv.Itoa(len(p.Argv)))
	for i := range MaxAuditArgs {
		value := ""
		if i < len(p.Argv) {
			value = string(p.Argv[i])
		}
		r.put(A0+i, value)
	}
}

func (r *Record) flow(in *recorded) {
	if in.Flow == nil {
		return
	}
	outbound := in.Flow.Direction == "out"
	source, destination, name, call := in.Flow.Local, in.Flow.Remote, string(in.Flow.Name), "connect"
	if !outbound {
		source, destination, name, call = in.Flow.Remote, in.Flow.Local, "", "accept"
	}
	r.audit(call)
	r.put(Initiated, strconv.FormatBool(outbound))
	r.put(Protocol, in.Flow.Protocol)
	r.put(DestinationHostname, name)
	r.put(AuditSuccess, map[bool]string{true: "no", false: "yes"}[in.Flow.Failed])
	for _, end := range []struct {
		text     string
		ip, port int
	}{{source, SourceIP, SourcePort}, {destination, DestinationIP, DestinationPort}} {
		if at, err := netip.ParseAddrPort(end.text); err == nil {
			r.put(end.ip, at.Addr().Unmap().String())
			r.put(end.port, strconv.Itoa(int(at.Port())))
		}
	}
}

func (r *Record) file(in *recorded) {
	r.audit(FileCalls[in.Op]...)
	r.put(Operation, in.Op)
	r.put(FileClass, in.Class)
	names := []string{string(in.Path)}
	last := names[0]
	if in.Target != nil && (in.Op == "rename" || in.Op == "link") {
		names = append(names, string(*in.Target))
		last = names[1]
	}
	if in.Op == "map-exec" {
		r.put(ImageLoaded, names...)
		return
	}
	r.put(TargetFilename, names...)
	r.put(AuditName, names...)
	r.put(NewName, last)
}

func (r *Record) privilege(in *recorded) {
	r.audit(in.Call)
	r.put(Operation, in.Op)
	r.put(Call, in.Call)
	r.put(Succeeded, strconv.FormatBool(in.Errno == 0))
	name := ""
	if in.Text != nil {
		name = string(*in.Text)
	}
	r.put(Name, name)
}

func (r *Record) login(in *recorded) {
	delete(r.Example, User)
	r.put(User, string(in.User))
	r.put(Via, string(in.Via))
	r.put(Terminal, string(in.Terminal))
	if at, err := netip.ParseAddrPort(in.Source); err == nil {
		r.put(SourceIP, at.Addr().Unmap().String())
		r.put(SourcePort, strconv.Itoa(int(at.Port())))
	}
}
