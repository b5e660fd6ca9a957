package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/trust"
)

const (
	// seenWithin is how far back hosts count, unless somebody says otherwise.
	seenWithin = 7 * 24 * time.Hour
	// followTime bounds what a command spends on its context's list of authorities.
	followTime = 5 * time.Second
	// settleTime is what nodes are given to have taken the list before.
	settleTime = 10 * time.Second
)

func (a *app) clusterRootCommand() *cobra.Command {
	return noun("root", "the authorities: who says who is a node and a host, and the root that vouches for them",
		"  vedette cluster root list\n  vedette cluster root rotate --reason \"yearly\"\n  vedette cluster root status\n  vedette cluster root retire 1f0c --reason \"yearly\"",
		a.rootListCommand(), a.rootStatusCommand(), a.rootRotateCommand(), a.rootRetireCommand(), a.rootRenewOperatorsCommand(), a.rootExportCommand(), a.rootImportCommand(),
		a.rootTakeOfflineCommand(), a.rootInspectCommand(), a.rootRenewMineCommand())
}

// followTrust brings the context's list of trusted authorities up to the cluster's. What fails
// is tried again by the next command.
func (s *session) followTrust(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	res, t, err := s.api.Trust(ctx, seenWithin)
	if err == nil && t != nil {
		err = s.keepTrust(res.GetTrust())
	}
	if err != nil {
		s.say("this context does not have the cluster's newest list of trusted authorities: %v", err)
	}
}

func (s *session) keepTrust(signed *sensorv1.SignedTrust) error {
	return s.app.keepTrust(s.context.Name, signed)
}

// keepTrust writes a list into the context file.
func (a *app) keepTrust(name string, signed *sensorv1.SignedTrust) error {
	path, err := a.path()
	if err != nil {
		return err
	}
	known := errors.New("it is there already")
	err = client.Update(path, func(config *client.Config) error {
		c := config.Context(name)
		if c == nil {
			return fmt.Errorf("%s holds no context named %q", path, name)
		}
		news, err := c.Follow(signed)
		if err == nil && !news {
			err = known
		}
		return err
	})
	if errors.Is(err, known) {
		return nil
	}
	return err
}

// rootRow is `cluster root list`.
type rootRow struct {
	Root    string     `json:"root"`
	Expires shape.Time `json:"expires"`
	Shown   bool       `json:"shown"`
	Signs   bool       `json:"signs"`
	Hosts   uint64     `json:"hosts"`
}

func rootRows(res *operatorv1.GetTrustResponse) (rows []*rootRow) {
	for i, der := range res.GetRoots() {
		row := &rootRow{Root: trust.Short(der), Shown: i == 0, Signs: i == int(res.GetIssuer())}
		if cert, err := x509.ParseCertificate(der); err == nil {
			row.Expires = stamp(cert.NotAfter.UnixNano())
		}
		for _, c := range res.GetCounts() {
			if string(c.GetRoot()) == string(trust.Key(der)) {
				row.Hosts += c.GetHosts()
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (a *app) rootListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the authorities that are trusted",
		Long: `Lists the authorities. SHOWN is the one that nodes show sensors and operators, SIGNS the one
that signs hosts' certificates. HOSTS are those, seen within 7 days, that have said that their
certificate is by its key; before the first rotation hosts say nothing.`,
		Example: "  vedette cluster root list",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			res, _, err := s.api.Trust(ctx, seenWithin)
			if err != nil {
				return err
			}
			type row = *rootRow
			_, err = output.Print(s.Printer, output.List[row]{
				Name:  func(r row) string { return r.Root },
				Value: func(r row) any { return r },
				Columns: []output.Column[row]{
					{Head: "ROOT", Cell: func(r row) string { return r.Root }},
					{Head: "EXPIRES", Cell: func(r row) string { return clock(int64(r.Expires)) }},
					{Head: "SHOWN", Cell: func(r row) string { return yesNo(r.Shown) }},
					{Head: "SIGNS", Cell: func(r row) string { return yesNo(r.Signs) }},
					{Head: "HOSTS", Right: true, Cell: func(r row) string { return number(r.Hosts) }},
				},
			}, output.Rows(rootRows(res)))
			return err
		}),
	}
}

