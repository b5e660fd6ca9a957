package drill

import (
	"strings"
	"time"
)

// What became of a drill on the host.
const (
	StateDone    = "done"
	StateSkipped = "skipped"
	StateFailed  = "failed"
)

// Run is what a host's run of drills was: what vedette-sensor drill run -o json prints.
type Run struct {
	Host  string `json:"host"` // its id; empty: it is not enrolled
	Nonce string `json:"nonce"`
	// Program is what its drills' first processes run: nobody but root can have put it there.
	Program string    `json:"program"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Shared  bool      `json:"shared"` // all drills share one storyline, that of who ran them
	Drills  []Done    `json:"drills"`
}

// Done is one drill of a run.
type Done struct {
	ID    string    `json:"id"`
	Mark  string    `json:"mark"` // an argument of its first process, which everything of it descends from
	State string    `json:"state"`
	Why   string    `json:"why"` // of skipped and failed
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	Clean bool      `json:"clean"`
	Left  []string  `json:"left"` // what is not as it was before
}

// MarkPrefix begins the argument by which what a drill did is known afterwards. No rule
// may look at it.
const MarkPrefix = "vdrill-"

// Mark of a drill in a run.
func Mark(nonce, id string) string { return MarkPrefix + nonce + "." + id }

// OfMark is the drill whose mark an argument is; empty: it is none.
func OfMark(nonce, argument string) string {
	id, ok := strings.CutPrefix(argument, MarkPrefix+nonce+".")
	if !ok {
		return ""
	}
	return id
}
