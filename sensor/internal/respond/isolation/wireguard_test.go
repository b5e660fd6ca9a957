package isolation

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	vnl "github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

const wireGuardPort = 51820

// wireGuard makes a tunnel whose packets are a sealed message to the peer. Both sides
// are there, so that a session is made before the cut and data flows in it.
func (r *rig) wireGuard(t *testing.T) {
	const name = "WireGuard"
	if err := r.host.Handle(t).LinkAdd(&vnl.Wireguard{LinkAttrs: attributes("wg9")}); err != nil {
		r.missing[name] = err.Error()
		return
	}
	if err := r.peer.Handle(t).LinkAdd(&vnl.Wireguard{LinkAttrs: attributes("wg9")}); err != nil {
		t.Fatalf("adding a WireGuard device: %v", err)
	}
	keys := make([]*ecdh.PrivateKey, 2)
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for i, side := range []struct {
		n       *netnstest.Namespace
		address string
		remote  netip.Addr
	}{{r.host, "10.96.0.1/24", peer4}, {r.peer, "10.96.0.2/24", host4}} {
		side.n.Must(t, "configuring WireGuard", func() error {
			return configureWireGuard(keys[i].Bytes(), keys[1-i].PublicKey().Bytes(), side.remote)
		})
		if err := r.use(t, side.n, "wg9", side.address, ""); err != nil {
			t.Fatal(err)
		}
	}
	r.add(&flow{path: path{name, r.host, udpTo("", "10.96.0.2:9999")}, sealed: func(frame []byte) bool {
		// Ethernet, IPv4 without options, UDP to the port, a message of WireGuard's type 1 or 4.
		return len(frame) > 46 && frame[12] == 8 && frame[13] == 0 && frame[23] == unix.IPPROTO_UDP &&
			binary.BigEndian.Uint16(frame[36:]) == wireGuardPort && (frame[42] == 1 || frame[42] == 4)
	}})
}

// Attributes of the WireGuard family (linux/wireguard.h).
const (
	wgSetDevice  = 1
	wgIfname     = 2
	wgPrivateKey = 3
	wgListenPort = 6
	wgPeers      = 8

	wgPeerPublicKey  = 1
	wgPeerEndpoint   = 4
	wgPeerAllowedIPs = 9

	wgAllowedFamily = 1
	wgAllowedIP     = 2
	wgAllowedMask   = 3
)

func configureWireGuard(private, public []byte, remote netip.Addr) error {
	family, err := vnl.GenlFamilyGet("wireguard")
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: wgSetDevice, Version: 1})
	request.AddData(nl.NewRtAttr(wgIfname, nl.ZeroTerminated("wg9")))
	request.AddData(nl.NewRtAttr(wgPrivateKey, private))
	request.AddData(nl.NewRtAttr(wgListenPort, binary.NativeEndian.AppendUint16(nil, wireGuardPort)))
	peers := nl.NewRtAttr(wgPeers|unix.NLA_F_NESTED, nil)
	peer := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	peer.AddRtAttr(wgPeerPublicKey, public)
	endpoint := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	endpoint = binary.BigEndian.AppendUint16(endpoint, wireGuardPort)
	endpoint = append(append(endpoint, remote.AsSlice()...), make([]byte, 8)...)
	peer.AddRtAttr(wgPeerEndpoint, endpoint)
	allowed := peer.AddRtAttr(wgPeerAllowedIPs|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NLA_F_NESTED, nil)
	allowed.AddRtAttr(wgAllowedFamily, binary.NativeEndian.AppendUint16(nil, unix.AF_INET))
	allowed.AddRtAttr(wgAllowedIP, net.IPv4(10, 96, 0, 0).To4())
	allowed.AddRtAttr(wgAllowedMask, []byte{24})
	request.AddData(peers)
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return err
}
