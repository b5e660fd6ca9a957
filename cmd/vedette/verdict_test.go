package main

import "testing"

// Ensure that who waited is never told of success while a host is pending.
func TestVerdict(t *testing.T) {
	applied, pending, refused := result{Result: "applied"}, result{Result: "pending"}, result{Result: "refused"}
	for _, tt := range []struct {
		name    string
		wait    bool
		late    bool
		results []result
		want    int
	}{
		{"given, not waited for", false, false, []result{applied, pending}, exitOK},
		{"waited for, all applied", true, false, []result{applied, applied}, exitOK},
		{"waited for, one has no row", true, false, []result{applied, pending}, exitTimeout},
		{"timed out", true, true, []result{applied, pending}, exitTimeout},
		{"none", true, false, []result{refused, refused}, exitError},
		{"some", true, false, []result{applied, refused}, exitPartial},
	} {
		if got := exitCode((&order{verb: "isolate", wait: tt.wait}).verdict("op-1", tt.results, tt.late)); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", tt.name, got, tt.want)
		}
	}
}
