package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxPackFile bounds a pack's file: its payload, and the signature with its chain.
const maxPackFile = pack.MaxPayload + 32<<10

// wholeFleet is every host, and fleetShare how many of them make a thing worth saying of the fleet.
const (
	wholeFleet = "group:" + pack.Fleet
	fleetShare = 0.05
)

func (a *app) baselineExportCommand() *cobra.Command {
	var out string
	var share float64
	var shared func() bool
	c := &cobra.Command{
		Use:   "export GROUP|HOST --out FILE",
		Short: "write a signed pack of what a role group or a host does",
		Long: `Makes a pack of what at least a share of a role group's hosts do (group:NAME), of the whole
fleet (group:*), or of what is known on one host, signs it with your key on this machine and writes it to a new file of mode
0600. At most 256 hosts of a group are looked at; what hosts with an open incident do is in
no pack. It holds 8192 behaviours at most, the commonest. The file proves who exported it and
goes into force with 'baseline import' alone. It takes a hunter.`,
		Example: `  vedette baseline export group:web --out web.pack
  vedette baseline export web1 --out web1.pack
  vedette baseline export 'group:*' --out fleet.pack`,
		Args: exactly("GROUP or HOST"),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			if out == "" {
				return usage("where to: give --out FILE")
			}
			if share <= 0 || share > 1 {
				return usage("--share %g is not above 0 and at most 1", share)
			}
			if args[0] == wholeFleet && !shared() {
				share = fleetShare
			}
			signed, res, err := s.api.MakePack(ctx, args[0], uint32(share*1000), client.PackGood)
			if err != nil {
				return err
			}
			raw, err := proto.Marshal(signed)
			if err != nil {
				return fmt.Errorf("encoding the pack: %w", err)
			}
			if err := writeNew(out, func(w *bufio.Writer) error { _, err := w.Write(raw); return err }); err != nil {
				return err
			}
			if res.GetLeftOut() > 0 {
				s.say("%s left out: a pack holds the %d commonest", plural(int(res.GetLeftOut()), "behaviour"), pack.MaxBehaviours)
			}
			s.say("written to %s; 'vedette baseline import %s' brings it into force", out, out)
			return s.showPack(res.GetPack(), res.GetLeftOut(), signed)
		}),
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "the new `file`")
	f.Float64Var(&share, "share", float64(pack.DefaultPermille)/1000, "the share of the group's hosts that must do it (of the whole fleet 0.05)")
	shared = func() bool { return f.Changed("share") }
	return c
}

func (s *session) showPack(p *sensorv1.Pack, leftOut uint32, signed *sensorv1.SignedPack) error {
	v := shape.FromPack(p, leftOut, pack.Sum(signed))
	return s.Show(output.Shown{Name: v.SHA256, Value: v, Page: func(g *output.Page) {
		g.Title(output.Plain, "baseline pack of "+v.Role)
		g.Field("made of", fmt.Sprintf("%s, what %d in 1000 of them do", plural(int(v.Of), "host"), v.Permille))
		g.Field("behaviours", fmt.Sprint(v.Behaviours))
		g.Field("signed by", v.Operator)
		g.Field("made", clock(p.GetMadeAt()))
		g.Field("counts until", clock(p.GetNotAfter()))
	}})
}

