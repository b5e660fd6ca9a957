package campaigneval

// group is what a rule takes for one campaign.
type group struct {
	stories  []storyKey
	hosts    map[string]bool
	strength float64
}

// score holds groups of two hosts or more against what truly was. An attack is joined into one
// when one group has all its hosts and no other has any of it.
func (f *fleet) score(sets []group) (s Score) {
	s.ByKind = map[string]Tally{}
	parts := map[*attack]int{}
	whole := map[*attack][]int{}
	for _, set := range sets {
		if len(set.hosts) < 2 {
			// It is none, but what it has of an attack is missing elsewhere.
			for a := range f.within(set) {
				parts[a]++
			}
			continue
		}
		of := f.within(set)
		most := 0
		for a, hosts := range of {
			parts[a]++
			most = max(most, len(hosts))
			if len(hosts) == len(a.hosts) {
				whole[a] = append(whole[a], len(s.Told))
			}
		}
		s.Told = append(s.Told, Told{Strength: set.strength, True: most > 0})
		if most == 0 {
			s.False++
			continue
		}
		s.Named, s.Right = s.Named+len(set.hosts), s.Right+most
	}
	for _, a := range f.attacks {
		s.Attacks++
		k := s.ByKind[a.kind]
		k.Of++
		if a.one = len(whole[a]) == 1 && parts[a] == 1; a.one {
			s.Joined++
			k.Joined++
			s.Told[whole[a][0]].Whole = true
		}
		s.ByKind[a.kind] = k
	}
	return s
}

// within is which hosts of which attacks a group has.
func (f *fleet) within(set group) map[*attack]map[string]bool {
	of := map[*attack]map[string]bool{}
	for _, key := range set.stories {
		if a := f.owners[key]; a != nil {
			if of[a] == nil {
				of[a] = map[string]bool{}
			}
			of[a][key.host] = true
		}
	}
	return of
}

func (f *fleet) neverSeen() []group {
	return f.unite(func(l link) bool { return l.fresh })
}

func (f *fleet) anyFlow() []group {
	found := map[storyKey]bool{}
	for _, rec := range f.records {
		if rec.row != nil {
			found[storyKey{rec.row.GetHost(), rec.row.GetFinding().GetStoryline()}] = true
		}
	}
	return f.unite(func(l link) bool { return l.alike && found[l.from] && found[l.to] })
}

// unite joins storylines by the links that count; more hosts are a stronger campaign.
func (f *fleet) unite(joins func(link) bool) (all []group) {
	parent := map[storyKey]storyKey{}
	var order []storyKey
	var find func(storyKey) storyKey
	find = func(k storyKey) storyKey {
		p, known := parent[k]
		if !known {
			order = append(order, k)
		}
		if !known || p == k {
			parent[k] = k
			return k
		}
		root := find(p)
		parent[k] = root
		return root
	}
	for _, l := range f.links {
		if joins(l) {
			parent[find(l.to)] = find(l.from)
		}
	}
	place := map[storyKey]int{}
	for _, k := range order {
		root := find(k)
		i, known := place[root]
		if !known {
			i = len(all)
			place[root], all = i, append(all, group{hosts: map[string]bool{}})
		}
		all[i].stories = append(all[i].stories, k)
		all[i].hosts[k.host] = true
		all[i].strength = float64(len(all[i].hosts))
	}
	return all
}
