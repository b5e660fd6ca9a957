package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Bounds of a list of hosts that comes from a file or a pipe.
const (
	maxSelectionBytes = 4 << 20
	maxSelection      = 10_000
)

// selection is how a command line names hosts. Exactly one way at a time: whether
// two ways meant "and" or "or" is nothing to guess when hosts are to be cut off.
type selection struct {
	labels   []string
	files    []string
	incident string
	campaign string
	all      bool
}

func (sel *selection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&sel.labels, "selector", "l", nil, "hosts with this label, key=value; several must all match")
	f.StringArrayVarP(&sel.files, "file", "f", nil, "file with one host id or name a line; - is stdin")
	f.StringVar(&sel.incident, "incident", "", "hosts of this incident")
	f.StringVar(&sel.campaign, "campaign", "", "hosts of this campaign")
	f.BoolVar(&sel.all, "all", false, "every host")
}

// resolve reads the files and returns the selector; nil when nothing was selected.
func (sel *selection) resolve(stdin io.Reader, args []string) (*operatorv1.Selector, error) {
	out := &operatorv1.Selector{All: sel.all, Incident: sel.incident, Campaign: sel.campaign}
	files := slices.Clone(sel.files)
	for _, arg := range args {
		if arg == "-" {
			files = append(files, "-")
			continue
		}
		out.Ids = append(out.Ids, arg)
	}
	for _, name := range files {
		ids, err := readHosts(stdin, name)
		if err != nil {
			return nil, err
		}
		out.Ids = append(out.Ids, ids...)
	}
	out.Ids = unique(out.Ids)
	if len(out.Ids) > maxSelection {
		return nil, usage("%d hosts selected, the most in one command is %d", len(out.Ids), maxSelection)
	}
	for _, l := range sel.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return nil, usage("label %q is not of the form key=value", l)
		}
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		if old, twice := out.Labels[key]; twice && old != value {
			return nil, usage("no host has both %s=%s and %s=%s", key, old, key, value)
		}
		out.Labels[key] = value
	}
	ways := 0
	for _, used := range []bool{len(args)+len(sel.files) > 0, len(sel.labels) > 0, sel.incident != "", sel.campaign != "", sel.all} {
		if used {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, usage("select hosts in one way: by name or id, by -l, by --incident, by --campaign, or by --all")
	case ways == 0:
		return nil, nil
	case len(args)+len(sel.files) > 0 && len(out.Ids) == 0:
		// An empty pipe means that nothing was found, never that everything was meant.
		return nil, usage("the list of hosts is empty")
	}
	return out, nil
}

// required is resolve for an action.
func (sel *selection) required(stdin io.Reader, args []string) (*operatorv1.Selector, error) {
	s, err := sel.resolve(stdin, args)
	if err == nil && s == nil {
		err = usage("no host selected: name them, or use -l key=value, -f FILE, - for stdin, --incident ID, --campaign ID, or --all")
	}
	return s, err
}

func readHosts(stdin io.Reader, name string) ([]string, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usage("reading the list of hosts: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	limited := &io.LimitedReader{R: in, N: maxSelectionBytes}
	var ids []string
	lines := bufio.NewScanner(limited)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if strings.ContainsAny(line, " \t,") {
			return nil, usage("reading the list of hosts %s: %q is not one id or name", name, line)
		}
		ids = append(ids, line)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the list of hosts %s: %w", name, err)
	}
	if limited.N == 0 {
		return nil, usage("the list of hosts %s is larger than %d bytes", name, maxSelectionBytes)
	}
	return ids, nil
}

func unique(in []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// missing are the names that none of the hosts bears; ambiguous says which name
// several bear, as one error. An id is its host's, whoever chose it for a name.
func missing(names []string, hosts []*operatorv1.Host) (absent []string, ambiguous error) {
	bearers := map[string][]string{}
	for _, h := range hosts {
		bearers[h.GetName()] = append(bearers[h.GetName()], h.GetId())
	}
	for _, h := range hosts {
		bearers[h.GetId()] = []string{h.GetId()}
	}
	for _, name := range names {
		switch ids := bearers[name]; len(ids) {
		case 0:
			absent = append(absent, name)
		case 1:
		default:
			if ambiguous == nil {
				ambiguous = usage("%q names %d hosts (%s): use the id", name, len(ids), strings.Join(ids, ", "))
			}
		}
	}
	return absent, ambiguous
}
