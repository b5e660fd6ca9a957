package isolation

import "path/filepath"

// hooking is how the chains come to be on the devices.
type hooking int

const (
	hookAsSupported hooking = iota
	hookByDevice            // a chain for each device
	hookAnyDevice           // one chain for all, those to come included: Linux 6.17
)

// libraryGlobs are where a distribution keeps the library that nft reads the kernel's
// answers with.
var libraryGlobs = []string{"/usr/lib/*/libnftnl.so*", "/usr/lib/libnftnl.so*", "/usr/lib64/libnftnl.so*", "/lib/*/libnftnl.so*"}

// readersMayHang says whether an nft is installed that may not be able to read a
// chain for all devices. One that cannot, such as 1.0.6 of Debian 12, lists a
// ruleset with such a chain without end, and an isolation must not do that to an
// administrator. The library's file does not tell whether it can, so any counts.
func readersMayHang() bool {
	for _, glob := range libraryGlobs {
		if found, err := filepath.Glob(glob); err != nil || len(found) > 0 {
			return true
		}
	}
	return false
}
