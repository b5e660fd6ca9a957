package main

import (
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// containment is one action beside isolation, as the command line has it.
type containment struct {
	action  sensorv1.Action
	verb    string
	short   string
	example string
	// flags adds the flags of its target and returns what reads them.
	flags func(c *cobra.Command) func() (*sensorv1.Target, error)
}

func (a *app) containCommand() *cobra.Command {
	var verbs []*cobra.Command
	for _, k := range containments() {
		verbs = append(verbs, a.containVerb(k))
	}
	c := noun("contain", "stop a process, a program, an address, an account or a file on hosts",
		"  vedette contain freeze web1 --storyline 4711.98 --reason \"looking\"\n  vedette contain block-address -l role=web --prefix 203.0.113.7 --reason \"command and control\"\n  vedette release web1 --operation op-abcdefghijkl --reason \"false alarm\"",
		verbs...)
	c.Long = `Less than an isolation: one thing on the hosts is stopped, by a lease that ends. Each can be
undone exactly: vedette release HOST --operation OPERATION, but for kill, which has no undo.
With --ask the hosts say what they would do, and do nothing.`
	return c
}

func (a *app) containVerb(k containment) *cobra.Command {
	o := &order{action: k.action, verb: k.verb}
	c := &cobra.Command{Use: k.verb + " HOST...", Short: k.short, Example: k.example}
	target := k.flags(c)
	c.RunE = a.connected(func(ctx context.Context, s *session, args []string) error {
		var err error
		if o.target, err = target(); err != nil {
			return err
		}
		return o.run(ctx, s, args)
	})
	if o.leased() {
		c.Flags().DurationVar(&o.ttl, "ttl", defaultLease, "how long, at most 24h; then it ends by itself")
	}
	c.Flags().BoolVar(&o.ask, "ask", false, "let the hosts say what they would do, and do nothing")
	o.flags(a, c)
	return c
}

func containments() []containment {
	return []containment{
		{sensorv1.Action_ACTION_FREEZE, "freeze", "stop the processes of a storyline where they are",
			`  vedette contain freeze web1 --storyline 4711.98 --reason "looking"`, processTarget},
		{sensorv1.Action_ACTION_KILL, "kill", "end the processes of a storyline, for good",
			`  vedette contain kill web1 --storyline 4711.98 --reason "miner" --wait`, processTarget},
		{sensorv1.Action_ACTION_BLOCK_IMAGE, "block-image", "let a program, by its content, not start any more",
			`  vedette contain block-image --all --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --reason "dropper"`, imageTarget},
		{sensorv1.Action_ACTION_BLOCK_ADDRESS, "block-address", "drop what goes to and comes from addresses",
			`  vedette contain block-address -l role=web --prefix 203.0.113.0/24 --reason "command and control"`, addressTarget},
		{sensorv1.Action_ACTION_BLOCK_NAME, "block-name", "drop look-ups of a name and what goes to its addresses",
			`  vedette contain block-name --all --name evil.example --reason "command and control"`, nameTarget},
		{sensorv1.Action_ACTION_LOCK_ACCOUNT, "lock-account", "lock a local account and end its sessions",
			`  vedette contain lock-account web1 --account deploy --reason "key was stolen"`, accountTarget},
		{sensorv1.Action_ACTION_QUARANTINE_FILE, "quarantine-file", "take a file away, to be given back as it was",
			`  vedette contain quarantine-file web1 --path /tmp/.x --reason "dropper"`, fileTarget},
		{sensorv1.Action_ACTION_BLOCK_NEIGHBOUR, "block-neighbour", "let hosts drop the traffic of another whose own sensor cannot act",
			`  vedette contain block-neighbour -l role=web --suspect db1 --prefix 10.0.0.7 --reason "its sensor is dead"`, neighbourTarget},
	}
}

func processTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	storyline := c.Flags().String("storyline", "", "every process of this storyline, as a finding names it")
	process := c.Flags().String("process", "", "this process and what descends from it, PID.START as 'finding show' and 'hunt -o wide' name it (id; START in ns since boot)")
	return func() (*sensorv1.Target, error) {
		if (*storyline == "") == (*process == "") {
			return nil, usage("give --storyline or --process: which processes are meant")
		}
		if *storyline != "" {
			return &sensorv1.Target{Storyline: *storyline}, nil
		}
		pid, start, ok := strings.Cut(strings.Replace(*process, ":", ".", 1), ".") // as older versions had it
		number, err := strconv.ParseUint(pid, 10, 32)
		began, startErr := strconv.ParseUint(start, 10, 64)
		if !ok || err != nil || startErr != nil || number < 2 || began == 0 {
			return nil, usage("--process %q: it must be PID.START, because a PID alone may be another process by now", *process)
		}
		return &sensorv1.Target{Process: &sensorv1.ProcessTarget{Pid: uint32(number), Start: began}}, nil
	}
}

func imageTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	sum := c.Flags().String("sha256", "", "SHA-256 of the program's content, hex")
	return func() (*sensorv1.Target, error) {
		raw, err := hex.DecodeString(strings.TrimSpace(*sum))
		if err != nil || len(raw) != 32 {
			return nil, usage("--sha256 %q: it must be 64 hexadecimal digits", *sum)
		}
		return &sensorv1.Target{ImageSha256: raw}, nil
	}
}

func addressTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	prefixes := c.Flags().StringSlice("prefix", nil, "an address, or a prefix such as 203.0.113.0/24; may be repeated")
	return func() (*sensorv1.Target, error) {
		if len(*prefixes) == 0 {
			return nil, usage("give --prefix: which addresses are meant")
		}
		var out []string
		for _, text := range *prefixes {
			prefix, err := netip.ParsePrefix(text)
			if address, addressErr := netip.ParseAddr(text); addressErr == nil {
				prefix, err = netip.PrefixFrom(address, address.BitLen()), nil
			}
			if err != nil {
				return nil, usage("--prefix %q is neither an address nor a prefix such as 203.0.113.0/24", text)
			}
			out = append(out, prefix.Masked().String())
		}
		slices.Sort(out)
		return &sensorv1.Target{Prefixes: slices.Compact(out)}, nil
	}
}

func neighbourTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	suspect := c.Flags().String("suspect", "", "the host that the addresses belong to, for the record")
	addresses := addressTarget(c)
	return func() (*sensorv1.Target, error) {
		target, err := addresses()
		if err == nil && *suspect == "" {
			err = usage("give --suspect: whose addresses these are")
		}
		if err != nil {
			return nil, err
		}
		target.Suspect = *suspect
		return target, nil
	}
}

func nameTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	name := c.Flags().String("name", "", "the DNS name; names below it are meant as well")
	return func() (*sensorv1.Target, error) {
		if *name == "" {
			return nil, usage("give --name: which name is meant")
		}
		return &sensorv1.Target{Name: strings.ToLower(strings.TrimSuffix(*name, "."))}, nil
	}
}

func accountTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	account := c.Flags().String("account", "", "the local account")
	return func() (*sensorv1.Target, error) {
		if *account == "" {
			return nil, usage("give --account: which account is meant")
		}
		return &sensorv1.Target{Account: *account}, nil
	}
}

func fileTarget(c *cobra.Command) func() (*sensorv1.Target, error) {
	path := c.Flags().String("path", "", "the file, from the root")
	return func() (*sensorv1.Target, error) {
		if !strings.HasPrefix(*path, "/") {
			return nil, usage("--path %q: it must begin with /", *path)
		}
		return &sensorv1.Target{Path: []byte(*path)}, nil
	}
}
