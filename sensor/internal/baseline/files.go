package baseline

import (
	"path"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// fileDepth is how many directories of a path are kept where packages, web servers and
// logging name files by the thousand: an upgrade must not push out what was learnt.
const fileDepth = 4

// fileSubject is who did it. A library is loaded by everybody: that it is loaded at all
// is the behaviour.
func fileSubject(o *event.Observation) string {
	if ev, ok := o.Event.(*event.File); ok && ev.Op == event.FileMapExec {
		return ""
	}
	return imageName(o.Process)
}

// fileObject is the operation and the path; of a rename and a link also where to.
func fileObject(ev *event.File) string {
	object := ev.Op.String() + " " + filePath(ev.Class, string(ev.Path))
	switch ev.Op {
	case event.FileRename, event.FileLink, event.FileSymlink:
		object += " → " + filePath(ev.Class, string(ev.Target))
	}
	return bounded(object)
}

// temporaries are the suffixes under which a file is written before it gets its name.
var temporaries = []string{".dpkg-new", ".dpkg-tmp", ".dpkg-old", ".rpmnew", ".rpmsave", ".tmp", ".swp", ".swx", "~", "-", "+", ".lock", ".bak"}

// filePath generalises a path as far as it stays one thing.
func filePath(class event.FileClass, name string) string {
	dir, base := path.Split(name)
	for _, suffix := range temporaries {
		if rest, ok := strings.CutSuffix(base, suffix); ok && rest != "" {
			base = rest + suffix[:1] + "*"
			break
		}
	}
	// dpkg, rpm, mktemp and editors put what they choose at random behind ; . or #.
	if at := strings.LastIndexAny(base, ";.#"); at > 0 && isRandom(base[at+1:]) {
		base = base[:at+1] + "*"
	}
	switch class {
	case event.FileBinary, event.FileModule, event.FileWeb, event.FileLog:
		parts := strings.SplitN(dir, "/", fileDepth+2)
		if len(parts) > fileDepth+1 {
			dir = strings.Join(parts[:fileDepth+1], "/") + "/"
		}
		base = "*" + path.Ext(base)
		if len(base) > 8 {
			base = "*"
		}
	}
	return normalisePath(dir + base)
}

// isRandom says whether a suffix looks chosen by a program: six letters or more with a
// digit or both cases in them.
func isRandom(s string) bool {
	if len(s) < 6 {
		return false
	}
	digit, upper, lower := false, false, false
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			digit = true
		case c >= 'A' && c <= 'Z':
			upper = true
		case c >= 'a' && c <= 'z':
			lower = true
		default:
			return false
		}
	}
	return digit || upper && lower
}
