package isolation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch is one nftables transaction, built here and not by the nftables library
// because a base chain for all devices, also those to come, is a netlink attribute
// that the library does not know. Only what is last is acknowledged, so that the
// answers stay few however many devices there are.
type batch struct {
	messages []netlink.Message
	err      error // of encoding; kept for send
}

// Attributes of a base chain's hook that x/sys/unix lacks (linux/netfilter/nf_tables.h).
const (
	hookDevices  = 4 // NFTA_HOOK_DEVS
	deviceName   = 1 // NFTA_DEVICE_NAME
	devicePrefix = 2 // NFTA_DEVICE_PREFIX, since Linux 6.17
)

// Policies of a base chain (linux/netfilter.h).
const (
	policyDrop   = 0 // NF_DROP
	policyAccept = 1 // NF_ACCEPT
)

// ackTimeout is never reached: the kernel answers before the send returns.
const ackTimeout = 30 * time.Second

func (b *batch) add(kind uint16, flags netlink.HeaderFlags, attributes ...netlink.Attribute) {
	data, err := netlink.MarshalAttributes(attributes)
	b.err = errors.Join(b.err, err)
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{unix.NFPROTO_NETDEV, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

func text(kind uint16, value string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: append([]byte(value), 0)}
}

func number(kind uint16, value uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binary.BigEndian.AppendUint32(nil, value)}
}

func (b *batch) nested(kind uint16, attributes ...netlink.Attribute) netlink.Attribute {
	data, err := netlink.MarshalAttributes(attributes)
	b.err = errors.Join(b.err, err)
	return netlink.Attribute{Type: unix.NLA_F_NESTED | kind, Data: data}
}

func (b *batch) addTable(name string, flags uint32) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, text(unix.NFTA_TABLE_NAME, name), number(unix.NFTA_TABLE_FLAGS, flags))
}

func (b *batch) deleteTable(name string) {
	b.add(unix.NFT_MSG_DELTABLE, 0, text(unix.NFTA_TABLE_NAME, name))
}

// newTable is an empty one, whatever there was.
func (b *batch) newTable(name string, flags uint32) {
	if flags == 0 {
		b.addTable(name, 0) // so that there is something to delete
		b.deleteTable(name)
	} else {
		// Adding would have to know which flags the one has that is there.
		b.add(msgDestroyTable, 0, text(unix.NFTA_TABLE_NAME, name))
	}
	b.addTable(name, flags)
}

func (b *batch) addCounter(table, name string) {
	const counter = unix.NFT_OBJECT_COUNTER
	data, err := expr.MarshalExprData(unix.NFPROTO_NETDEV, &expr.Counter{})
	b.err = errors.Join(b.err, err)
	b.add(unix.NFT_MSG_NEWOBJ, netlink.Create, text(unix.NFTA_OBJ_TABLE, table), text(unix.NFTA_OBJ_NAME, name),
		number(unix.NFTA_OBJ_TYPE, counter), netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_OBJ_DATA, Data: data})
}

func (b *batch) addChain(table, name string) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, name))
}

// hook is where a base chain sits.
type hook struct {
	direction direction
	devices   []named
	priority  int32
	accept    bool // policy
}

// everyDevice is all devices, loopback and those to come included: the kernel hooks a device
// in before anybody can bring it up.
var everyDevice = named{prefix: true}

// devicesNamed are those of some names.
func devicesNamed(names ...string) (devices []named) {
	for _, name := range names {
		devices = append(devices, named{name: name})
	}
	return devices
}

func (b *batch) addBaseChain(table, name string, h hook) {
	var device netlink.Attribute
	if len(h.devices) == 1 && !h.devices[0].prefix {
		device = text(unix.NFTA_HOOK_DEV, h.devices[0].name)
	} else {
		var names []netlink.Attribute
		for _, d := range h.devices {
			kind := uint16(deviceName)
			if d.prefix {
				kind = devicePrefix
			}
			names = append(names, text(kind, d.name))
		}
		device = b.nested(hookDevices, names...)
	}
	policy := uint32(policyDrop)
	if h.accept {
		policy = policyAccept
	}
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create,
		text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, name),
		b.nested(unix.NFTA_CHAIN_HOOK,
			number(unix.NFTA_HOOK_HOOKNUM, h.direction.hook()), number(unix.NFTA_HOOK_PRIORITY, uint32(h.priority)), device),
		number(unix.NFTA_CHAIN_POLICY, policy), text(unix.NFTA_CHAIN_TYPE, "filter"))
}

func (b *batch) addRule(table, chain string, r rule) {
	var expressions []netlink.Attribute
	for _, e := range r {
		data, err := expr.Marshal(unix.NFPROTO_NETDEV, e)
		b.err = errors.Join(b.err, err)
		expressions = append(expressions, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append,
		text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain),
		b.nested(unix.NFTA_RULE_EXPRESSIONS, expressions...))
}

// send commits all of it or nothing.
func (b *batch) send(conn *netlink.Conn) error {
	if b.err != nil {
		return fmt.Errorf("encoding an nftables transaction: %w", b.err)
	}
	frame := func(kind uint16) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, // the subsystem in network order
		}
	}
	messages := append([]netlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, b.messages...)
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	sent, err := conn.SendMessages(append(messages, frame(unix.NFNL_MSG_BATCH_END)))
	if err != nil {
		return err
	}
	last := sent[len(sent)-2].Header.Sequence
	if err := conn.SetReadDeadline(time.Now().Add(ackTimeout)); err != nil {
		return err
	}
	for {
		// An answer that is an error comes back as one; the first undoes the whole batch.
		answers, err := conn.Receive()
		if err != nil {
			return err
		}
		for _, answer := range answers {
			if answer.Header.Sequence == last {
				return nil
			}
		}
	}
}
