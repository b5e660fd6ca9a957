package state

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// KindTwoPlaces: one identity is used by two processes that both live.
const KindTwoPlaces = "two-places"

// twoPrefix begins the id of such a finding.
const twoPrefix = "two-"

// twoPlacesEvery is how seldom it is told again while it goes on, in ns.
const twoPlacesEvery = int64(3600 * 1e9)

// placed notes from where a session comes, and tells when its process was there before
// another one: a sensor that was restarted never comes back, so both live, and the
// host's key is in two places. Each of them is named, since nothing here says which of
// them it belongs to.
func (a *applier) placed(host int64, in *raftv1.HostSession) error {
	if len(in.GetInstance()) == 0 { // it does not tell
		return nil
	}
	places, err := a.tx.Places(host)
	if err != nil {
		return fmt.Errorf("reading a host's places: %w", err)
	}
	if len(places) > 0 && bytes.Equal(places[0].Instance, in.GetInstance()) {
		return nil
	}
	if err := a.tx.AddPlace(host, in, a.cmd.GetTime()); err != nil {
		return fmt.Errorf("storing a host's place: %w", err)
	}
	if !slices.ContainsFunc(places, func(p store.Place) bool { return bytes.Equal(p.Instance, in.GetInstance()) }) {
		return nil
	}
	told, err := a.tx.TwoPlacesAt(host)
	if err != nil {
		return fmt.Errorf("reading a host's places: %w", err)
	}
	if told != 0 && a.cmd.GetTime()-told < twoPlacesEvery {
		return nil
	}
	other := places[0]
	here := store.Place{Node: in.GetNode(), Address: in.GetAddress(), KernelBoot: in.GetKernelBoot(), Instance: in.GetInstance()}
	machines := "Both ran in the same boot of one kernel: two sensors on one machine, or two containers of it."
	if !bytes.Equal(here.KernelBoot, other.KernelBoot) {
		machines = "Their kernels booted apart: they are two machines, and one has a copy of the other's key."
	}
	f := &sensorv1.Finding{
		Id: fmt.Sprintf("%s%d", twoPrefix, a.index), Time: a.cmd.GetTime(), Kind: KindTwoPlaces, Severity: "high", Score: 80,
		Title: fmt.Sprintf("One identity in two places: %s and %s", here.Address, other.Address),
		Reason: fmt.Sprintf("Two processes that both live take turns as this host. One: %s. The other: %s. %s "+
			"What this host tells may be either's. Remove it with 'vedette host remove', and enrol each machine that is yours anew.", inWords(here), inWords(other), machines),
	}
	f.Storyline = f.GetId() // its own: what either did is in others
	if _, err := a.tx.AddFinding(host, a.index, a.cmd.GetTime(), f); err != nil {
		return fmt.Errorf("storing finding: %w", err)
	}
	if err := a.tx.SetTwoPlaces(host, f.GetId(), a.cmd.GetTime()); err != nil {
		return fmt.Errorf("storing a host's places: %w", err)
	}
	return nil
}

func inWords(p store.Place) string {
	return fmt.Sprintf("address %s at node %s, kernel boot %x, process %x", p.Address, p.Node, p.KernelBoot, p.Instance)
}
