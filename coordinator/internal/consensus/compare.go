package consensus

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Nodes tell each other what they hold at the end of each window of the log (package
// store) whenever they ask how the others are. A node that sees that a majority of all
// members holds something else, at the same index and written by the same program, is the
// one that is wrong: it takes the state over from one of them. Without such a majority
// nobody knows who is right, so nobody changes anything, and all of them say so.

// finding is what a comparison says: of two nodes that differ at the same index.
type difference struct {
	window uint64
	what   string   // chain or slice
	others []string // ids of the nodes that hold something else, sorted
	// certain: they are a majority and agree, so that this node is the one that is wrong.
	certain bool
}

// from is the first index of which it tells, and never 0.
func (d *difference) from() uint64 {
	if index, whole := (store.Check{Window: d.window}).Whole(); whole {
		return max(index, 1)
	}
	return max(d.window*store.CheckEvery, 1)
}

// entries says of which entries it tells.
func (d *difference) entries() string {
	if index, whole := (store.Check{Window: d.window}).Whole(); whole {
		return fmt.Sprintf("all rows at entry %d", index)
	}
	return fmt.Sprintf("entries %d to %d", d.window*store.CheckEvery, (d.window+1)*store.CheckEvery-1)
}

// about is the window that the audit names.
func (d *difference) about() uint64 {
	if index, whole := (store.Check{Window: d.window}).Whole(); whole {
		return index / store.CheckEvery
	}
	return d.window
}

// kinds of what is compared.
var compared = []struct {
	what string
	of   func(store.Check) []byte
}{
	{"chain", func(c store.Check) []byte { return c.Chain }},
	{"slice", func(c store.Check) []byte { return c.Slice }},
}

// compare holds this node's checks to those of the others, of a cluster of so many
// members. A certain difference comes before one that is not; nil is none.
func compare(own []store.Check, others map[string][]store.Check, members int) (found *difference) {
	for _, mine := range own {
		for _, kind := range compared {
			value := kind.of(mine)
			if len(value) == 0 {
				continue
			}
			holders := make(map[string][]string)
			var differ []string
			for id, theirs := range others {
				i := slices.IndexFunc(theirs, func(c store.Check) bool { return c.Window == mine.Window && c.Tag == mine.Tag })
				if i < 0 || len(kind.of(theirs[i])) == 0 || bytes.Equal(kind.of(theirs[i]), value) {
					continue
				}
				differ = append(differ, id)
				v := string(kind.of(theirs[i]))
				holders[v] = append(holders[v], id)
			}
			if len(differ) == 0 {
				continue
			}
			for _, ids := range holders {
				if 2*len(ids) > members {
					slices.Sort(ids)
					return &difference{mine.Window, kind.what, ids, true}
				}
			}
			if found == nil {
				slices.Sort(differ)
				found = &difference{mine.Window, kind.what, differ, false}
			}
		}
	}
	return found
}

// settled says whether a difference that is not certain is another node's to mend: this
// node holds what a majority holds.
func settled(d *difference, own []store.Check, others map[string][]store.Check, members int) bool {
	with := 1
	for _, kind := range compared {
		if kind.what != d.what {
			continue
		}
		i := slices.IndexFunc(own, func(c store.Check) bool { return c.Window == d.window })
		for _, theirs := range others {
			j := slices.IndexFunc(theirs, func(c store.Check) bool { return c.Window == d.window && c.Tag == own[i].Tag })
			if j >= 0 && bytes.Equal(kind.of(theirs[j]), kind.of(own[i])) {
				with++
			}
		}
	}
	return 2*with > members
}

// compareStates acts on what the others said last.
func (n *Node) compareStates() {
	own := n.db.Checks()
	others := make(map[string][]store.Check)
	servers := n.servers()
	for _, s := range servers {
		if told, ok := n.told.Load(string(s.ID)); ok {
			others[string(s.ID)] = told.([]store.Check)
		}
	}
	if err := n.db.CheckError(); err != nil {
		alarm := fmt.Sprintf("cannot read its own rows to compare them with the other nodes' (%v): look after its disk; its log has more", err)
		n.unread.Store(&alarm)
	} else {
		n.unread.Store(nil)
	}
	d := compare(own, others, len(servers))
	if err := n.db.Broken(); err != nil && len(servers) > 1 {
		d = &difference{what: "damaged: " + err.Error(), certain: true}
	}
	n.confirmed(own, others, len(servers))
	switch {
	case d == nil, n.differing.Load() != nil:
	case d.certain:
		n.differs(d)
	case settled(d, own, others, len(servers)):
	case n.disputed.Load() == nil:
		alarm := fmt.Sprintf("holds another state than %s (%s, %s), and no majority says which is right, so nothing is changed: "+
			"take a backup of each, remove the nodes that you trust less and let them join again, empty; then restart this one",
			strings.Join(d.others, " and "), d.entries(), d.what)
		n.differsAt.Store(d.from())
		n.disputed.Store(&alarm)
		n.cfg.Meter.Divergences.Of("undecided").Inc()
		n.cfg.Logger.Error("this node holds another state than others, and no majority says which is right: nothing is changed",
			"others", d.others, "of", d.entries(), "what", d.what)
	}
}

// confirmed says once, of the whole state as it was read last, that a majority holds the same.
func (n *Node) confirmed(own []store.Check, others map[string][]store.Check, members int) {
	for _, mine := range slices.Backward(own) {
		index, whole := mine.Whole()
		if !whole || len(mine.Slice) == 0 || index <= n.confirmedAt {
			continue
		}
		with := 1
		for _, theirs := range others {
			if slices.ContainsFunc(theirs, func(c store.Check) bool {
				return c.Window == mine.Window && c.Tag == mine.Tag && bytes.Equal(c.Slice, mine.Slice)
			}) {
				with++
			}
		}
		if 2*with > members {
			n.confirmedAt = index
			n.cfg.Logger.Info("the whole state is that of a majority", "index", index, "nodes", with)
			return
		}
	}
}

// alarms are what is wrong although the node is ready.
func (n *Node) alarms() (out []string) {
	for _, alarm := range []*string{n.disputed.Load(), n.unread.Load()} {
		if alarm != nil {
			out = append(out, *alarm)
		}
	}
	if also := n.also.Load(); also != nil {
		out = append(out, (*also)()...)
	}
	return out
}

// AlarmsOf has this node say of itself what fn says too, after its id and in the words of a
// status. fn must not wait.
func (n *Node) AlarmsOf(fn func() []string) { n.also.Store(&fn) }

func checksToWire(in []store.Check) (out []*raftv1.StateCheck) {
	for _, c := range in {
		out = append(out, &raftv1.StateCheck{Window: c.Window, Tag: c.Tag, Chain: c.Chain, Slice: c.Slice})
	}
	return out
}

func checksOfWire(in []*raftv1.StateCheck) (out []store.Check) {
	for _, c := range in {
		out = append(out, store.Check{Window: c.GetWindow(), Tag: c.GetTag(), Chain: c.GetChain(), Slice: c.GetSlice()})
	}
	return out
}
