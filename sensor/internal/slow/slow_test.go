package slow

import (
	"testing"
	"time"
)

func TestFactor(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 1, "1": 1, "20": 20, "100": 100} {
		if got, err := parse(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "101", "fast", "1.5", " 2"} {
		if got, err := parse(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

// Ensure the environment is what counts.
func TestDeadline(t *testing.T) {
	t.Setenv(Variable, "7")
	if got, want := Deadline(3*time.Second), 21*time.Second; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