func (a *app) baselineImportCommand() *cobra.Command {
	var role string
	var ttl time.Duration
	var yes, dryRun bool
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "bring a pack into force for a role group",
		Long: `Reads a pack that an operator of this cluster exported, shows what is in it, asks, signs it with
your key on this machine and gives it to the hosts of its role group. It takes a hunter.

From then on, for as long as it counts, what is in the pack is not new on those hosts: alone it
makes no finding, and it still matches every rule. So look at what you import: a pack of a
group that was attacked has the attack in it. 'baseline import --dry-run -o json' lists it.

The fleet's pack (of group:*) goes to every host and says how many do a thing, and no more: what
many do surprises less, and is as new as before. One that was made for a role can't become it.`,
		Example: `  vedette baseline import web.pack
  vedette baseline import web1.pack --role web --ttl 720h`,
		Args: exactly("FILE"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			p, by, err := s.readPack(args[0])
			if err != nil {
				return err
			}
			if role = first(strings.TrimPrefix(role, "group:"), p.GetRole()); strings.HasPrefix(role, "h-") {
				return usage("the pack is of one host, %s: say with --role for which group", role)
			}
			if (role == pack.Fleet) != (p.GetRole() == pack.Fleet) {
				return usage("the pack of the whole fleet, and no other, is for the whole fleet: leave --role out, or export the group's")
			}
			s.say("%s of %s, exported by %s at %s: for role group %s", plural(len(p.GetBehaviours()), "behaviour"), plural(int(p.GetOf()), "host"), by, clock(p.GetMadeAt()), role)
			if dryRun {
				s.say("nothing was signed")
				_, err := output.Print(s.Printer, packTable(), output.Rows(p.GetBehaviours()))
				return err
			}
			if !yes {
				tty, ok := s.terminal()
				if !ok {
					return usage("nobody can be asked here (no terminal): repeat with --yes, or look first with --dry-run")
				}
				defer func() { _ = tty.Close() }()
				if err := ask(ctx, tty, question(role), "yes"); err != nil {
					return err
				}
			}
			signed, err := s.api.SignPack(p, role, ttl)
			if err != nil {
				return err
			}
			ctx, cancel := s.limit(ctx)
			defer cancel()
			hosts, err := s.api.PutPack(ctx, signed)
			if err != nil {
				return err
			}
			if hosts == 0 {
				s.say("in force, but no host is in role group %s yet: 'vedette baseline groups' lists the groups", role)
			} else {
				s.say("in force for %s now, and for those that come to the group", plural(int(hosts), "host")) //nolint:gosec // a count
			}
			return s.showPack(p, 0, signed)
		}),
	}
	f := c.Flags()
	f.StringVar(&role, "role", "", "the role group that it is for (default: the one that it was made of)")
	f.DurationVar(&ttl, "ttl", client.PackGood, "how long it counts, at most 4320h")
	f.BoolVar(&dryRun, "dry-run", false, "show what is in it, and do nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func question(role string) string {
	if role == pack.Fleet {
		return "About to tell every host how many do this. Type yes to go on: "
	}
	return fmt.Sprintf("About to say that this is normal on the hosts of %s. Type yes to go on: ", role)
}

// readPack reads a file that 'baseline export' wrote.
func (s *session) readPack(path string) (*sensorv1.Pack, string, error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", exit(exitNotFound, "opening the pack: %w", err)
	}
	if err != nil {
		return nil, "", fmt.Errorf("opening the pack: %w", err)
	}
	defer func() { _ = in.Close() }()
	raw, err := io.ReadAll(io.LimitReader(in, maxPackFile+1))
	if err != nil {
		return nil, "", fmt.Errorf("reading the pack: %w", err)
	}
	if len(raw) > maxPackFile {
		return nil, "", fmt.Errorf("%s is longer than %d bytes: it is no pack", path, maxPackFile)
	}
	signed := new(sensorv1.SignedPack)
	if err := proto.Unmarshal(raw, signed); err != nil {
		return nil, "", fmt.Errorf("%s is no pack: %w", path, err)
	}
	p, by, err := s.api.VerifyPack(signed)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return p, by, nil
}

// packRow is one behaviour of a pack.
type packRow struct {
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Object  string `json:"object"`
	Hosts   uint32 `json:"hosts"`
	Known   uint32 `json:"known_hosts"`
}

func packTable() output.List[*sensorv1.PackBehaviour] {
	type row = *sensorv1.PackBehaviour
	return output.List[row]{
		Name: func(r row) string { return string(r.GetSubject()) + " " + string(r.GetObject()) },
		Value: func(r row) any {
			return packRow{shape.Kind(r.GetKind()), output.Lossless(r.GetSubject()), output.Lossless(r.GetObject()), r.GetHosts(), r.GetKnown()}
		},
		Columns: []output.Column[row]{
			{Head: "KIND", Cell: func(r row) string { return shape.Kind(r.GetKind()) }},
			{Head: "SUBJECT", Max: 48, Cell: func(r row) string { return string(r.GetSubject()) }},
			{Head: "OBJECT", Max: 60, Cell: func(r row) string { return string(r.GetObject()) }},
			{Head: "HOSTS", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetHosts()) }},
			{Head: "KNOWN", Right: true, Cell: func(r row) string { return fmt.Sprint(r.GetKnown()) }},
		},
	}
}