// rootStatus is `cluster root status`.
type rootStatus struct {
	Epoch     uint64            `json:"epoch"`
	SignedBy  string            `json:"signed_by"`
	Hosts     uint64            `json:"hosts"`
	Unready   uint64            `json:"unready"`
	Some      []string          `json:"some_unready"`
	Nodes     map[string]uint64 `json:"nodes"`
	Operators map[string]uint64 `json:"operators"`
}

func (a *app) rootStatusCommand() *cobra.Command {
	within := seenWithin
	c := &cobra.Command{
		Use:     "status",
		Short:   "say how far a rotation is: which hosts, nodes and contexts have heard of it",
		Example: "  vedette cluster root status --seen-within 720h",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			res, t, err := s.api.Trust(ctx, within)
			if err != nil {
				return err
			}
			st := rootStatus{Epoch: t.GetEpoch(), SignedBy: t.GetOperator(), Hosts: res.GetHosts(), Some: append([]string{}, res.GetUnready()...),
				Unready: res.GetUnreadyCount(), Nodes: epochs(res.GetNodes()), Operators: epochs(res.GetHolders())}
			if t == nil {
				st.Unready, st.Some = 0, []string{}
			}
			return s.Show(output.Shown{Name: fmt.Sprint(st.Epoch), Value: st, Page: func(g *output.Page) {
				g.Field("epoch", fmt.Sprintf("%d", st.Epoch))
				for _, r := range rootRows(res) {
					words := []string{"until " + clock(int64(r.Expires))}
					if r.Shown {
						words = append(words, "shown")
					}
					if r.Signs {
						words = append(words, "signs")
					}
					g.Field("root "+r.Root, strings.Join(append(words, plural(int(r.Hosts), "host")), ", ")) //nolint:gosec // a fleet
				}
				g.Field("hosts", fmt.Sprintf("%d of %d are ready for the one that signs to be the only one", st.Hosts-min(st.Unready, st.Hosts), st.Hosts))
				for _, name := range st.Some {
					g.Field("not ready", name)
				}
				for _, n := range res.GetNodes() {
					g.Field("node "+n.GetName(), held(n.GetEpoch(), st.Epoch))
				}
				for _, o := range res.GetHolders() {
					g.Field("operator "+o.GetName(), held(o.GetEpoch(), st.Epoch))
				}
			}})
		}),
	}
	c.Flags().DurationVar(&within, "seen-within", seenWithin, "count the hosts that were seen within this time")
	return c
}

func held(epoch, newest uint64) string {
	if epoch >= newest {
		return "has it"
	}
	return fmt.Sprintf("has epoch %d", epoch)
}

func epochs(holders []*operatorv1.TrustHolder) map[string]uint64 {
	m := make(map[string]uint64, len(holders))
	for _, h := range holders {
		m[h.GetName()] = h.GetEpoch()
	}
	return m
}

// rootChange is what rotate and retire have in common.
type rootChange struct {
	reason        string
	yes, dryRun   bool
	force         bool
	within, waits time.Duration
}

func (r *rootChange) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.reason, "reason", "", "why; it is recorded")
	f.BoolVar(&r.dryRun, "dry-run", false, "show what would be signed, and do nothing")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
}

// put shows a list, asks, signs it and commits it.
func (s *session) put(ctx context.Context, r *rootChange, t *sensorv1.Trust, what string) error {
	for i, der := range t.GetRoots() {
		s.say("  %s%s", trust.Short(der), map[bool]string{true: "  signs"}[i == int(t.GetIssuer())])
	}
	if r.dryRun {
		s.say("nothing was signed: %s", what)
		return nil
	}
	if !r.yes {
		tty, ok := s.terminal()
		if !ok {
			return usage("nobody can be asked here (no terminal): repeat with --yes to %s, or look first with --dry-run", what)
		}
		defer func() { _ = tty.Close() }()
		if err := ask(ctx, tty, "About to "+what+". Type yes to go on: ", "yes"); err != nil {
			return err
		}
	}
	// Who typed the step before has just seen it signed. Whether it may go on the cluster says.
	_ = s.awaitNodes(ctx, settleTime, t.GetEpoch()-1)
	ctx, cancel := s.limit(ctx)
	defer cancel()
	if err := s.api.PutTrust(ctx, t, r.reason, r.within, r.force); err != nil {
		return err
	}
	s.say("signed, epoch %d", t.GetEpoch())
	return nil
}

