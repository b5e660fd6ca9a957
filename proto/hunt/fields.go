package hunt

import "strings"

// Field is something that records tell.
type Field uint8

// Fields. What each is called and which kinds of record tell it stands in fields.
const (
	Image Field = iota
	CommandLine
	Argument
	User
	UID
	PID
	LoginUID
	Cwd
	Unit
	Container
	SHA256
	Script
	Interpreter
	Trait
	Storyline
	Type
	ParentImage
	ParentCommandLine
	ParentUser
	ParentPID
	RemoteAddress
	RemotePort
	RemoteName
	LocalAddress
	LocalPort
	Protocol
	Direction
	BytesIn
	BytesOut
	Failed
	Name
	AnswerAddress
	CName
	RCode
	Path
	NewPath
	Operation
	Class
	Mode
	Owner
	Call
	Errno
	Gained
	Unexplained
	TargetImage
	TargetPID
	Text
	Account
	Via
	Terminal
	SourceAddress
	fieldCount
)

// Form is what the values of a field are.
type Form uint8

// Forms.
const (
	Texts Form = iota
	Numbers
	Addresses
	Flags // true or false
)

// field is how a Field is written.
type field struct {
	name   string
	form   Form
	kinds  Kind
	parent bool
	says   string
}

const flows = Network | DNS

var fields = [fieldCount]field{
	Image:       {"image", Texts, Any, false, "path of the program"},
	CommandLine: {"command_line", Texts, Any, false, "all arguments with a space between them"},
	Argument:    {"argument", Texts, Any, false, "any one of the arguments"},
	User:        {"user", Texts, Any, false, "name of the effective user"},
	UID:         {"uid", Numbers, Any, false, "number of the effective user"},
	PID:         {"pid", Numbers, Any, false, "number of the process"},
	LoginUID:    {"login_uid", Numbers, Any, false, "number of the user who logged in"},
	Cwd:         {"cwd", Texts, Any, false, "working directory"},
	Unit:        {"unit", Texts, Any, false, "systemd unit"},
	Container:   {"container", Texts, Any, false, "id of the container"},
	SHA256:      {"sha256", Texts, Any, false, "hash of the program, hex, when it was taken"},
	Script:      {"script", Texts, Any, false, "script that an interpreter runs"},
	Interpreter: {"interpreter", Texts, Any, false, "program that runs the script"},
	Trait:       {"trait", Texts, Any, false, "memfd, deleted, world-writable-dir, set-id, hidden-path"},
	Storyline:   {"storyline", Texts, Any, false, "PID.START of its root"},
	Type:        {"type", Texts, Any, false, "the record's own: exec, flow-open, …"},

	ParentImage:       {"parent.image", Texts, Any, true, "path of the parent's program"},
	ParentCommandLine: {"parent.command_line", Texts, Any, true, "the parent's arguments"},
	ParentUser:        {"parent.user", Texts, Any, true, "the parent's user"},
	ParentPID:         {"parent.pid", Numbers, Any, false, "number of the parent"},

	RemoteAddress: {"remote.address", Addresses, flows, false, "the other end; an address or a prefix (10.0.0.0/8)"},
	RemotePort:    {"remote.port", Numbers, flows, false, "port of the other end"},
	RemoteName:    {"remote.name", Texts, Network, false, "what the address was resolved from on the host"},
	LocalAddress:  {"local.address", Addresses, flows, false, "this end"},
	LocalPort:     {"local.port", Numbers, flows, false, "port of this end"},
	Protocol:      {"protocol", Texts, flows, false, "tcp, udp"},
	Direction:     {"direction", Texts, flows, false, "in or out: who opened it"},
	BytesIn:       {"bytes_in", Numbers, Network, false, "bytes received, when it closed"},
	BytesOut:      {"bytes_out", Numbers, Network, false, "bytes sent, when it closed"},
	Failed:        {"failed", Flags, Network, false, "the connection never stood"},

	Name:          {"name", Texts, DNS, false, "what was looked up"},
	AnswerAddress: {"answer", Addresses, DNS, false, "any address of the answer"},
	CName:         {"cname", Texts, DNS, false, "any other name of the answer"},
	RCode:         {"rcode", Numbers, DNS, false, "code of the answer: 3 is no such name"},

	Path:    {"path", Texts, File, false, "the file, whatever alias led to it"},
	NewPath: {"new_path", Texts, File, false, "the second name of a rename or link"},
	Class:   {"class", Texts, File, false, "credential, persistence, binary, module, web, history, log, other"},
	Mode:    {"mode", Numbers, File, false, "type and permissions; 0o4000 is set-user-id"},
	Owner:   {"owner", Numbers, File, false, "number of the file's owner"},

	Operation:   {"operation", Texts, File | Privilege, false, "write, create, rename, …; setuid, ptrace, mount, …"},
	Errno:       {"errno", Numbers, File | Privilege | Other, false, "why it was refused"},
	Call:        {"call", Texts, Privilege, false, "the system call"},
	Gained:      {"gained", Flags, Privilege, false, "it became root or got capabilities"},
	Unexplained: {"unexplained", Flags, Privilege, false, "gained with nothing that allows it"},
	TargetImage: {"target.image", Texts, Privilege, false, "program of the process that it was done to"},
	TargetPID:   {"target.pid", Numbers, Privilege, false, "number of the process that it was done to"},
	Text:        {"text", Texts, Privilege, false, "what was mounted, loaded, named"},

	Account:       {"account", Texts, Login, false, "who logged in or out"},
	Via:           {"via", Texts, Login, false, "program that let the login in: sshd, login, cron, …"},
	Terminal:      {"terminal", Texts, Login, false, "terminal of the login"},
	SourceAddress: {"source.address", Addresses, Login, false, "where the login came from"},
}

