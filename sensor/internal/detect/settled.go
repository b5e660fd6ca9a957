package detect

import (
	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// What two observations have in common whose behaviour has one key in the kernel. An
// exec's key holds image, arguments, users, working directory, and the same of what
// the process and its parent were before; a flow's holds the image and the peer.
var (
	execFixed = sigma.FieldsOf(fieldImage, fieldCommandLine, fieldParentImage, fieldParentCommandLine, fieldUser, fieldParentUser,
		fieldCurrentDirectory, fieldLogonID, fieldHashes, fieldSHA256, fieldTraits, fieldParentTraits, fieldPreviousImage,
		fieldScript, fieldServes, fieldKnown, fieldAuditType, fieldSyscall, fieldComm, fieldAuditName, fieldAuditNameType,
		fieldAuditKey, fieldAuditSuccess, fieldAuditEUID, fieldArgc).With(auditArgs()...)
	outFixed = sigma.FieldsOf(fieldImage, fieldTraits, fieldHashes, fieldSHA256, fieldInitiated, fieldProtocol,
		fieldDestinationIP, fieldDestinationPort, fieldKnown, fieldAuditType, fieldSyscall, fieldComm)
	inFixed = sigma.FieldsOf(fieldImage, fieldTraits, fieldHashes, fieldSHA256, fieldInitiated, fieldProtocol,
		fieldSourceIP, fieldDestinationPort, fieldKnown, fieldAuditType, fieldSyscall, fieldComm)
	lookupFixed = sigma.FieldsOf(fieldImage, fieldTraits, fieldHashes, fieldSHA256, fieldQueryName, fieldKnown)
	fileFixed   = sigma.FieldsOf(fieldImage, fieldTraits, fieldHashes, fieldSHA256, fieldOperation, fieldFileClass, fieldKnown,
		fieldAuditType, fieldSyscall, fieldComm, fieldAuditNameType, fieldAuditSuccess)
	// A library's load is one behaviour of the host, whoever loads it.
	loadFixed      = sigma.FieldsOf(fieldImageLoaded, fieldLoadedTraits, fieldKnown)
	privilegeFixed = sigma.FieldsOf(fieldImage, fieldTraits, fieldHashes, fieldSHA256, fieldOperation, fieldCommand, fieldSucceeded, fieldError, fieldKnown,
		fieldAuditType, fieldComm, fieldAuditSuccess)
	otherFixed = sigma.FieldsOf(fieldImage, fieldTraits, fieldKnown)
)

func auditArgs() (fields []int) {
	for i := range maxAuditArgs {
		fields = append(fields, fieldA0+i)
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
			fixed = fixed.With(fieldTargetFilename, fieldAuditName)
		}
	case *event.Privilege:
		fixed = privilegeFixed
	}
	if !o.Process.Hashed {
		fixed = fixed.Without(fieldHashes, fieldSHA256)
	}
	set := e.sets[categoryOf(o.Event)]
	if set == nil {
		return true
	}
	e.record.reset(o, v)
	return !set.index.Possible(&e.record, fixed, &set.scratch)
}
