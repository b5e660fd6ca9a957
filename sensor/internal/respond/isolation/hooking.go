package isolation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// hooking is how the chains come to be on the devices.
type hooking int

const (
	hookAsSupported hooking = iota
	hookByDevice            // a chain for each device
	hookAnyDevice           // one chain for all, those to come included: Linux 6.17
)

// arriving are the names that the kernel gives network adapters when they are plugged in,
// each from 0 on. A chain can be on a device that is not there yet since Linux 6.16, by its
// name: the kernel hooks it in before anybody can bring it up.
var arriving = []struct {
	prefix string
	count  int
}{{"eth", 32}, {"wlan", 8}, {"usb", 8}, {"wwan", 8}, {"ib", 8}, {"ppp", 8}}

// expected are the names of adapters that are not there yet.
func expected(now []device) (names []string) {
	there := map[string]bool{}
	for _, d := range now {
		there[d.name] = true
	}
	for _, kind := range arriving {
		for i := range kind.count {
			if name := fmt.Sprint(kind.prefix, i); !there[name] {
				names = append(names, name)
			}
		}
	}
	return names
}

// letters are what names of devices are made of, as the kernel, udev and people make them.
const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._@"

const (
	loopback = "lo"
	// maxStrangers bounds what the kernel compares each new device's name with, and so how
	// many letters of a name tell it from those that are there.
	maxStrangers = 10 * maxHookDevices
	// maxHookDevices is how many devices a chain may have, one less than NFT_NETDEVICE_MAX.
	maxHookDevices = 255
	longestName    = unix.IFNAMSIZ - 1
)

// named is a device by its name, or all whose names begin so.
type named struct {
	name   string
	prefix bool
}

// strangers are the names that no device has now: a chain can be on what begins with some
// letters since Linux 6.17. Where too many devices are there to tell them all from what may
// come, what begins as one of them does for the first letters is left out.
func strangers(now []device) (all []named) {
	taken, begins := map[string]bool{}, map[string]bool{}
	for _, name := range append(deviceNames(now), loopback) {
		taken[name] = true
		for i := range name {
			begins[name[:i+1]] = true
		}
	}
	for stems := []string{""}; len(stems) > 0; {
		var level []named
		var longer []string
		for _, stem := range stems {
			if stem != "" && !taken[stem] {
				level = append(level, named{name: stem})
			}
			for _, letter := range letters {
				switch name := stem + string(letter); {
				case len(name) > longestName:
				case begins[name]:
					longer = append(longer, name)
				default:
					level = append(level, named{name, true})
				}
			}
		}
		if len(all)+len(level) > maxStrangers {
			break
		}
		all, stems = append(all, level...), longer
	}
	return all
}

func deviceNames(devices []device) (names []string) {
	for _, d := range devices {
		names = append(names, d.name)
	}
	return names
}

// libraryFolders are where a distribution keeps the library that nft reads the kernel's
// answers with.
var libraryFolders = []string{"/usr/lib/*-linux-*", "/lib/*-linux-*", "/usr/lib", "/usr/lib64"}

// readers knows whether an nft is installed that may not be able to read a chain for all
// devices. One that cannot, such as 1.0.6 of Debian 12, lists a ruleset with such a chain
// without end, and an isolation must not do that to an administrator. The library's file
// does not tell whether it can, so any counts.
type readers map[string]readersOf // by folder

type readersOf struct {
	changed time.Time // the folder, when it was read
	found   bool
}

// mayHang is asked at every look at the table and before every change of it, so a folder of
// a thousand files is read again only when it is another.
func (r readers) mayHang() bool {
	for _, pattern := range libraryFolders {
		folders, err := filepath.Glob(pattern)
		if err != nil {
			return true
		}
		for _, folder := range folders {
			if r.in(folder) {
				return true
			}
		}
	}
	return false
}

func (r readers) in(folder string) bool {
	info, err := os.Stat(folder)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	if known, ok := r[folder]; ok && known.changed.Equal(info.ModTime()) {
		return known.found
	}
	found, err := filepath.Glob(filepath.Join(folder, "libnftnl.so*"))
	r[folder] = readersOf{info.ModTime(), err != nil || len(found) > 0}
	return r[folder].found
}
