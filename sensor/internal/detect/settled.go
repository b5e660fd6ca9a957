package detect

import (
	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What two observations have in common whose behaviour has one key in the kernel. An
// exec's key holds image, arguments, users, working directory, and the same of what
// the process and its parent were before; a flow's holds the image and the peer.
var (
	execFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.CommandLine, taxonomy.ParentImage, taxonomy.ParentCommandLine, taxonomy.User, taxonomy.ParentUser,
		taxonomy.CurrentDirectory, taxonomy.LogonID, taxonomy.Hashes, taxonomy.SHA256, taxonomy.Traits, taxonomy.ParentTraits, taxonomy.PreviousImage,
		taxonomy.Script, taxonomy.Serves, taxonomy.Known, taxonomy.AuditType, taxonomy.Syscall, taxonomy.Comm, taxonomy.AuditName, taxonomy.AuditNameType,
		taxonomy.AuditKey, taxonomy.AuditSuccess, taxonomy.AuditEUID, taxonomy.Argc).With(auditArgs()...)
	outFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Hashes, taxonomy.SHA256, taxonomy.Initiated, taxonomy.Protocol,
		taxonomy.DestinationIP, taxonomy.DestinationPort, taxonomy.Known, taxonomy.AuditType, taxonomy.Syscall, taxonomy.Comm)
	inFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Hashes, taxonomy.SHA256, taxonomy.Initiated, taxonomy.Protocol,
		taxonomy.SourceIP, taxonomy.DestinationPort, taxonomy.Known, taxonomy.AuditType, taxonomy.Syscall, taxonomy.Comm)
	lookupFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Hashes, taxonomy.SHA256, taxonomy.QueryName, taxonomy.Known)
	fileFixed   = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Hashes, taxonomy.SHA256, taxonomy.Operation, taxonomy.FileClass, taxonomy.Known,
		taxonomy.AuditType, taxonomy.Syscall, taxonomy.Comm, taxonomy.AuditNameType, taxonomy.AuditSuccess)
	// A library's load is one behaviour of the host, whoever loads it.
	loadFixed      = sigma.FieldsOf(taxonomy.ImageLoaded, taxonomy.LoadedTraits, taxonomy.Known)
	privilegeFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Hashes, taxonomy.SHA256, taxonomy.Operation, taxonomy.Command, taxonomy.Succeeded, taxonomy.Error, taxonomy.Known,
		taxonomy.AuditType, taxonomy.Comm, taxonomy.AuditSuccess)
	otherFixed = sigma.FieldsOf(taxonomy.Image, taxonomy.Traits, taxonomy.Known)
)

func auditArgs() (fields []int) {
	for i := range taxonomy.MaxAuditArgs {
		fields = append(fields, taxonomy.A0+i)
	}
	return fields
}

// Settled tells whether every observation with this one's kernel key is decided as this
// one is, which is as nothing: no rule can match, whatever the fields hold that the key
// does not, and its storyline has no finding. Only then may the kernel keep such events
// back. It is called after Evaluate found nothing.
func (e *Engine) Settled(o *event.Observation, v event.Verdict) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.New {
		return false
	}
	if story, ok := e.stories.get(o.Process.Anchor); ok && story.within(storyFor, o.Time) {
		return false
	}
	if _, _, marked := e.markOf(o.Process); marked {
		return false
	}
	fixed := otherFixed
	switch ev := o.Event.(type) {
	case *event.Exec:
		fixed = execFixed
	case *event.FlowOpen:
		fixed = outFixed
		if ev.Dir == event.Inbound {
			fixed = inFixed
		}
	case *event.DNS:
		fixed = lookupFixed
	case *event.File:
		fixed = fileFixed
		switch {
		case ev.Op == event.FileMapExec:
			fixed = loadFixed
		case !named(ev): // a rename's or a link's second name is not in its key
			fixed = fixed.With(taxonomy.TargetFilename, taxonomy.AuditName)
		}
	case *event.Privilege:
		fixed = privilegeFixed
	}
	if !o.Process.Hashed {
		fixed = fixed.Without(taxonomy.Hashes, taxonomy.SHA256)
	}
	set := e.sets[categoryOf(o.Event)]
	if set == nil {
		return true
	}
	e.record.reset(o, v)
	return !set.index.Possible(&e.record, fixed, &set.scratch)
}
