package detect

import (
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// setIDBits are S_ISUID and S_ISGID; a directory's S_ISGID only hands on its group.
const (
	setUIDBit = 0o4000
	setGIDBit = 0o2010 // with the group's right to execute: else it is a lock's mark
	fileType  = 0o170000
	regular   = 0o100000
)

// installers replace what is installed as their purpose. Their scripts may do anything,
// so that whatever descends from one counts; who has one start his own command is
// seen by that.
var installers = []string{
	"dpkg", "dpkg-deb", "apt", "apt-get", "aptitude", "unattended-upgrade", "rpm", "rpmdb", "dnf", "microdnf", "yum", "zypper",
	"pacman", "apk", "snapd", "flatpak", "packagekitd", "transactional-update", "rpm-ostreed", "rpm-ostree",
}

// maxInstallDepth is how far above a process its package manager is looked for.
const maxInstallDepth = 16

func installs(p *event.Process) bool {
	for depth := 0; p != nil && depth < maxInstallDepth; p, depth = p.Parent, depth+1 {
		if isNamed(p.Image, installers) && systemPlace(p.Image) || p.Script != "" && isNamed(p.Script, installers) && systemPlace(p.Script) {
			return true
		}
	}
	return false
}

// systemPlace says whether a path is one that only root installs to.
func systemPlace(image string) bool {
	for _, dir := range []string{"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/lib/", "/usr/libexec/", "/snap/"} {
		if strings.HasPrefix(image, dir) {
			return true
		}
	}
	return false
}

// fileValues are the fields of a file event.
func fileValues(n int, f *event.File, out []string) []string {
	switch n {
	case taxonomy.TargetFilename:
		out = append(out, string(f.Path))
		if named(f) {
			out = append(out, string(f.Target))
		}
	case taxonomy.NewName:
		if named(f) {
			return append(out, string(f.Target))
		}
		return append(out, string(f.Path))
	case taxonomy.Operation:
		return append(out, f.Op.String())
	case taxonomy.FileClass:
		return append(out, f.Class.String())
	case taxonomy.SetID:
		return append(out, strconv.FormatBool(f.Mode&fileType == regular && (f.Mode&setUIDBit != 0 || f.Mode&setGIDBit == setGIDBit)))
	case taxonomy.ImageLoaded:
		return append(out, string(f.Path))
	case taxonomy.LoadedTraits:
		return append(out, loadedTraits(f)...)
	}
	return out
}

// named says whether an event gave its file a second name.
func named(f *event.File) bool {
	return len(f.Target) > 0 && (f.Op == event.FileRename || f.Op == event.FileLink)
}

// loadedTraits are the facts about a library, in the words of those about an image.
func loadedTraits(f *event.File) (traits []string) {
	switch {
	case f.MemoryFD:
		return []string{event.TraitMemFD}
	case f.NLink == 0:
		traits = append(traits, event.TraitDeleted)
	}
	if f.OpenPlace {
		traits = append(traits, event.TraitWorldWritable)
	}
	for part := range strings.SplitSeq(string(f.Path), "/") {
		if len(part) > 1 && part[0] == '.' && part != ".." {
			return append(traits, event.TraitHidden)
		}
	}
	return traits
}

// fileDeed says what was done to a file.
func fileDeed(f *event.File) string {
	name := plain(string(f.Path), 200)
	if f.InPath {
		name = "something in " + name
	}
	by := ""
	if f.URing {
		by = " by io_uring"
	}
	switch f.Op {
	case event.FileWrite:
		return "wrote to " + name + by
	case event.FileCreate, event.FileMknod, event.FileMkdir:
		return "created " + name + by
	case event.FileTruncate:
		return "emptied or cut " + name + by
	case event.FileRename:
		if len(f.Target) == 0 {
			return "renamed " + name + by
		}
		return "renamed " + name + " to " + plain(string(f.Target), 200)
	case event.FileLink:
		return "gave " + name + " a second name" + second(f) + by
	case event.FileSymlink:
		return "made " + name + " a link to " + plain(string(f.Target), 200)
	case event.FileUnlink, event.FileRmdir:
		return "removed " + name + by
	case event.FileChmod:
		return "set the mode of " + name + " to " + strconv.FormatUint(uint64(f.Mode&0o7777), 8)
	case event.FileChown:
		return "gave " + name + " to user " + strconv.FormatUint(uint64(f.Owner), 10)
	case event.FileMapExec:
		return "loaded " + name
	}
	return "changed " + name + by
}

func second(f *event.File) string {
	if len(f.Target) == 0 {
		return ""
	}
	return ", " + plain(string(f.Target), 200) + ","
}
