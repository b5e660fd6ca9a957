package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxTrust bounds the file of a list, in bytes.
const maxTrust = 64 << 10

func (a *app) rootRenewOperatorsCommand() *cobra.Command {
	r := &rootChange{within: seenWithin}
	root := &rootFile{}
	c := &cobra.Command{
		Use:   "renew-operators",
		Short: "give the operators' authority a later end",
		Long: `Signs the operators' authority anew, with the key that it always had and a later end, and has
every node, sensor and context go by it. All certificates and grants stay good. It takes the root's
key: the file with it (--root), or the first admin's context as long as it was not taken offline. The
file stays as it is: it holds the key, and which end its certificate has there matters to nobody.`,
		Example: "  vedette cluster root renew-operators --reason \"ends in March\" --root prod.root",
		Args:    none,
		RunE: a.connected(func(ctx context.Context, s *session, _ []string) error {
			if strings.TrimSpace(r.reason) == "" {
				return usage("--reason is needed: the next person will ask why")
			}
			if root.path == "" && !s.context.HoldsRoot() {
				return exit(exitDenied, "only the root renews itself: give the file with its key by --root FILE")
			}
			if err := s.useRoot(ctx, root, s.context); err != nil {
				return err
			}
			looking, looked := s.limit(ctx)
			res, before, err := s.api.Trust(looking, r.within)
			looked()
			if err != nil {
				return err
			}
			t, err := s.api.RenewOperators(s.context, before, res.GetRoots(), int(res.GetIssuer()))
			if err != nil {
				return usage("%w", err)
			}
			return s.put(ctx, r, t, "renew the operators' authority")
		}),
	}
	r.flags(c)
	root.flags(c)
	return c
}

func (a *app) rootExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "export",
		Short:   "print the signed list of trusted authorities, for a context that was away",
		Long:    "Prints the newest list of trusted authorities, as an admin signed it, as one line. It is no secret.",
		Example: "  vedette cluster root export > trust.txt",
		Args:    none,
		RunE: a.with(func(ctx context.Context, s *session, _ []string) error {
			res, t, err := s.api.Trust(ctx, seenWithin)
			if err != nil {
				return err
			}
			if t == nil {
				return exit(exitNotFound, "nobody has signed one: every context trusts what it was made with")
			}
			raw, err := proto.Marshal(res.GetTrust())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.stdout, base64.StdEncoding.EncodeToString(raw))
			return err
		}),
	}
}

func (a *app) rootImportCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "put such a list into the context in use",
		Long:    "Puts what 'vedette cluster root export' printed into the context in use, if an admin of its cluster\nsigned it and it is newer. It needs no cluster: it is for a context that does not know the nodes any more.",
		Example: "  vedette cluster root import trust.txt",
		Args:    exactly("FILE"),
		RunE: bare(func(_ context.Context, args []string) error {
			c, err := a.context()
			if err != nil {
				return err
			}
			info, err := os.Stat(args[0])
			if err != nil {
				return usage("opening the list: %w", err)
			}
			if info.Size() > maxTrust {
				return usage("%s is no list of trusted authorities: it has %d bytes", args[0], info.Size())
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return usage("opening the list: %w", err)
			}
			raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
			signed := &sensorv1.SignedTrust{}
			if err == nil {
				err = proto.Unmarshal(raw, signed)
			}
			if err != nil {
				return usage("%s is no list of trusted authorities: %w", args[0], err)
			}
			if err := a.keepTrust(c.Name, signed); err != nil {
				return exit(exitError, "the list is not taken: %w", err)
			}
			a.say("context %s has it", c.Name)
			return nil
		}),
	}
}
