package isolation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Watch calls changed after every change of nftables, devices or IPv6 addresses
// in the namespace, until ctx ends or a subscription breaks; then the caller has
// to look by itself. changed must not block; what it is told is only "look now".
func (b *Barrier) Watch(ctx context.Context, changed func()) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, subscription := range []struct {
		family int
		groups []uint32
	}{
		{unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}},
		{unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR}},
	} {
		conn, err := b.subscribe(subscription.family, subscription.groups)
		group.Go(func() error {
			if err != nil {
				return err
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer func() { _ = conn.Close() }()
			for {
				messages, err := conn.Receive()
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				// More changed than the socket could hold: look once for all of it.
				case err != nil && !errors.Is(err, unix.ENOBUFS):
					return fmt.Errorf("watching netlink: %w", err)
				}
				if subscription.family == unix.NETLINK_ROUTE {
					b.shut(messages)
				}
				changed()
			}
		})
	}
	changed() // what happened before the subscriptions were there
	return group.Wait()
}

// shut drops everything on devices that the kernel tells of and the table does not have,
// until the one that follows does: making that takes longer. What fails here is for that
// one.
func (b *Barrier) shut(told []netlink.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil || b.anyDevice() {
		return
	}
	transaction, names := &batch{}, map[string]bool{}
	for _, m := range told {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		link, err := vnl.LinkDeserialize(nil, m.Data)
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		came := device{index: link.Attrs().Index, name: link.Attrs().Name}
		if slices.ContainsFunc(b.current.surround.devices, came.same) {
			continue
		}
		for _, d := range b.current.spec.Level.directions() {
			// Not the name that it will have: a device that is called something else now has
			// that chain already, and may have slipped out of it.
			base := newBase(d, fmt.Sprintf("came_%d", came.index), named{name: came.name})
			if !names[base.name] && !b.current.shut[base.name] {
				names[base.name] = true
				transaction.addBaseChain(TableName, base.name, base.hook)
			}
		}
	}
	if len(names) == 0 || b.transact(transaction) != nil {
		return
	}
	maps.Copy(names, b.current.shut)
	b.current.shut = names
}

func (b *Barrier) subscribe(family int, groups []uint32) (*netlink.Conn, error) {
	conn, err := netlink.Dial(family, &netlink.Config{NetNS: b.fd()})
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	for _, multicast := range groups {
		if err := conn.JoinGroup(multicast); err != nil {
			return nil, errors.Join(fmt.Errorf("subscribing to netlink group %d: %w", multicast, err), conn.Close())
		}
	}
	return conn, nil
}
