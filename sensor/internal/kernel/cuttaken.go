package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
)

// takenFeatures are what the kernel turns off on a device that gets a generic XDP program
// (generic_xdp_install), and never on again: enum taken_feature of bpf/src/sniff.bpf.c.
var takenFeatures = []struct {
	bit  uint32
	name string // ethtool's
}{{1, "rx-lro"}, {2, "rx-gro-hw"}}

func featureNames(bits uint32) string {
	var names []string
	for _, f := range takenFeatures {
		if bits&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ", ")
}

// remember notes what devices are to get back, before anything is put on one: a device
// loses LRO with one above it, too.
func (c *Cut) remember(tower *xdpTower) {
	if !slices.ContainsFunc(tower.devices, func(d *xdpDevice) bool { return !d.foreign() && tower.own[d.id] == nil }) {
		return
	}
	taken := c.collection.Maps[bpf.CutMapCutTaken]
	known, back := map[uint32]uint32{}, map[uint32]uint32{}
	errs := []error{readTaken(taken, known)}
	for _, p := range tower.programs {
		if p == nil {
			continue
		}
		// An earlier sensor's, which has it from when they had it.
		info, err := p.Info()
		if err == nil {
			err = tower.takenOf(info, back)
		}
		errs = append(errs, err)
	}
	for _, d := range tower.devices {
		if d.program != nil {
			continue
		}
		bits, err := wantedFeatures(d.Index)
		if err != nil && !isGone(err) {
			errs = append(errs, fmt.Errorf("reading the features of device %s: %w", d.Name, err))
		}
		back[uint32(d.Index)] |= bits //nolint:gosec // a device's
	}
	for index, bits := range back {
		if bits |= known[index]; bits != known[index] {
			errs = append(errs, taken.Put(index, bits))
		}
	}
	if err := errors.Join(errs...); err != nil {
		c.cfg.Logger.Warn("LRO and hardware GRO of some devices may stay off after the isolation", slog.Any("error", err))
	}
}

// readTaken adds what is in a map of what was taken.
func readTaken(m *ebpf.Map, to map[uint32]uint32) error {
	var index, bits uint32
	all := m.Iterate()
	for all.Next(&index, &bits) {
		to[index] |= bits
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("reading what was taken from devices: %w", err)
	}
	return nil
}

// takenOf adds what a program has with it of what was taken.
func (t *xdpTower) takenOf(info *ebpf.ProgramInfo, to map[uint32]uint32) error {
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := t.names.table(id)
		if err != nil {
			continue // it went with its program, or is none that anybody named
		}
		about, err := m.Info()
		if err == nil && about.Name == bpf.CutMapCutTaken && m.Type() == ebpf.Hash && m.KeySize() == 4 && m.ValueSize() == 4 {
			err = readTaken(m, to)
		}
		if err = errors.Join(err, m.Close()); err != nil {
			return err
		}
	}
	return nil
}

// wantedFeatures are those of takenFeatures that are wanted on a device and can be
// changed. It runs inside the namespace.
func wantedFeatures(index int) (uint32, error) {
	answer, err := askEthtool(unix.ETHTOOL_MSG_FEATURES_GET, netlink.Request, encodeFeatures(index, 0))
	if err != nil {
		return 0, err
	}
	return decodeFeatures(answer)
}

// wantFeatures turns some of takenFeatures on, and changes no other.
func wantFeatures(index int, bits uint32) error {
	_, err := askEthtool(unix.ETHTOOL_MSG_FEATURES_SET, netlink.Request|netlink.Acknowledge, encodeFeatures(index, bits))
	return err
}

// ethtoolOmitReply is ETHTOOL_FLAG_OMIT_REPLY: the acknowledgement alone.
const ethtoolOmitReply = 2

// encodeFeatures is a request's body: the device, and the features to turn on, by name.
func encodeFeatures(index int, bits uint32) func(*netlink.AttributeEncoder) {
	return func(body *netlink.AttributeEncoder) {
		body.Nested(unix.ETHTOOL_A_FEATURES_HEADER, func(header *netlink.AttributeEncoder) error {
			header.Uint32(unix.ETHTOOL_A_HEADER_DEV_INDEX, uint32(index)) //nolint:gosec // a device's
			if bits != 0 {
				header.Uint32(unix.ETHTOOL_A_HEADER_FLAGS, ethtoolOmitReply)
			}
			return nil
		})
		if bits == 0 {
			return
		}
		body.Nested(unix.ETHTOOL_A_FEATURES_WANTED, func(set *netlink.AttributeEncoder) error {
			set.Nested(unix.ETHTOOL_A_BITSET_BITS, func(all *netlink.AttributeEncoder) error {
				for _, f := range takenFeatures {
					if bits&f.bit == 0 {
						continue
					}
					all.Nested(unix.ETHTOOL_A_BITSET_BITS_BIT, func(bit *netlink.AttributeEncoder) error {
						bit.String(unix.ETHTOOL_A_BITSET_BIT_NAME, f.name)
						bit.Flag(unix.ETHTOOL_A_BITSET_BIT_VALUE, true)
						return nil
					})
				}
				return nil
			})
			return nil
		})
	}
}

