package address

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// fingerprint is the table as the kernel tells it back, with its sets' elements.
type fingerprint struct {
	generation uint32
	objects    [][sha256.Size]byte
}

const (
	nfgenmsgBytes = 4
	dumpAttempts  = 8
	tableAttr     = 1 // of tables, chains, rules, sets and lists of elements alike
)

var errBusy = errors.New("reading nftables: another program keeps changing it")

func (t *Table) fingerprint() (fingerprint, error) {
	conn, err := t.netfilter()
	if err != nil {
		return fingerprint{}, err
	}
	defer func() { _ = conn.Close() }()
	for range dumpAttempts {
		var print fingerprint
		if print.generation, err = generationOf(conn); err != nil {
			return fingerprint{}, err
		}
		// A count of references vanishes with other programs' chains.
		for _, dump := range []struct{ get, count uint16 }{
			{unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_USE}, {unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_USE},
			{unix.NFT_MSG_GETRULE, 0}, {unix.NFT_MSG_GETSET, 0},
		} {
			sums, err := dumped(conn, dump.get, dump.count, nil)
			if err != nil {
				return fingerprint{}, err
			}
			print.objects = append(print.objects, sums...)
		}
		if len(print.objects) > 0 {
			for _, set := range []string{"blocked4", "blocked6"} {
				sums, err := dumped(conn, unix.NFT_MSG_GETSETELEM, 0, elementsOf(set))
				if err != nil && !errors.Is(err, unix.ENOENT) {
					return fingerprint{}, err
				}
				print.objects = append(print.objects, sums...)
			}
		}
		after, err := generationOf(conn)
		if err != nil {
			return fingerprint{}, err
		}
		if after == print.generation {
			return print, nil
		}
	}
	return fingerprint{}, errBusy
}

func elementsOf(set string) []byte {
	encoder := netlink.NewAttributeEncoder()
	encoder.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
	encoder.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	raw, _ := encoder.Encode() // two short strings
	return raw
}

func (t *Table) generation() (uint32, error) {
	conn, err := t.netfilter()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	return generationOf(conn)
}

func (t *Table) netfilter() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.fd()})
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	if err := conn.SetReadBuffer(netlinkBufferBytes); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func request(get uint16, flags netlink.HeaderFlags, family byte, attributes []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | get), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
}

func generationOf(conn *netlink.Conn) (uint32, error) {
	reply, err := conn.Execute(request(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil))
	if err != nil {
		return 0, fmt.Errorf("reading nftables generation: %w", err)
	}
	for _, message := range reply {
		if len(message.Data) < nfgenmsgBytes {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(message.Data[nfgenmsgBytes:])
		if err != nil {
			return 0, fmt.Errorf("reading nftables generation: %w", err)
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, errors.New("reading nftables generation: the kernel told none")
}

func dumped(conn *netlink.Conn, get, count uint16, attributes []byte) ([][sha256.Size]byte, error) {
	reply, err := conn.Execute(request(get, netlink.Dump, unix.NFPROTO_NETDEV, attributes))
	if err != nil {
		return nil, fmt.Errorf("reading nftables: %w", err)
	}
	var sums [][sha256.Size]byte
	for _, message := range reply {
		if len(message.Data) < nfgenmsgBytes {
			continue
		}
		decoder, err := netlink.NewAttributeDecoder(message.Data[nfgenmsgBytes:])
		if err != nil {
			return nil, fmt.Errorf("reading nftables: %w", err)
		}
		ours, hash := false, sha256.New()
		for decoder.Next() {
			kind := decoder.Type()
			ours = ours || kind == tableAttr && decoder.String() == TableName
			if count != 0 && kind == count {
				continue
			}
			header := binary.BigEndian.AppendUint16(nil, kind)
			hash.Write(binary.BigEndian.AppendUint32(header, uint32(len(decoder.Bytes())))) //nolint:gosec // a netlink message
			hash.Write(decoder.Bytes())
		}
		if err := decoder.Err(); err != nil {
			return nil, fmt.Errorf("reading nftables: %w", err)
		}
		if ours {
			sums = append(sums, [sha256.Size]byte(hash.Sum(nil)))
		}
	}
	return sums, nil
}

// Watch calls changed after every change of nftables or devices, until ctx ends or
// a subscription breaks. changed must not block.
func (t *Table) Watch(ctx context.Context, changed func()) error {
	group, ctx := errgroup.WithContext(ctx)
	for family, multicast := range map[int]uint32{unix.NETLINK_NETFILTER: unix.NFNLGRP_NFTABLES, unix.NETLINK_ROUTE: unix.RTNLGRP_LINK} {
		conn, err := netlink.Dial(family, &netlink.Config{NetNS: t.fd()})
		if err == nil {
			if err = conn.JoinGroup(multicast); err != nil {
				_ = conn.Close()
			}
		}
		group.Go(func() error {
			if err != nil {
				return fmt.Errorf("watching netlink: %w", err)
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer func() { _ = conn.Close() }()
			for {
				_, err := conn.Receive()
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case err != nil && !errors.Is(err, unix.ENOBUFS):
					return fmt.Errorf("watching netlink: %w", err)
				}
				changed()
			}
		})
	}
	changed()
	return group.Wait()
}
