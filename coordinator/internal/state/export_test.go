package state

// AddConduct is what a later release does that knows one more; undo takes it away again.
func AddConduct(conduct string) (undo func()) {
	suspicions[conduct] = suspicion{severity: "medium", title: conduct, reason: conduct}
	return func() { delete(suspicions, conduct) }
}