func (a *app) rootRotateCommand() *cobra.Command {
	r := &rootChange{within: seenWithin}
	var renew, back bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "have another authority sign: a new one, or the same with a later end",
		Long: `Makes a new authority, has every node, sensor and context trust it beside the one that there
is, and when all nodes have it and its key, has it sign: hosts renew their certificates under it
within minutes. Nobody enrols again. Each step is a list that you sign with your key on this machine.

Interrupted, or when a node was away, run it again: it goes on where it is. Then wait until 'vedette
cluster root status' says that the hosts are ready, and retire the old one.

--renew makes no new key but gives the authority that there is a later end. --back has the
authority that nodes show sensors sign again: the other can then be retired.`,
		Example: "  vedette cluster root rotate --reason \"yearly\" --dry-run\n  vedette cluster root rotate --reason \"yearly\"\n  vedette cluster root rotate --back --reason \"not today\"",
		Args:    none,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			if strings.TrimSpace(r.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			looking, looked := s.limit(ctx)
			res, before, err := s.api.Trust(looking, r.within)
			looked()
			if err != nil {
				return err
			}
			roots, issuer := res.GetRoots(), int(res.GetIssuer())
			switch {
			case back && issuer == 0:
				s.say("%s signs already", trust.Short(roots[0]))
				return nil
			case back:
				return s.sign(ctx, r, before, roots, 0, "have "+trust.Short(roots[0])+" sign again")
			case len(roots) > 1 && issuer == len(roots)-1:
				return usage("%s signs already: retire %s first, when 'vedette cluster root status' says that the hosts are ready", trust.Short(roots[issuer]), trust.Short(roots[0]))
			case len(roots) == 1:
				if before, err = s.addRoot(ctx, r, before, roots, renew); err != nil || r.dryRun {
					return err
				}
				roots = before.GetRoots()
			}
			if err := s.awaitNodes(ctx, r.waits, before.GetEpoch()); err != nil {
				return err
			}
			return s.sign(ctx, r, before, roots, len(roots)-1, "have "+trust.Short(roots[len(roots)-1])+" sign hosts; they renew within minutes")
		}),
	}
	r.flags(c)
	c.Flags().BoolVar(&renew, "renew", false, "the same key with a later end, instead of a new key")
	c.Flags().BoolVar(&back, "back", false, "have the authority that nodes show sign again")
	c.Flags().DurationVar(&r.waits, "wait", time.Minute, "how long to wait for all nodes to have the new authority and its key")
	return c
}

// addRoot signs the list with another authority, which does not sign yet.
func (s *session) addRoot(ctx context.Context, r *rootChange, before *sensorv1.Trust, roots [][]byte, renew bool) (*sensorv1.Trust, error) {
	what := "have all trust a new authority beside " + trust.Short(roots[0])
	if renew {
		what = "have all trust the same authority with a later end beside " + trust.Short(roots[0])
	}
	if r.dryRun {
		s.say("nothing was signed: it would %s, and then have that one sign", what)
		return nil, nil
	}
	preparing, prepared := s.limit(ctx)
	var of []byte
	if renew {
		of = trust.Key(roots[0])
	}
	root, err := s.api.PrepareRoot(preparing, of)
	prepared()
	if err != nil {
		return nil, err
	}
	t, err := s.api.NewTrust(before, append(slices.Clone(roots), root), 0)
	if err != nil {
		return nil, usage("%w", err)
	}
	return t, s.put(ctx, r, t, what)
}

