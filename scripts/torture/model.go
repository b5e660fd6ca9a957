package main

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// The objects that one machine could hold, and what may be done to them. Each is checked
// by itself, which linearizability allows: a host's newest order, the intent in force, a
// waiting operation, a join token.
const (
	doOrder   = "order"   // takes the host when its epoch is above
	doApply   = "apply"   // takes the intent when prev is in force
	doEnrol   = "enrol"   // spends the token
	doApprove = "approve" // sends out what waits
	doVeto    = "veto"    // stops what waits
	doRead    = "read"
	doBegin   = "begin" // the value that a round begins with
)

// what an operation came to.
const (
	yes     = "yes"
	no      = "no"      // the rule that the object has was not kept
	unknown = "unknown" // no answer: it may have happened, and may still
)

// input is an operation as it was called.
type input struct {
	object, do string
	value      string // it would be this
	prev       string
	epoch      uint64
}

// output is what was answered; value is what a read saw.
type output struct{ came, value string }

// object is what one machine would remember of it.
type object struct {
	epoch uint64
	value string
}

// step is the model: whether an object that is o may answer so, and what it is then. An
// operation without an answer takes effect where it could.
func step(o object, in input, out output) (bool, object) {
	next := object{epoch: max(o.epoch, in.epoch), value: in.value}
	var may bool
	switch in.do {
	case doBegin:
		return true, next
	case doRead:
		return out.value == o.value, o
	case doOrder:
		may = in.epoch > o.epoch
	case doApply:
		may = in.prev == o.value
	case doEnrol, doApprove, doVeto:
		may = o.value == ""
	}
	switch {
	case out.came == yes:
		return may, next
	case out.came == no:
		return !may, o
	case may:
		return true, next
	}
	return true, o
}

var model = porcupine.Model{
	Init: func() any { return object{} },
	Step: func(state, in, out any) (bool, any) {
		return step(state.(object), in.(input), out.(output))
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

// history is what was called and answered, by object.
type history struct {
	began time.Time
	mu    sync.Mutex // guards what follows
	by    map[string][]porcupine.Operation
	n     int
	open  int // without an answer
}

func newHistory() *history {
	return &history{began: time.Now(), by: map[string][]porcupine.Operation{}}
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

// add notes an operation that was called at that time and has ended now.
func (h *history) add(client int, called int64, in input, out output) {
	op := porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: h.now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	if out.came == unknown {
		h.open++
		op.Return = math.MaxInt64
	}
	h.by[in.object] = append(h.by[in.object], op)
}

func (h *history) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// verdict is what checking came to.
type verdict struct {
	histories, operations, open int
	violations, unfinished      int
	first                       []string // of the first violation
}

func (v *verdict) add(o verdict) {
	v.histories += o.histories
	v.operations += o.operations
	v.open += o.open
	v.violations += o.violations
	v.unfinished += o.unfinished
	if v.first == nil {
		v.first = o.first
	}
}

// check holds each object's history to one machine's answers.
func (h *history) check(most time.Duration) verdict {
	v := verdict{operations: h.n, open: h.open}
	for _, ops := range h.by {
		v.histories++
		ops = observed(ops)
		switch porcupine.CheckOperationsTimeout(model, ops, most) {
		case porcupine.Illegal:
			v.violations++
			if v.first == nil {
				for _, op := range ops {
					v.first = append(v.first, fmt.Sprintf("%10d %10d client %d: %s", op.Call/1000, op.Return/1000, op.ClientId, model.DescribeOperation(op.Input, op.Output)))
				}
			}
		case porcupine.Unknown:
			v.unfinished++
		}
	}
	return v
}

// observed says what is sure of operations without an answer, since each that may or may
// not have happened doubles what must be tried. Values are unique: one that a read saw, or
// that an intent follows, came about, and before that answer. Of an intent that nobody saw
// nothing follows, as the last call of a round reads. An epoch is taken once: where it is
// known by whom, the others did not take it.
func observed(ops []porcupine.Operation) []porcupine.Operation {
	seen := map[string]int64{} // value → the first answer that shows it
	note := func(value string, at int64) {
		if first, ok := seen[value]; !ok || at < first {
			seen[value] = at
		}
	}
	for _, op := range ops {
		in, out := called(op)
		if in.do == doApply && out.came == yes {
			note(in.prev, op.Return)
		}
		if in.do == doRead {
			note(out.value, op.Return)
		}
	}
	taken := map[uint64]bool{}
	for _, op := range ops {
		in, out := called(op)
		_, shown := seen[in.value]
		if in.do == doOrder && (out.came == yes || out.came == unknown && shown) {
			taken[in.epoch] = true
		}
	}
	var kept []porcupine.Operation
	for _, op := range ops {
		in, out := called(op)
		if out.came == unknown && (in.do == doApply || in.do == doOrder) {
			if at, shown := seen[in.value]; shown {
				op.Output, op.Return = output{came: yes}, max(at, op.Call)
			} else if in.do == doApply || taken[in.epoch] {
				continue
			}
		}
		kept = append(kept, op)
	}
	return kept
}

func called(op porcupine.Operation) (input, output) {
	return op.Input.(input), op.Output.(output)
}
