package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state/statetest"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// everyPrefix keeps the hosts of everyCommand apart from a writer's.
const everyPrefix = "e"

// everyCommand is a command of each kind, for a cluster that was just made.
func everyCommand(t *testing.T, c *Cluster) []*raftv1.Command {
	t.Helper()
	entries, _, err := c.Leader().Node().DB().Audit(t.Context(), 0, 1)
	if err != nil || len(entries) != 1 {
		t.Fatalf("the first entry of the audit: %v, %v", entries, err)
	}
	all := statetest.Every(linktest.Cluster, everyPrefix)
	for _, cmd := range all {
		if p := cmd.GetPutCheckpoint(); p != nil {
			p.Checkpoint.Hash = entries[0].GetHash()
		}
	}
	return all
}

// checkEvery wants to find what everyCommand left.
func checkEvery(t *testing.T, db *store.DB) {
	t.Helper()
	ctx := t.Context()
	host := func(n int) string { return fmt.Sprintf("%s-%d", everyPrefix, n) }
	is := func(ok bool, err error) error {
		if err == nil && !ok {
			err = errors.New("is not as it was left")
		}
		return err
	}
	for what, check := range map[string]func() error{
		"audit": func() error { return auditHolds(ctx, db) },
		"host": func() error {
			h, err := db.Host(ctx, host(0))
			return is(h.GetName() == "name-"+host(0) && h.GetFacts().GetKernel() == "6.12.0", err)
		},
		"removed hosts": func() error {
			ids, err := db.RemovedHosts(ctx)
			return is(slices.Contains(ids, host(9)) && slices.Contains(ids, host(2)), err)
		},
		"incident": func() error {
			in, err := db.Incident(ctx, "inc-0")
			return is(in.GetStatus() == "closed" && in.GetDisposition() == "benign", err)
		},
		"campaign": func() error {
			cam, err := db.Campaign(ctx, "cam-0")
			return is(cam.GetStatus() == "closed", err)
		},
		"investigation": func() error {
			in, err := db.Investigation(ctx, host(0), "7.7")
			return is(in.GetVerdict() == "incident" && in.GetDisposition() == "benign", err)
		},
		"disposition": func() error {
			all, err := db.Dispositions(ctx, "inc-0")
			return is(len(all) == 1, err)
		},
		"findings": func() error {
			all, _, err := db.Findings(ctx, store.FindingFilter{}, store.Page{Size: store.MaxPage})
			ids := make([]string, len(all))
			for i, f := range all {
				ids[i] = f.GetFinding().GetId()
			}
			return is(slices.Contains(ids, host(1)+"-1") && slices.Contains(ids, "sil-0"), err)
		},
		"orders": func() error {
			for id, want := range map[string]string{"op-0": store.OrderOrdered, "op-1": store.OrderOrdered, "op-2": store.OrderVetoed} {
				o, err := db.Order(ctx, id, time.Unix(0, statetest.Now))
				if err := is(o.GetState() == want, err); err != nil {
					return fmt.Errorf("%s: %s: %w", id, o.GetState(), err)
				}
			}
			return nil
		},
		"intent": func() error {
			signed, err := db.Intent(ctx, 0)
			if err != nil {
				return err
			}
			in, err := intent.Decode(signed.GetPayload())
			return is(in.GetVersion() == 1 && in.GetAuthor() == "ada", err)
		},
		"rules": func() error {
			set, err := db.RuleSet(ctx, 1)
			return is(set != nil && set.State == store.RulesHalted && set.Ring == 1, err)
		},
		"signed nodes": func() error {
			signed, err := db.SignedNodes(ctx)
			return is(signed != nil, err)
		},
		"operators": func() error {
			rows, _, err := db.Operators(ctx, store.Page{})
			return is(slices.ContainsFunc(rows, func(o *operatorv1.OperatorRow) bool { return o.GetName() == "rex" && o.GetRevokedBy() == "ada" }), err)
		},
		"trust": func() error {
			signed, err := db.Trust(ctx)
			return is(signed != nil, err)
		},
		"orders to forget": func() error {
			rows, _, err := db.Unlearns(ctx, host(1), "ul-0", store.Page{})
			return is(len(rows) == 1 && rows[0].Behaviours == 4, err)
		},
		"pack": func() error {
			signed, err := db.RolePack(ctx, "web", statetest.Now)
			return is(signed != nil, err)
		},
		"roles": func() error {
			role, err := db.RoleOf(ctx, host(0))
			return is(role == "web", err)
		},
		"roll-outs": func() error {
			rows, _, err := db.RollOuts(ctx, store.Page{})
			return is(len(rows) == 1 && rows[0].GetRollOut().GetBy() == "apt-get", err)
		},
		"drills": func() error {
			rows, _, err := db.Drills(ctx, host(0), store.Page{})
			return is(len(rows) == 1 && rows[0].GetVerdict() == "proven", err)
		},
		"checkpoints": func() error {
			all, err := db.Checkpoints(ctx, 10)
			return is(len(all) == 1, err)
		},
		"exports": func() error {
			all, err := db.Exports(ctx)
			return is(len(all) == 1, err)
		},
	} {
		if err := check(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// auditHolds wants the whole record to be a chain, with an entry of each kind of deed.
func auditHolds(ctx context.Context, db *store.DB) error {
	did := map[string]bool{}
	index, previous := uint64(0), audit.Genesis()
	for more := true; more; {
		entries, next, err := db.Audit(ctx, index, store.MaxPage)
		if err != nil {
			return err
		}
		if previous, err = audit.Verify(index, previous, entries); err != nil {
			return err
		}
		for _, e := range entries {
			did[e.GetAction()], index = true, e.GetIndex()
		}
		more = next && len(entries) > 0
	}
	for _, want := range []string{"cluster-init", "token-create", "incident-open", "campaign-open", "campaign-close", "disposition", "approve", "veto", "isolate-request",
		"isolation-applied", "roll-out", "drills", "hunt", "rules-push", "rules-advance", "rules-halt", "nodes-sign", "operator-revoke", "trust-sign", "export-begin", "cluster-backup",
		"cluster-recover", "cluster-restore"} {
		if !did[want] {
			return fmt.Errorf("nobody did %q", want)
		}
	}
	return nil
}
