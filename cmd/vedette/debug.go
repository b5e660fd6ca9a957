package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

const (
	// nodeTime bounds the asking of one node: the others, which may be well, are asked
	// at the same time.
	nodeTime = 10 * time.Second
	// maxBundled bounds the nodes of a bundle.
	maxBundled = 16
)

func (a *app) debugCommand() *cobra.Command {
	return noun("debug", "what helps to find a fault", "  vedette debug bundle\n  vedette debug bundle --out /tmp/fault.tar.gz", a.debugBundleCommand())
}

// bundleMade is `debug bundle`.
type bundleMade struct {
	File  string   `json:"file"`
	Nodes []string `json:"nodes"`  // whose own files are in it
	Error []string `json:"errors"` // of nodes that did not answer, and what else is missing

	denied bool // a node answered that this operator may not have it
}

func (a *app) debugBundleCommand() *cobra.Command {
	var out string
	var force bool
	c := &cobra.Command{
		Use:   "bundle",
		Short: "one file with what every node knows of itself",
		Long: `Writes one .tar.gz, mode 0600, with what helps to find a fault: the status, the nodes, and of
each node that answers its figures, health, readiness, configuration, build, newest warnings
and a profile of what it does. README.txt inside says what each file is.

There are no keys, tokens or other secrets in it; there are names of nodes, hosts and
operators, and addresses. It takes an admin. Nodes that do not answer are named in errors.txt;
the exit code is 3 then, 6 when none did, and 5 when you are no admin: the file is written all the same.`,
		Example: "  vedette debug bundle\n  vedette debug bundle --out /tmp/fault.tar.gz --force",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			now := s.now().UTC()
			if out == "" {
				out = fmt.Sprintf("vedette-debug-%s-%s.tar.gz", word(s.context.ClusterID, "cluster"), now.Format("20060102T150405Z"))
			}
			// Before anything is asked: a file that is in the way is known at once.
			file, err := newArchive(out, force, now)
			if err != nil {
				return err
			}
			made := s.collect(ctx, file)
			if err := file.close(); err != nil {
				return err
			}
			made.File = out
			if err := s.Show(output.Shown{Name: out, Value: made, Page: func(g *output.Page) { g.Title(output.Plain, out) }}); err != nil {
				return err
			}
			for _, problem := range made.Error {
				s.say("%s", problem)
			}
			switch {
			case len(made.Nodes) == 0 && made.denied:
				return exit(exitDenied, "what nodes know of themselves is for admins: the bundle has the rest")
			case len(made.Nodes) == 0:
				return exit(exitUnavailable, "no node told anything of itself: the bundle has the reasons")
			case len(made.Error) > 0:
				return exit(exitPartial, "the bundle lacks something: errors.txt in it says what")
			}
			return nil
		}),
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write (default vedette-debug-CLUSTER-TIME.tar.gz)")
	c.Flags().BoolVar(&force, "force", false, "write over a file that exists")
	return c
}

const bundleReadme = `A bundle of 'vedette debug bundle', to find a fault of a Vedette cluster.

No key, token or other secret is in it. Names and addresses of nodes, hosts and operators are.

cli.txt                    the program that made this, and as whom it asked
errors.txt                 what is missing here and why; absent when nothing is
status.txt, status.json    'vedette status', as one node answered it
members.txt, members.json  'vedette cluster members -o wide'
nodes/NODE/                what each node that answered knows of itself:
  health.txt               /healthz: does the process live, and does its state answer
  readiness.txt            /readyz: may it be relied on, and if not why
  log.txt                  its newest warnings and errors, oldest first
  metrics.txt              /metrics, for Prometheus; docs/metrics.md says what each is
  configuration.yaml       its configuration in effect
  build.txt                how the program was built, and of which modules
  goroutines.txt           what it does: places in the program with counts ('go tool pprof' reads it)

Read status.txt first, then log.txt of the nodes that it names.
`

