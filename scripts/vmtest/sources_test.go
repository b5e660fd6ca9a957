package main

import (
	"slices"
	"testing"
)

// Ensure that the machine's own source is found in both of apt's forms, and that
// another suite, component or a disabled one is not taken for it.
func TestSources(t *testing.T) {
	tests := []struct {
		name, text string
		stanzas    bool
		want       aptSource
		found      bool
	}{
		{"stanza", "Types: deb\n# a comment\nURIs: mirror+file:/m http://x/\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n", true, aptSource{"mirror+file:/m", "/k.gpg"}, true},
		{"second stanza", "Types: deb\nURIs: http://security/\nSuites: bookworm-security\nComponents: main\n\nTypes: deb deb-src\nURIs: http://x/\nSuites: bookworm\nComponents: main contrib\n", true, aptSource{"http://x/", ""}, true},
		{"key within", "Types: deb\nURIs: http://x/\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n", true, aptSource{"http://x/", "\n -----BEGIN\n .\n x"}, true},
		{"disabled", "Enabled: no\nTypes: deb\nURIs: http://x/\nSuites: bookworm\nComponents: main\n", true, aptSource{}, false},
		{"sources only", "Types: deb-src\nURIs: http://x/\nSuites: bookworm\nComponents: main\n", true, aptSource{}, false},
		{"line", "# deb http://no/ bookworm main\ndeb http://x/ bookworm main contrib\n", false, aptSource{"http://x/", ""}, true},
		{"line with options", "deb [arch=amd64 signed-by=/k.gpg] http://x/ bookworm main\n", false, aptSource{"http://x/", "/k.gpg"}, true},
		{"line of another component", "deb http://x/ bookworm contrib\ndeb http://x/ bookworm-updates main\ndeb http://x/\n", false, aptSource{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			find := findInList
			if tt.stanzas {
				find = findInStanzas
			}
			if got, found := find([]byte(tt.text), "bookworm"); found != tt.found || got != tt.want {
				t.Errorf("got %+v, %t; want %+v, %t", got, found, tt.want, tt.found)
			}
		})
	}
}

// Ensure that the newest kernel is the newest by number, of this series and flavour.
func TestNewest(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64", "linux-image-6.1.0-51-amd64",
		"linux-image-6.12.9+deb13-cloud-amd64", "linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.90+deb12.1-cloud-amd64",
		"linux-image-6.12.108+deb13-cloud-amd64-unsigned", "linux-image-6.12.109+deb13-cloud-arm64",
	}
	for series, want := range map[string]string{
		"6.1": "linux-image-6.1.0-50-cloud-amd64", "6.12": "linux-image-6.12.107+deb13-cloud-amd64",
	} {
		s, ok := findSeries(series)
		if !ok {
			t.Fatalf("no series %s", series)
		}
		if got, ok := newest(slices.Clone(names), s.pattern); !ok || got != want {
			t.Errorf("%s: got %q, %t; want %q", series, got, ok, want)
		}
	}
}