// decodeFeatures reads the answer to ETHTOOL_MSG_FEATURES_GET.
func decodeFeatures(body []byte) (uint32, error) {
	var changeable, wanted uint32
	attributes, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return 0, err
	}
	for attributes.Next() {
		switch attributes.Type() {
		case unix.ETHTOOL_A_FEATURES_HW:
			attributes.Nested(func(set *netlink.AttributeDecoder) error { return decodeBitset(set, &changeable) })
		case unix.ETHTOOL_A_FEATURES_WANTED:
			attributes.Nested(func(set *netlink.AttributeDecoder) error { return decodeBitset(set, &wanted) })
		}
	}
	return changeable & wanted, attributes.Err()
}

// decodeBitset reads a set whose bits have names: those that are in it, or, with a mask,
// all of the mask, each with whether it is.
func decodeBitset(set *netlink.AttributeDecoder, to *uint32) error {
	var named, valued uint32
	noMask := false
	for set.Next() {
		switch set.Type() {
		case unix.ETHTOOL_A_BITSET_NOMASK:
			noMask = true
		case unix.ETHTOOL_A_BITSET_BITS:
			set.Nested(func(all *netlink.AttributeDecoder) error {
				for all.Next() {
					all.Nested(func(bit *netlink.AttributeDecoder) error {
						is, value := uint32(0), false
						for bit.Next() {
							switch bit.Type() {
							case unix.ETHTOOL_A_BITSET_BIT_NAME:
								for _, f := range takenFeatures {
									if bit.String() == f.name {
										is = f.bit
									}
								}
							case unix.ETHTOOL_A_BITSET_BIT_VALUE:
								value = true
							}
						}
						named |= is
						if value {
							valued |= is
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	*to = valued
	if noMask {
		*to = named
	}
	return nil
}

// genericHeader is what stands before the attributes of a generic netlink message.
const genericHeader = 4

// askEthtool is one call of the ethtool family (5.6; features 5.7).
func askEthtool(command uint8, flags netlink.HeaderFlags, body func(*netlink.AttributeEncoder)) ([]byte, error) {
	conn, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return nil, fmt.Errorf("opening generic netlink: %w", err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := askGeneric(conn, unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, netlink.Request, func(a *netlink.AttributeEncoder) {
		a.String(unix.CTRL_ATTR_FAMILY_NAME, unix.ETHTOOL_GENL_NAME)
	})
	if err != nil {
		return nil, fmt.Errorf("looking for netlink family %s: %w", unix.ETHTOOL_GENL_NAME, err)
	}
	attributes, err := netlink.NewAttributeDecoder(answer)
	if err != nil {
		return nil, err
	}
	family := uint16(0)
	for attributes.Next() {
		if attributes.Type() == unix.CTRL_ATTR_FAMILY_ID {
			family = attributes.Uint16()
		}
	}
	if err := attributes.Err(); err != nil || family == 0 {
		return nil, fmt.Errorf("looking for netlink family %s: it has no number (%w)", unix.ETHTOOL_GENL_NAME, err)
	}
	return askGeneric(conn, family, command, flags, body)
}

// askGeneric returns the attributes of the answer, none of a bare acknowledgement.
func askGeneric(conn *netlink.Conn, family uint16, command uint8, flags netlink.HeaderFlags, body func(*netlink.AttributeEncoder)) ([]byte, error) {
	attributes := netlink.NewAttributeEncoder()
	body(attributes)
	encoded, err := attributes.Encode()
	if err != nil {
		return nil, err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(family), Flags: flags},
		Data:   append([]byte{command, 1, 0, 0}, encoded...),
	})
	if err != nil {
		return nil, err
	}
	for _, answer := range answers {
		if answer.Header.Type != netlink.Error && len(answer.Data) >= genericHeader {
			return answer.Data[genericHeader:], nil
		}
	}
	return nil, nil
}
