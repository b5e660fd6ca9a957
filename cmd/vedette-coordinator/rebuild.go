package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/proto/seal"
)

func restoreCommand() *cobra.Command {
	o := &options{}
	var from coordinator.RestoreFrom
	var identities, passphraseFile string
	c := &cobra.Command{
		Use:   "restore --data DIR --id NAME --from FILE",
		Short: "Make a new cluster of a backup, this node being its first",
		Long: "Make a new cluster of a backup ('vedette cluster backup'), this node being its first. The directory must\n" +
			"be empty, and no node of the former cluster may ever run again with what it has; the others join anew.\n\n" +
			"With the cluster's key in the backup hosts come back by themselves, if this node has an address that they\n" +
			"know. Without it --identity-from takes the key from any node's old data directory, or --new-authority makes\n" +
			"another one: then every host must enrol again, and every operator needs the new ca.crt in their context.\n\n" +
			"What came after the backup is lost: hosts that enrolled later must enrol again, isolations ordered later go\n" +
			"on until their lease ends but are unknown here, and each host says what it had delivered in vain.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if identities != "" {
				if from.Keys.Identities, err = seal.ReadSecret(identities, cmd.InOrStdin()); err != nil {
					return fmt.Errorf("reading the age identities: %w", err)
				}
			}
			if passphraseFile != "" {
				if from.Keys.Passphrase, err = seal.ReadSecret(passphraseFile, cmd.InOrStdin()); err != nil {
					return fmt.Errorf("reading the passphrase: %w", err)
				}
			}
			began := time.Now()
			m, err := coordinator.Restore(cmd.Context(), cfg, from)
			if errors.Is(err, seal.ErrEncrypted) {
				return fmt.Errorf("%w: give --age-identity FILE or --passphrase-file FILE (- for standard input)", err)
			}
			if err != nil {
				return err
			}
			say(cmd.ErrOrStderr(), "Restored cluster %s as it was at %s, entry %d: %d hosts, %d findings, %d incidents; in %s.\n"+
				"What came later is not here. Next:\n  vedette-coordinator --data %s\n"+
				"then, on an admin's machine: 'vedette cluster members', a token for each further node ('vedette token create --node'),\n"+
				"'vedette cluster sign-nodes', and 'vedette intent show', as hosts may hold a newer intent.\n",
				m.ClusterID, m.Time.Format(time.RFC3339), m.Index, m.Rows["hosts"], m.Rows["findings"], m.Rows["incidents"],
				time.Since(began).Round(time.Second/10), cfg.Data)
			if from.NewAuthority {
				say(cmd.ErrOrStderr(), "The authority is new: every host must enrol again, and %s/ca.crt must take the place of 'ca' in every operator's context.\n", cfg.Data)
			}
			return nil
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVarP(&o.file, "config", "c", "", "read the configuration from this YAML `file`; flags win over it")
	f.StringVar(&from.File, "from", "", "the backup, a `file`")
	f.StringVar(&identities, "age-identity", "", "`file` of age identities that open the backup, - for standard input")
	f.StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase that opens the backup, - for standard input")
	f.StringVar(&from.IdentityFrom, "identity-from", "", "data `directory` of a node of the former cluster, for a backup without its key")
	f.BoolVar(&from.NewAuthority, "new-authority", false, "make a new authority: every host must enrol again")
	c.MarkFlagsMutuallyExclusive("age-identity", "passphrase-file")
	c.MarkFlagsMutuallyExclusive("identity-from", "new-authority")
	_ = c.MarkFlagRequired("from")
	return c
}

func recoverCommand() *cobra.Command {
	o := &options{}
	var yes bool
	c := &cobra.Command{
		Use:   "recover --data DIR [--yes]",
		Short: "Go on with this node alone, after the loss of the quorum",
		Long: "Go on with this node alone, when so many nodes are lost for good that no majority will ever be there again.\n\n" +
			"Without --yes it says what this node has and changes nothing. Run it so on every node that is left, all of\n" +
			"them stopped, and choose the one with the highest term, and among those the highest index. There, and only\n" +
			"there, run it with --yes and start the node. Empty the others' directories and let them join again with a\n" +
			"token: a node that starts with what it has would be a second cluster beside this one.\n\n" +
			"What was acknowledged by the lost nodes and never reached this one is lost. The audit record says that it\n" +
			"happened, and hosts count what they had delivered in vain. Of nodes with the same term and index, leave the one\n" +
			"that says that its state differed: some of its rows may be wrong.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if !yes {
				id, s, err := coordinator.Look(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				say(cmd.OutOrStdout(), "node %s: term %d, index %d (applied %d, snapshot %d), members %s\n", id, s.Term, s.Index, s.Applied, s.Snapshot, strings.Join(s.Members, " "))
				if s.Differed {
					say(cmd.OutOrStdout(), "Its state differed from that of the other nodes when it stopped: if another node has the same term and index, choose that one. If this one alone has the highest, go on with it; some of its rows may be wrong.\n")
				}
				say(cmd.ErrOrStderr(), "Nothing was changed. Compare the nodes that are left: the highest term has most, among those the highest index. There: --yes\n")
				return nil
			}
			s, err := coordinator.Recover(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			say(cmd.ErrOrStderr(), "This node goes on alone from index %d of term %d; the members were: %s. Next:\n  vedette-coordinator --data %s\n"+
				"then, on an admin's machine: 'vedette status', a token for each further node ('vedette token create --node'), 'vedette cluster sign-nodes'.\n"+
				"The other nodes must not start again with what they have: empty their directories and let them join.\n",
				s.Index, s.Term, strings.Join(s.Members, " "), cfg.Data)
			return nil
		},
	}
	o.flags(c)
	c.Flags().StringVarP(&o.file, "config", "c", "", "read the configuration from this YAML `file`; flags win over it")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do it: the other nodes are lost for good")
	return c
}
