package correlate

import (
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// ledger is the open incidents by the storylines that they are about: which one a storyline
// continues must not cost a look at all of them. Like the window it is a cache of the store.
type ledger struct {
	byID    map[string]*raftv1.Incident
	byStory map[string]map[string]bool // a storyline's name → ids
}

func newLedger(open []*raftv1.Incident) *ledger {
	l := &ledger{byID: make(map[string]*raftv1.Incident), byStory: make(map[string]map[string]bool)}
	for _, in := range open {
		l.put(in)
	}
	return l
}

// put takes an incident in, or what became of it: one that is not open leaves.
func (l *ledger) put(in *raftv1.Incident) {
	l.remove(in.GetId())
	if in.GetStatus() != "open" {
		return
	}
	l.byID[in.GetId()] = in
	for _, name := range in.GetStorylines() {
		if l.byStory[name] == nil {
			l.byStory[name] = make(map[string]bool)
		}
		l.byStory[name][in.GetId()] = true
	}
}

func (l *ledger) remove(id string) {
	for _, name := range l.byID[id].GetStorylines() {
		delete(l.byStory[name], id)
		if len(l.byStory[name]) == 0 {
			delete(l.byStory, name)
		}
	}
	delete(l.byID, id)
}

// siblings are the storylines that one open incident has in common with this one. They stay
// joined when what joined them has left the window.
func (l *ledger) siblings(key storyKey) (keys []storyKey) {
	for id := range l.byStory[key.String()] {
		for _, name := range l.byID[id].GetStorylines() {
			if host, storyline, ok := strings.Cut(name, "/"); ok {
				keys = append(keys, storyKey{host, storyline})
			}
		}
	}
	return keys
}

// about are the open incidents about any of these storylines, in no order.
func (l *ledger) about(stories []*story) (incidents []*raftv1.Incident) {
	for _, s := range stories {
		for id := range l.byStory[s.key.String()] {
			if in := l.byID[id]; !slices.Contains(incidents, in) {
				incidents = append(incidents, in)
			}
		}
	}
	return incidents
}
