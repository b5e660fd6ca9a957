package event

import "time"

// What was done to the sensor, or befell it.
const (
	// TamperDetached: a program was taken off its hook.
	TamperDetached = "detached"
	// TamperCalls: the table that leads from system calls to programs was changed.
	TamperCalls = "calls-changed"
	// TamperKnown: the table of what is known was changed, so that events could pass
	// for known.
	TamperKnown = "known-changed"
	// TamperStopped: the sensor did not run for a while: stopped by a signal, frozen by
	// its cgroup, or not scheduled.
	TamperStopped = "stopped"
	// TamperKilled: the run before this one did not end by itself.
	TamperKilled = "killed"
	// TamperBlind: so much was lost that what happened cannot be told from here.
	TamperBlind = "blind"
)

// Tamper is what the sensor found out about itself; its process is the sensor's own,
// unless who did it is known.
type Tamper struct {
	Header
	What   string
	Detail string        // for a person: what was found, and what the sensor did about it
	For    time.Duration // how long it lasted, 0 when that says nothing
}
