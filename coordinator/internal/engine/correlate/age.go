package correlate

import (
	"cmp"
	"container/heap"
	"strings"
)

// aged is a storyline as old as it was when it was put where it is: it may be younger by
// now, and is looked at again when its turn comes. So a finding moves nothing.
type aged struct {
	story   *story
	touched int64
}

// ages is a heap of every storyline of the window, the longest untouched first.
type ages []aged

func (a ages) Len() int      { return len(a) }
func (a ages) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a ages) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(a[i].touched, a[j].touched), strings.Compare(a[i].story.key.host, a[j].story.key.host),
		strings.Compare(a[i].story.key.storyline, a[j].story.key.storyline)) < 0
}
func (a *ages) Push(x any) { *a = append(*a, x.(aged)) }
func (a *ages) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = aged{}
	*a = old[:len(old)-1]
	return last
}

// oldest is the storyline that was touched the longest ago; nil when there is none.
func (a *ages) oldest() *story {
	for len(*a) > 0 {
		top := (*a)[0]
		if top.touched >= top.story.touched {
			return top.story
		}
		(*a)[0].touched = top.story.touched
		heap.Fix(a, 0)
	}
	return nil
}

func (a *ages) add(s *story) { heap.Push(a, aged{s, s.touched}) }
func (a *ages) dropOldest()  { heap.Pop(a) }
