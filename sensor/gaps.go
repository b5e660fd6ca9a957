package sensor

import (
	"slices"
	"sync"
)

// gapNews keeps sentences that hardly ever change out of the summaries: a session
// begins with the host's coverage gaps, and a summary has them when they are others
// since. An empty list there means those of the session.
type gapNews struct {
	mu      sync.Mutex
	session []string
}

// told is called with what a session begins with.
func (g *gapNews) told(gaps []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.session = slices.Clone(gaps)
}

// news is what a summary has to say.
func (g *gapNews) news(gaps []string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != nil && slices.Equal(g.session, gaps) {
		return nil
	}
	return gaps
}
