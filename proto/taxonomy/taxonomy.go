// Package taxonomy says which kinds of records there are for Sigma rules, what fields they
// have, and what those can hold. The sensor reads its events by it and the CLI lints rules
// by it, so that what is accepted in one place is in the other.
//
// Invariant: the numbers mean the same in one build only; nothing is stored or sent by them.
package taxonomy

import "github.com/vedette-edr/vedette/proto/sigma"

// The fields that rules may name, as the Sigma taxonomy does for Linux, and
// Vedette's own below "vedette.".
const (
	Image = iota
	CommandLine
	ParentImage
	ParentCommandLine
	User
	ParentUser
	CurrentDirectory
	LogonID
	ProcessID
	ParentProcessID
	Hashes
	SHA256
	Initiated
	Protocol
	SourceIP
	SourcePort
	DestinationIP
	DestinationPort
	DestinationHostname
	QueryName
	// Traits: memfd, deleted, world-writable-dir, set-id, hidden-path.
	Traits
	ParentTraits
	// PreviousImage: what the process was before it executed Image.
	PreviousImage
	Script
	Unit
	Container
	// Serves: true when this very process was forked for an accepted connection.
	Serves
	// OriginIP: whence the session came that the process belongs to.
	OriginIP
	// SocketFamily, SocketType: inet, inet6, packet, xdp, vsock; raw or a number.
	SocketFamily
	SocketType
	// SocketResult: made, refused, or asked (by io_uring, what became of it is not known).
	SocketResult
	Terminal
	// Via: the program that let a login in: sshd, login, cron, …
	Via
	// Known: true when this host does this all the time.
	Known
	// TargetFilename: the file, whatever alias led to it; of a rename or a link both names.
	TargetFilename
	// Operation: write, create, rename, …; of category privilege setuid, ptrace, …
	Operation
	// FileClass: credential, persistence, binary, module, web, history, log, other.
	FileClass
	// NewName: what it is called after a rename or a link; else as TargetFilename.
	NewName
	// SetID: true when the file runs as its owner or group.
	SetID
	TargetProcessID
	ImageLoaded
	// LoadedTraits: memfd, deleted, world-writable-dir, hidden-path, of the library.
	LoadedTraits
	// InSession: true when the process belongs to a session that came in over the network.
	InSession
	// Installs: true when the process or one that it descends from is a package manager.
	Installs
	// What follows is of category privilege.
	Call
	Succeeded
	Error
	Command
	Marks
	Namespaces
	Capabilities
	EffectiveUID
	PreviousUID
	Name
	Claimed
	TargetImage
	TargetUser
	// Storyline: PID.START of its root, as findings name it.
	Storyline
	// What follows is for auditd's rules, see audit.go.
	AuditType
	Syscall
	Comm
	AuditName
	AuditNameType
	AuditKey
	AuditSuccess
	AuditUID
	AuditEUID
	AuditSession
	Argc
	A0
	// FieldCount is how many there are.
	FieldCount = A0 + MaxAuditArgs
)

var processFields = map[string]int{
	"Image": Image, "CommandLine": CommandLine,
	"ParentImage": ParentImage, "ParentCommandLine": ParentCommandLine,
	"User": User, "ParentUser": ParentUser, "CurrentDirectory": CurrentDirectory,
	"LogonId": LogonID, "ProcessId": ProcessID, "ParentProcessId": ParentProcessID,
	"Hashes": Hashes, "sha256": SHA256, "Sha256": SHA256,
	"vedette.ImageTraits": Traits, "vedette.ParentTraits": ParentTraits,
	"vedette.Script": Script, "vedette.Unit": Unit, "vedette.Container": Container,
	"vedette.InSession": InSession, "vedette.Installs": Installs,
	"vedette.ServesConnection": Serves, "vedette.OriginIp": OriginIP, "vedette.Known": Known,
	"vedette.Storyline": Storyline,
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

// Schema is all that rules can be about, see also auditd's in audit.go.
var Schema = append(sigma.Schema{
	source("process_creation", map[string]int{"vedette.PreviousImage": PreviousImage}, CommandLine, Image),
	source("network_connection", map[string]int{
		"Initiated": Initiated, "Protocol": Protocol,
		"SourceIp": SourceIP, "SourcePort": SourcePort,
		"DestinationIp": DestinationIP, "DestinationPort": DestinationPort,
		"DestinationHostname": DestinationHostname,
	}),
	source("dns_query", map[string]int{"QueryName": QueryName}, QueryName, Image),
	source("network_socket", map[string]int{
		"Protocol": Protocol, "vedette.SocketFamily": SocketFamily,
		"vedette.SocketType": SocketType, "vedette.SocketResult": SocketResult,
	}),
	source("authentication", map[string]int{
		"SourceIp": SourceIP, "SourcePort": SourcePort, "Terminal": Terminal, "vedette.Via": Via,
	}),
	source("file_event", map[string]int{
		"TargetFilename": TargetFilename, "vedette.Operation": Operation, "vedette.FileClass": FileClass,
		"vedette.NewName": NewName, "vedette.SetId": SetID,
	}, TargetFilename, Image),
	source("file_delete", map[string]int{
		"TargetFilename": TargetFilename, "vedette.Operation": Operation, "vedette.FileClass": FileClass,
	}, TargetFilename, Image),
	source("image_load", map[string]int{"ImageLoaded": ImageLoaded, "vedette.LoadedTraits": LoadedTraits}),
	source("privilege", privilegeFields),
}, auditSources()...)

// privilegeFields are the fields of category privilege: Sigma has none for it.
// sensor/DESIGN.md lists what they hold.
var privilegeFields = map[string]int{
	"vedette.Operation": Operation, "vedette.Call": Call, "vedette.Succeeded": Succeeded,
	"vedette.Error": Error, "vedette.Command": Command, "vedette.Marks": Marks,
	"vedette.Namespaces": Namespaces, "vedette.GainedCapabilities": Capabilities,
	"vedette.EffectiveUid": EffectiveUID, "vedette.PreviousUid": PreviousUID,
	"vedette.Name": Name, "vedette.Claimed": Claimed,
	"TargetImage": TargetImage, "TargetProcessId": TargetProcessID, "TargetUser": TargetUser,
}