// aliases are names that other tools have taught people.
var aliases = map[string]Field{
	"process.image": Image, "process.executable": Image, "executable": Image, "commandline": CommandLine, "cmdline": CommandLine,
	"process.command_line": CommandLine, "argv": Argument, "process.args": Argument, "traits": Trait, "parent.executable": ParentImage,
	"parent.commandline": ParentCommandLine, "ppid": ParentPID, "destination.address": RemoteAddress, "destination.port": RemotePort,
	"query": Name, "dns.name": Name, "filename": Path, "file.path": Path, "op": Operation, "hash": SHA256,
}

var byName = func() map[string]Field {
	all := make(map[string]Field, int(fieldCount)+len(aliases))
	for f := range fieldCount {
		all[fields[f].name] = f
	}
	for name, f := range aliases {
		all[name] = f
	}
	return all
}()

// String implements fmt.Stringer: the name as it is written.
func (f Field) String() string { return fields[f].name }

// Doc is a field as it is told to people.
type Doc struct {
	Name, Form, Says string
	Kinds            []string
}

// Fields are all of them, in their order.
func Fields() (all []Doc) {
	forms := [...]string{Texts: "text", Numbers: "number", Addresses: "address", Flags: "true or false"}
	for _, f := range fields {
		d := Doc{Name: f.name, Form: forms[f.form], Says: f.says, Kinds: kindNames(f.kinds)}
		all = append(all, d)
	}
	return all
}

// kindNames are the kinds in a set that may be asked for, "any" alone for all.
func kindNames(set Kind) (names []string) {
	if set == Any {
		return []string{"any"}
	}
	for _, k := range kinds {
		if k.kind != Any && k.kind != Other && set&k.kind != 0 {
			names = append(names, k.word)
		}
	}
	return names
}

// nearest is the field name most like what was written, "" when none is.
func nearest(word string) string {
	best, at := "", 3
	for f := range fieldCount {
		name := fields[f].name
		if strings.HasSuffix(name, "."+word) || strings.HasPrefix(name, word+"_") {
			return name
		}
		if d := distance(word, name, at); d < at {
			best, at = name, d
		}
	}
	return best
}

// distance is Levenshtein's, or limit when it is not below that.
func distance(a, b string, limit int) int {
	if len(a) > 64 || max(len(a), len(b))-min(len(a), len(b)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
