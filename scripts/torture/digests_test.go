package main

import (
	"fmt"
	"testing"
)

// Ensure that states pass for the same only where several nodes spoke of one entry: what one
// node says twice compares it with itself alone, and nodes that speak of other entries with
// nothing.
func TestDigests(t *testing.T) {
	say := func(index int, digest string) string {
		return fmt.Sprintf("time=x level=INFO msg=\"state digest\" index=%d digest=%s rows=3\nanother line index=7\n", index, digest)
	}
	for _, tt := range []struct {
		name string
		logs []string
		want told
		ok   bool
	}{
		{"nobody speaks", []string{"", "index=100 digest=a", ""}, told{}, false},
		{"each of another entry", []string{say(100, "a"), say(200, "b"), say(300, "c")}, told{}, false},
		{"one speaks twice", []string{say(100, "a") + say(100, "a"), "", ""}, told{again: 1}, false},
		{"two of one entry", []string{say(100, "a") + say(200, "b"), say(100, "a"), ""}, told{several: 1}, true},
		{"all, and one again", []string{say(100, "a") + say(100, "a"), say(100, "a"), say(100, "a")}, told{several: 1, again: 1}, true},
		{"two differ", []string{say(100, "a"), say(100, "b"), say(200, "c")}, told{several: 1, differing: 1}, false},
		{"one differs from itself", []string{say(100, "a") + say(100, "b"), say(200, "c"), say(200, "c")}, told{several: 1, again: 1, differing: 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compare(tt.logs)
			if got != tt.want || (err != nil) != (tt.want.differing > 0) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
			ok := true
			for _, r := range got.rows(" after that") {
				ok = ok && r.OK
			}
			if ok != tt.ok {
				t.Errorf("passes: %v, want %v: %+v", ok, tt.ok, got.rows(""))
			}
		})
	}
}
