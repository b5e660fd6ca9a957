package enrich

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"

	"github.com/shirou/gopsutil/v3/host"
)

// maxAddresses bounds what a host tells of itself: a router has thousands.
const maxAddresses = 64

// HostInfo is what a host says of itself at the start of a session.
type HostInfo struct {
	Name, OS, Kernel, Arch string
	MachineIDHash          string // SHA-256 of machine-id, hex; empty when there is none
	Addresses              []string
}

// HostFacts reads them.
func HostFacts() (*HostInfo, error) {
	info, err := host.Info()
	if err != nil {
		return nil, fmt.Errorf("reading host facts: %w", err)
	}
	facts := &HostInfo{
		Name: info.Hostname, Kernel: info.KernelVersion, Arch: info.KernelArch,
		OS: strings.TrimSpace(info.Platform + " " + info.PlatformVersion),
	}
	if facts.Arch == "" {
		facts.Arch = runtime.GOARCH
	}
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if raw, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(raw))) > 0 {
			sum := sha256.Sum256([]byte("vedette-machine-id\x00" + strings.TrimSpace(string(raw))))
			facts.MachineIDHash = hex.EncodeToString(sum[:])
			break
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("reading addresses: %w", err)
	}
	for _, a := range addrs {
		prefix, ok := a.(*net.IPNet)
		if !ok || prefix.IP.IsLoopback() || prefix.IP.IsLinkLocalUnicast() || len(facts.Addresses) == maxAddresses {
			continue
		}
		facts.Addresses = append(facts.Addresses, prefix.IP.String())
	}
	return facts, nil
}