func (s *session) sign(ctx context.Context, r *rootChange, before *sensorv1.Trust, roots [][]byte, issuer int, what string) error {
	t, err := s.api.NewTrust(before, roots, issuer)
	if err != nil {
		return usage("%w", err)
	}
	return s.put(ctx, r, t, what)
}

// awaitNodes waits until every node has a list and the keys of its authorities.
func (s *session) awaitNodes(ctx context.Context, wait time.Duration, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var behind []string
	for {
		if res, _, err := s.api.Trust(ctx, seenWithin); err == nil {
			behind = behind[:0]
			for _, n := range res.GetNodes() {
				if n.GetEpoch() < epoch {
					behind = append(behind, n.GetName())
				}
			}
			if len(behind) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return exit(exitError, "not all nodes have the new authority and its key yet (%s): nothing else was signed; start them, or remove them, and run this again", strings.Join(behind, ", "))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (a *app) rootRetireCommand() *cobra.Command {
	r := &rootChange{}
	c := &cobra.Command{
		Use:   "retire ROOT",
		Short: "trust an authority no more",
		Long: `Signs the list of trusted authorities without one, named by the beginning of its name in 'vedette
cluster root list'. Nodes end what is open under its certificates, and nothing that it signed is
taken any more. The one that signs stays.

It is refused while a host that was seen within --seen-within would be cut off: it has not said
that it holds the list, or has a certificate by what goes. --force takes it away all the same:
those hosts, which the audit record counts, have to enrol again.`,
		Example: "  vedette cluster root retire 1f0c --reason \"yearly\"\n  vedette cluster root retire 1f0c --reason \"key stolen\" --force --yes",
		Args:    exactly("ROOT"),
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			if strings.TrimSpace(r.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			looking, looked := s.limit(ctx)
			res, before, err := s.api.Trust(looking, r.within)
			looked()
			if err != nil {
				return err
			}
			roots, issuer := res.GetRoots(), int(res.GetIssuer())
			at := -1
			for i, der := range roots {
				if strings.HasPrefix(trust.Short(der), args[0]) {
					if at >= 0 {
						return usage("%s names more than one authority: write more of it", args[0])
					}
					at = i
				}
			}
			switch {
			case at < 0:
				return exit(exitNotFound, "no such authority: %s; see 'vedette cluster root list'", args[0])
			case at == issuer:
				return usage("%s signs: have another one sign first ('vedette cluster root rotate')", trust.Short(roots[at]))
			}
			name := trust.Short(roots[at])
			s.say("%d of %d hosts are not ready", res.GetUnreadyCount(), res.GetHosts())
			if at == 0 {
				// Nodes show another one before it goes: no sensor may meet one that it does not know.
				roots = append([][]byte{roots[issuer]}, slices.Delete(slices.Clone(roots), issuer, issuer+1)...)
				t, err := s.api.NewTrust(before, roots, 0)
				if err != nil {
					return usage("%w", err)
				}
				if err := s.put(ctx, r, t, "have nodes show "+trust.Short(roots[0])+", and then trust "+name+" no more"); err != nil || r.dryRun {
					return err
				}
				r.yes = true // both were asked for
				if err := s.awaitNodes(ctx, r.waits, t.GetEpoch()); err != nil {
					return err
				}
				before, at, issuer = t, slices.IndexFunc(roots, func(der []byte) bool { return trust.Short(der) == name }), 0
			} else if at < issuer {
				issuer--
			}
			if err := s.sign(ctx, r, before, slices.Delete(slices.Clone(roots), at, at+1), issuer, "trust "+name+" no more"); err != nil || r.dryRun {
				return err
			}
			s.say("an operator whose context has not followed gets it by 'vedette cluster root export' and 'import'")
			return nil
		}),
	}
	r.flags(c)
	c.Flags().DurationVar(&r.within, "seen-within", seenWithin, "hosts that were seen within this time must be ready, at least 24h")
	c.Flags().DurationVar(&r.waits, "wait", time.Minute, "how long to wait for all nodes in between")
	c.Flags().BoolVar(&r.force, "force", false, "cut off hosts that are not ready")
	return c
}
