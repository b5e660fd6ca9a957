package sensor

import (
	"slices"
	"testing"
)

// Ensure a summary has the coverage gaps when the session did not begin with them.
func TestGapNews(t *testing.T) {
	var g gapNews
	steps := []struct {
		name          string
		session       []string
		gaps, summary []string
	}{
		{"before any session", nil, []string{"a"}, []string{"a"}},
		{"as the session began", []string{"a"}, []string{"a"}, nil},
		{"one more", nil, []string{"a", "b"}, []string{"a", "b"}},
		{"and still", nil, []string{"a", "b"}, []string{"a", "b"}},
		{"a session that knows it", []string{"a", "b"}, []string{"a", "b"}, nil},
		{"none any more", nil, nil, nil},
	}
	for _, s := range steps {
		if s.session != nil {
			g.told(s.session)
		}
		if got := g.news(s.gaps); !slices.Equal(got, s.summary) {
			t.Errorf("%s: got %q, want %q", s.name, got, s.summary)
		}
	}
}
