package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/pulse"
)

const (
	// cutTick is how often a cut namespace is looked at, idleCutTick an armed one, beside
	// what the kernel tells of devices and addresses.
	cutTick     = time.Second
	idleCutTick = 10 * time.Second
)

// Follow keeps the programs on all devices that come, and while AF_XDP is cut looks for
// sockets that appeared and processes that somebody let go on, until ctx ends, which is no
// error, or the kernel's word of changes breaks off.
func (c *Cut) Follow(ctx context.Context) error {
	conn, err := c.subscribe()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	changed := make(chan struct{}, 1)
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		defer func() { _ = conn.Close() }()
		for {
			messages, err := conn.Receive()
			switch {
			case ctx.Err() != nil:
				return nil
			// More changed than the socket could hold: look once for all of it.
			case err != nil && !errors.Is(err, unix.ENOBUFS):
				return fmt.Errorf("watching devices: %w", err)
			}
			c.coverNew(messages)
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	group.Go(func() error {
		timer := time.NewTimer(0) // what happened before the subscription was there
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-c.kick:
			case <-timer.C:
			}
			if err := c.look(); errors.Is(err, ErrCutClosed) {
				return err
			} else if err != nil {
				c.cfg.Logger.Error("following the devices of the cut", slog.Any("error", err))
			}
			tick := idleCutTick
			if c.Level() != CutNone {
				tick = cutTick
			}
			timer.Reset(pulse.Next(tick))
		}
	})
	return group.Wait()
}

// coverNew hangs the programs on devices that the kernel just told of, before all else is
// looked at: until then they are open. What fails is for the look that follows.
func (c *Cut) coverNew(messages []netlink.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.tcx {
		return
	}
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		told, err := vnl.LinkDeserialize(nil, m.Data)
		if err != nil || told.Attrs().Flags&net.FlagLoopback != 0 || c.devices[told.Attrs().Index] != nil {
			continue
		}
		_ = c.inside(func() error { return c.cover(nil, told.Attrs()) })
	}
}

// look is one round of Follow.
func (c *Cut) look() error {
	err := errors.Join(c.Reconcile(), c.settle())
	if c.xdpIsCut() {
		_, xdpErr := c.CutXDP()
		err = errors.Join(err, xdpErr)
	}
	return err
}

// settle ends what an earlier sensor left, once: whoever follows has put in force again
// what was.
func (c *Cut) settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrCutClosed
	}
	return c.takeOver()
}

func (c *Cut) subscribe() (*netlink.Conn, error) {
	config := &netlink.Config{}
	if c.ns != nil {
		config.NetNS = int(c.ns.Fd())
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, config)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_IFADDR} {
		if err := conn.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("subscribing to netlink group %d: %w", group, err), conn.Close())
		}
	}
	return conn, nil
}

// NotCut says, for people, what passes by the programs on this host now, as of the last
// Reconcile and CutXDP, and by the isolation's table: which alone cuts packet sockets that
// had PACKET_QDISC_BYPASS before (packet_xmit goes past tc; nf_hook_direct_egress is there).
func (c *Cut) NotCut() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	gaps := []string{
		"what stood in a device's queue or ring when the word was stored",
		"a device that appears while cut, until it is covered some milliseconds later",
	}
	if !c.tcx {
		gaps = append(gaps, "filters of other programs may be put before the cut's, and stay when the sensor is killed (kernel before 6.6)")
	}
	if c.cgroup == "" {
		gaps = append(gaps, "new raw and AF_XDP sockets are not refused: no cgroup v2 hierarchy is mounted")
	}
	if !c.recognises && c.Level() != CutNone && !c.named {
		gaps = append(gaps, "what comes in, from packet sockets of this host, and what a traffic-control program redirects once the sensor is killed: the sensor has no CAP_SYS_ADMIN and "+string(c.names)+" takes no names, without which the next one could not take its programs over")
	}
	for _, name := range c.foreign {
		gaps = append(gaps, fmt.Sprintf("what the XDP program on device %s sends back or redirects by itself", name),
			fmt.Sprintf("packet sockets on device %s see what comes in: it has an XDP program of somebody else", name))
	}
	for name, why := range c.unsniffed {
		if !c.sniffs {
			break // not cut: what stays is idle
		}
		gaps = append(gaps, fmt.Sprintf("packet sockets on device %s see what comes in: %s", name, why))
	}
	for name, err := range c.uncovered {
		gaps = append(gaps, fmt.Sprintf("device %s, which takes no program: %v", name, err))
	}
	for index := range c.displaced {
		if d := c.devices[index]; d != nil {
			gaps = append(gaps, fmt.Sprintf("what a program that insists on being the first on device %s lets through or redirects", d.name))
		}
	}
	gaps = append(gaps, c.xdp.Unstopped()...)
	slices.Sort(gaps[2:])
	return gaps
}
