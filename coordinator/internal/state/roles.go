package state

import (
	"fmt"

	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// How a role group was found.
const (
	RoleByLabel   = "label"
	RoleBySimilar = "similar"
)

const (
	// maxRoleHosts and maxRoleGroups bound one command.
	maxRoleHosts  = 2000
	maxRoleGroups = 256
	maxSketch     = 8 * 128
)

// setRoles takes what the engine found. A host or a group that is not there any more is
// passed over: it went since the engine read it. Nothing here touches what the governor
// counts by: a role group says what is usual and never what is allowed.
func (a *applier) setRoles(in *raftv1.SetRoles) (*raftv1.Result, error) {
	if len(in.GetHosts()) > maxRoleHosts || len(in.GetGroups()) > maxRoleGroups || len(in.GetDissolved()) > maxRoleGroups {
		return reject(RejectInvalid, "more than %d hosts or %d groups in one entry", maxRoleHosts, maxRoleGroups), nil
	}
	for _, g := range in.GetGroups() {
		if !pack.ValidRole(g.GetName()) || len(g.GetSketch()) > maxSketch || g.GetBasis() != RoleByLabel && g.GetBasis() != RoleBySimilar {
			return reject(RejectInvalid, "role group %.64q is not one", g.GetName()), nil
		}
	}
	for _, name := range in.GetDissolved() {
		if err := a.tx.DropRole(name); err != nil {
			return nil, fmt.Errorf("dissolving role group: %w", err)
		}
		if err := a.audit("role-dissolve", name, "too few hosts"); err != nil {
			return nil, err
		}
	}
	for _, g := range in.GetGroups() {
		if err := a.putRole(g); err != nil {
			return nil, err
		}
	}
	for _, h := range in.GetHosts() {
		host, ok, err := a.tx.HostNumber(h.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if ok && h.GetRole() != "" {
			if ok, err = a.tx.RoleExists(h.GetRole()); err != nil {
				return nil, fmt.Errorf("reading role group: %w", err)
			}
		}
		if !ok {
			continue
		}
		if err := a.tx.SetHostRole(host, h.GetRole(), min(h.GetPermille(), 1000)); err != nil {
			return nil, fmt.Errorf("putting host into role group: %w", err)
		}
	}
	return accept(""), nil
}

func (a *applier) putRole(g *raftv1.RoleGroup) error {
	had, err := a.tx.RoleExists(g.GetName())
	if err != nil {
		return fmt.Errorf("reading role group: %w", err)
	}
	put, err := a.tx.PutRole(g)
	if err != nil {
		return fmt.Errorf("storing role group: %w", err)
	}
	if had || !put {
		return nil
	}
	return a.audit("role-found", g.GetName(), "by %s", g.GetBasis())
}
