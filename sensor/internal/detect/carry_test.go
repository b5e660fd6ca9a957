package detect

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure the flows of a storyline with another host's mark are noted, and no longer than an
// hour; and that the mark alone makes nothing a finding.
func TestCarry(t *testing.T) {
	h, e := newHost(), engine(t)
	known := event.Verdict{Tracked: true, Known: true, Seen: 9}
	accept := h.open(h.process(nil, "/usr/sbin/sshd"), event.Inbound, "10.0.0.7:51000")
	session := h.process(nil, "/usr/sbin/sshd")
	session.Origin, session.Anchor = accept.Flow, session.Key
	client := h.process(session, "/usr/bin/ssh")

	if _, notes := e.Evaluate(h.open(client, event.Outbound, "10.0.0.9:22"), known); len(notes) != 0 {
		t.Fatal("noted before the mark came")
	}
	o := h.open(client, event.Outbound, "10.0.0.9:22")
	note := e.Carry(session, accept.Flow, "h-a/7.1", o.Time)
	if note.Carried != "h-a/7.1" || note.Flow != accept.Flow || note.Storyline != storyline(client) {
		t.Errorf("the end's note: %+v", note)
	}
	findings, notes := e.Evaluate(o, known)
	if len(findings) != 0 || len(notes) != 1 || notes[0].Carried != "" || notes[0].Storyline != note.Storyline {
		t.Errorf("with the mark: %v, %v", findings, notes)
	}
	late := h.open(client, event.Outbound, "10.0.0.9:22")
	late.Time = o.Time.Add(carriedFor + time.Minute)
	if _, notes := e.Evaluate(late, known); len(notes) != 0 {
		t.Error("noted an hour later")
	}
}
