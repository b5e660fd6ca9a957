package isolation

import (
	"net"
	"slices"
	"strconv"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hasten shuts devices that the kernel has just told of, before anything is looked at: the
// table would be listed, compared and built anew while they are open. Each gets its chains
// without a rule, so that their policy drops all, from when the kernel reads them: it does
// not wait for the transaction to end. Reconcile then gives the device what all have.
// What fails here is left to that as well.
func (b *Barrier) hasten(messages []netlink.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil || b.anyDevice() {
		return
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		link, err := vnl.LinkDeserialize(nil, m.Data)
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		index, name := link.Attrs().Index, link.Attrs().Name
		known := slices.ContainsFunc(b.current.surround.devices, func(d device) bool { return d.index == index })
		if known || b.current.hastened[baseName(ingress, index)] || b.current.hastened[baseName(egress, index)] {
			continue
		}
		transaction := &batch{}
		directions := b.current.spec.Level.directions()
		for _, d := range directions {
			transaction.addBaseChain(TableName, baseName(d, index), hook{direction: d, devices: []string{name}, priority: first})
		}
		if b.transact(transaction) != nil {
			continue
		}
		if b.current.hastened == nil {
			b.current.hastened = map[string]bool{}
		}
		for _, d := range directions {
			b.current.hastened[baseName(d, index)] = true
		}
	}
}

// baseName is of the chain that the kernel calls for a device.
func baseName(d direction, index int) string { return d.String() + "_" + strconv.Itoa(index) }
