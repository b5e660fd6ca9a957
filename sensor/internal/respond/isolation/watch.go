package isolation

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Watch calls changed after every change of nftables, devices or IPv6 addresses
// in the namespace, until ctx ends or a subscription breaks; then the caller has
// to look by itself. A device that comes while the cut is in force is shut before
// changed is called, which must not block; what it is told is only "look now".
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
					b.hasten(messages)
				}
				changed()
			}
		})
	}
	changed() // what happened before the subscriptions were there
	return group.Wait()
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
