package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	aptDir = "/etc/apt"
	// osRelease says whose archive the machine's sources name.
	osRelease = "/etc/os-release"
)

// aptSource is where this machine gets Debian from.
type aptSource struct{ uri, signedBy string }

// debianSource reads it from the machine's own sources: the archive that serves the
// suite which the machine runs serves the other suites too.
func debianSource() (aptSource, error) {
	missing := &missingError{"a Debian machine with a package source for its own release"}
	release, err := os.ReadFile(osRelease)
	if err != nil {
		return aptSource{}, missing
	}
	system := settings(release)
	if system["ID"] != "debian" || system["VERSION_CODENAME"] == "" {
		return aptSource{}, missing
	}
	paths, _ := filepath.Glob(filepath.Join(aptDir, "sources.list.d", "*")) // the pattern is well formed
	for _, path := range append(paths, filepath.Join(aptDir, "sources.list")) {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		find := findInList
		if filepath.Ext(path) == ".sources" {
			find = findInStanzas
		}
		if source, ok := find(text, system["VERSION_CODENAME"]); ok {
			return source, nil
		}
	}
	return aptSource{}, missing
}

// settings reads lines of KEY=value or KEY="value".
func settings(text []byte) map[string]string {
	values := map[string]string{}
	for line := range bytes.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(string(line)), "="); ok {
			values[key] = strings.Trim(value, `"`)
		}
	}
	return values
}

// findInStanzas reads sources in the form of deb822.
func findInStanzas(text []byte, suite string) (aptSource, bool) {
	for stanza := range strings.SplitSeq(string(text), "\n\n") {
		fields := map[string]string{}
		last := ""
		scanner := bufio.NewScanner(strings.NewReader(stanza))
		for scanner.Scan() {
			line := scanner.Text()
			if strings.HasPrefix(line, "#") {
				continue
			}
			if strings.HasPrefix(line, " ") && last != "" { // goes on
				fields[last] += "\n" + line
				continue
			}
			if key, value, ok := strings.Cut(line, ":"); ok {
				last = strings.ToLower(key)
				fields[last] = strings.TrimSpace(value)
			}
		}
		uris := strings.Fields(fields["uris"])
		if len(uris) > 0 && fields["enabled"] != "no" &&
			slices.Contains(strings.Fields(fields["types"]), "deb") &&
			slices.Contains(strings.Fields(fields["suites"]), suite) &&
			slices.Contains(strings.Fields(fields["components"]), "main") {
			return aptSource{uri: uris[0], signedBy: fields["signed-by"]}, true
		}
	}
	return aptSource{}, false
}

// findInList reads sources of one line: deb [options] URI suite component…
func findInList(text []byte, suite string) (aptSource, bool) {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var source aptSource
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, _ := strings.Cut(rest[1:], "]")
			for option := range strings.FieldsSeq(options) {
				if path, ok := strings.CutPrefix(option, "signed-by="); ok {
					source.signedBy = path
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) >= 3 && fields[1] == suite && slices.Contains(fields[2:], "main") {
			source.uri = fields[0]
			return source, true
		}
	}
	return aptSource{}, false
}
