package isolation

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// fingerprint is the table as the kernel tells it back: every chain and rule,
// byte for byte, handles included, so that a rule replaced by an equal one shows.
type fingerprint struct {
	generation uint32
	objects    []object
}

type object struct {
	chain string // empty for the table itself
	sum   [sha256.Size]byte
}

func (f fingerprint) equal(o fingerprint) bool { return slices.Equal(f.objects, o.objects) }

// without leaves out some chains and their rules.
func (f fingerprint) without(chains map[string]bool) fingerprint {
	kept := slices.DeleteFunc(slices.Clone(f.objects), func(o object) bool { return chains[o.chain] })
	return fingerprint{generation: f.generation, objects: kept}
}

const (
	nfgenmsgBytes = 4 // family, version, resource id: the last is the generation's low half
	dumpAttempts  = 16
)

// errBusy: no dump fell between two transactions of somebody else.
var errBusy = errors.New("reading nftables: another program keeps changing it")

// fingerprint dumps between two equal readings of the generation.
func (b *Barrier) fingerprint() (fingerprint, error) {
	conn, err := b.netfilter()
	if err != nil {
		return fingerprint{}, err
	}
	defer func() { _ = conn.Close() }()
	for range dumpAttempts {
		print := fingerprint{}
		print.generation, err = generationOf(conn)
		if err != nil {
			return fingerprint{}, err
		}
		// The first attribute of all three is the table; the second of a table is its
		// flags, of a chain its handle (its name the third), of a rule its chain.
		for _, dump := range []struct {
			get       uint16
			nameAttr  uint16
			countAttr uint16 // references, which vanish with other programs' or the kernel's chains
		}{
			{unix.NFT_MSG_GETTABLE, 0, unix.NFTA_TABLE_USE},
			{unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_USE},
			{unix.NFT_MSG_GETRULE, unix.NFTA_RULE_CHAIN, 0},
		} {
			objects, err := dumpObjects(conn, dump.get, dump.nameAttr, dump.countAttr)
			if err != nil {
				return fingerprint{}, err
			}
			print.objects = append(print.objects, objects...)
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

func (b *Barrier) generation() (uint32, error) {
	conn, err := b.netfilter()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	return generationOf(conn)
}

func (b *Barrier) netfilter() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.fd()})
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return conn, nil
}

func request(get uint16, flags netlink.HeaderFlags, family byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | get), Flags: netlink.Request | flags},
		Data:   []byte{family, unix.NFNETLINK_V0, 0, 0},
	}
}

func generationOf(conn *netlink.Conn) (uint32, error) {
	reply, err := conn.Execute(request(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC))
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

func dumpObjects(conn *netlink.Conn, get, nameAttr, countAttr uint16) ([]object, error) {
	const tableAttr = 1 // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
	reply, err := conn.Execute(request(get, netlink.Dump, unix.NFPROTO_NETDEV))
	if err != nil {
		return nil, fmt.Errorf("reading nftables: %w", err)
	}
	var objects []object
	for _, message := range reply {
		if len(message.Data) < nfgenmsgBytes {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(message.Data[nfgenmsgBytes:])
		if err != nil {
			return nil, fmt.Errorf("reading nftables: %w", err)
		}
		var table, name string
		hash := sha256.New()
		for attributes.Next() {
			kind := attributes.Type()
			switch {
			case kind == tableAttr:
				table = attributes.String()
			case nameAttr != 0 && kind == nameAttr:
				name = attributes.String()
			}
			if countAttr != 0 && kind == countAttr {
				continue
			}
			header := binary.BigEndian.AppendUint16(nil, kind)
			hash.Write(binary.BigEndian.AppendUint32(header, uint32(len(attributes.Bytes()))))
			hash.Write(attributes.Bytes())
		}
		if err := attributes.Err(); err != nil {
			return nil, fmt.Errorf("reading nftables: %w", err)
		}
		if table == TableName {
			objects = append(objects, object{chain: name, sum: [sha256.Size]byte(hash.Sum(nil))})
		}
	}
	return objects, nil
}