// collect asks everybody and writes what they say.
func (s *session) collect(ctx context.Context, to *archive) bundleMade {
	made := bundleMade{Nodes: []string{}, Error: []string{}}
	to.add("README.txt", bundleReadme)
	to.add("cli.txt", fmt.Sprintf("vedette %s, %s, %s/%s\ncontext %s, cluster %s, operator %s, role %s\nnodes %s\n%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH,
		output.Safe(s.context.Name), output.Safe(s.context.ClusterID), output.Safe(s.api.Operator()), output.Safe(s.context.Role), output.Safe(strings.Join(s.context.Nodes, " ")), s.now().UTC().Format(time.RFC3339)))
	lacks := func(what string, err error) {
		made.Error = append(made.Error, fmt.Sprintf("%s: %v", what, err))
	}
	asking, asked := context.WithTimeout(ctx, nodeTime)
	defer asked()
	if st, err := s.api.Status(asking); err != nil {
		lacks("status", err)
	} else {
		list, broken := s.api.VerifyNodes(st.GetSignedNodes())
		to.add("status.json", indented(shape.FromStatus(st, list)))
		to.page("status.txt", func(g *output.Page) { statusPage(g, st, nodesSigned(list, broken)) })
	}
	addresses := s.context.Nodes
	if res, err := s.api.MembersAndProblems(asking); err != nil {
		lacks("members", err)
	} else {
		list, _ := s.api.VerifyNodes(res.GetSignedNodes())
		rows := []shape.Member{}
		for _, m := range res.GetMembers() {
			rows = append(rows, shape.FromMember(m, list))
		}
		to.add("members.json", indented(rows))
		var text bytes.Buffer
		if _, err := output.Print(&output.Printer{Out: &text, Format: output.Wide}, s.memberTable(list), output.Rows(res.GetMembers())); err != nil {
			lacks("members", err)
		}
		for _, problem := range res.GetProblems() {
			text.WriteString(output.Safe(problem) + "\n")
		}
		to.add("members.txt", text.String())
		addresses = nil
		for _, m := range res.GetMembers() {
			addresses = append(addresses, m.GetOperatorAddress())
		}
	}
	addresses = addresses[:min(len(addresses), maxBundled)]
	infos, errs := s.askEach(ctx, addresses)
	for i, info := range infos {
		if errs[i] != nil {
			lacks("node at "+addresses[i], errs[i])
			made.denied = made.denied || errors.Is(errs[i], client.ErrDenied)
			continue
		}
		made.Nodes = append(made.Nodes, info.GetNodeId())
		name := word(info.GetNodeId(), fmt.Sprintf("node-%d", i+1))
		if slices.Contains(made.Nodes[:len(made.Nodes)-1], info.GetNodeId()) { // it says that it is another
			name = fmt.Sprintf("node-%d", i+1)
		}
		to.node(name, info)
	}
	if len(made.Error) > 0 {
		var text strings.Builder
		for _, problem := range made.Error {
			text.WriteString(output.Safe(problem) + "\n")
		}
		to.add("errors.txt", text.String())
	}
	return made
}

// askEach asks every node for itself, all at the same time.
func (s *session) askEach(ctx context.Context, addresses []string) ([]*operatorv1.DebugInfoResponse, []error) {
	infos, errs := make([]*operatorv1.DebugInfoResponse, len(addresses)), make([]error, len(addresses))
	var asking sync.WaitGroup
	for i, address := range addresses {
		if address == "" {
			errs[i] = errors.New("it has no address for operators")
			continue
		}
		asking.Go(func() {
			one := *s.context
			one.Nodes = []string{address}
			api, err := client.New(&one, client.Options{UserAgent: "vedette/" + version})
			if err != nil {
				errs[i] = err
				return
			}
			defer api.Close()
			ctx, cancel := context.WithTimeout(ctx, nodeTime)
			defer cancel()
			infos[i], errs[i] = api.DebugInfo(ctx)
		})
	}
	asking.Wait()
	return infos, errs
}

// node writes a node's files.
func (t *archive) node(name string, info *operatorv1.DebugInfoResponse) {
	var log strings.Builder
	if n := info.GetLogDropped(); n > 0 {
		fmt.Fprintf(&log, "%d older ones are not kept\n", n)
	}
	for _, l := range info.GetLog() {
		fmt.Fprintf(&log, "%s %s %s\n", clock(l.GetTime()), output.Safe(l.GetLevel()), output.Safe(l.GetText()))
	}
	for _, f := range []struct{ name, text string }{
		{"build.txt", fmt.Sprintf("vedette-coordinator %s, running since %s\n\n%s", info.GetVersion(), clock(info.GetStarted()), info.GetBuild())},
		{"configuration.yaml", info.GetConfiguration()}, {"goroutines.txt", info.GetGoroutines()}, {"health.txt", info.GetHealth()},
		{"log.txt", log.String()}, {"metrics.txt", info.GetMetrics()}, {"readiness.txt", info.GetReadiness()},
	} {
		t.add("nodes/"+name+"/"+f.name, f.text)
	}
}

func indented(v any) string {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(raw) + "\n"
}

// word is a name where it is a plain word, else a stand-in: names come from elsewhere
// and become those of files.
func word(name, otherwise string) string {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return otherwise
	}
	return name
}
