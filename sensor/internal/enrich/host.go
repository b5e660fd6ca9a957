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

// osName is PRETTY_NAME of the first os-release file there is (os-release(5)).
func osName(paths ...string) string {
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(name, `"'`)
			}
		}
	}
	return ""
}

// HostFacts reads them.
func HostFacts() (*HostInfo, error) {
	facts := &HostInfo{OS: osName("/etc/os-release", "/usr/lib/os-release"), Arch: runtime.GOARCH}
	var err error
	if facts.Name, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("reading host name: %w", err)
	}
	// Not host.Info: it runs lsb_release from the PATH, and we are root.
	if facts.Kernel, err = host.KernelVersion(); err != nil {
		return nil, fmt.Errorf("reading kernel version: %w", err)
	}
	if arch, err := host.KernelArch(); err == nil {
		facts.Arch = arch
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
