package correlate

import "github.com/vedette-edr/vedette/proto/raftv1"

// roster is the open campaigns by the storylines that they have; a cache of the store like
// the ledger.
type roster struct {
	byID    map[string]*raftv1.Campaign
	byStory map[storyKey]map[string]bool
}

func newRoster(open []*raftv1.Campaign) *roster {
	r := &roster{byID: make(map[string]*raftv1.Campaign), byStory: make(map[storyKey]map[string]bool)}
	for _, c := range open {
		r.put(c)
	}
	return r
}

func memberKey(m *raftv1.CampaignMember) storyKey { return storyKey{m.GetHost(), m.GetStoryline()} }

func (r *roster) put(c *raftv1.Campaign) {
	r.remove(c.GetId())
	if c.GetStatus() != "open" {
		return
	}
	r.byID[c.GetId()] = c
	for _, m := range c.GetMembers() {
		key := memberKey(m)
		if r.byStory[key] == nil {
			r.byStory[key] = make(map[string]bool)
		}
		r.byStory[key][c.GetId()] = true
	}
}

func (r *roster) remove(id string) {
	for _, m := range r.byID[id].GetMembers() {
		key := memberKey(m)
		delete(r.byStory[key], id)
		if len(r.byStory[key]) == 0 {
			delete(r.byStory, key)
		}
	}
	delete(r.byID, id)
}

// siblings are the storylines that are in one open campaign with this one.
func (r *roster) siblings(key storyKey) (keys []storyKey) {
	for id := range r.byStory[key] {
		for _, m := range r.byID[id].GetMembers() {
			keys = append(keys, memberKey(m))
		}
	}
	return keys
}
