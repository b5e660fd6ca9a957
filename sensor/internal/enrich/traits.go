package enrich

import (
	"path"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// worldWritable are the directories that everybody may write to on any
// distribution; a program has no business to be installed in them.
var worldWritable = []string{"/tmp/", "/var/tmp/", "/dev/shm/", "/run/shm/", "/dev/mqueue/", "/run/lock/", "/var/lock/", "/var/crash/"}

// imageTraits are the facts about an image that a rule or a score may look at.
func imageTraits(image string, id event.ImageID, setID bool) []string {
	var traits []string
	memory := id.MemoryFD || strings.HasPrefix(image, "memfd:") || strings.HasPrefix(image, "/memfd:")
	if memory {
		traits = append(traits, event.TraitMemFD)
	} else if (id.Inode != 0 && id.NLink == 0) || strings.HasSuffix(image, " (deleted)") {
		traits = append(traits, event.TraitDeleted)
	}
	clean := path.Clean(image)
	for _, dir := range worldWritable {
		if strings.HasPrefix(clean, dir) {
			traits = append(traits, event.TraitWorldWritable)
			break
		}
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > 1 && part[0] == '.' && part != ".." {
			traits = append(traits, event.TraitHidden)
			break
		}
	}
	if setID {
		traits = append(traits, event.TraitSetID)
	}
	return traits
}

func addTrait(traits []string, trait string) []string {
	if slices.Contains(traits, trait) {
		return traits
	}
	return append(slices.Clip(slices.Clone(traits)), trait)
}

// interpreters by the name of their image without its version; the value holds
// the options after which no script follows.
var interpreters = map[string]string{
	"sh": "cs", "bash": "cs", "dash": "cs", "ash": "cs", "ksh": "cs", "mksh": "cs", "zsh": "cs", "csh": "cs", "tcsh": "cs", "fish": "c",
	"python": "cm", "pypy": "cm", "perl": "eE", "ruby": "e", "node": "ep", "nodejs": "ep",
	"php": "rRB", "lua": "e", "luajit": "e", "tclsh": "", "wish": "", "Rscript": "e", "guile": "ce", "osascript": "e",
}

// isInterpreter says whether an image runs programs that are text.
func isInterpreter(image string) (noScript string, ok bool) {
	base := path.Base(image)
	if noScript, ok = interpreters[base]; ok {
		return noScript, true
	}
	noScript, ok = interpreters[strings.TrimRight(base, "0123456789.-")]
	return noScript, ok
}

// scriptOf tells what an interpreter runs. The kernel says so for a #! file; for
// `python3 x.py` the first argument that is no option is it.
func scriptOf(interpreter, filename, image string, argv []string) (string, string) {
	if interpreter != "" {
		return interpreter, filename
	}
	noScript, ok := isInterpreter(image)
	if !ok {
		return "", ""
	}
	for _, arg := range argv[min(1, len(argv)):] {
		if arg == "" || arg == "-" {
			return "", ""
		}
		if arg[0] != '-' {
			return image, arg
		}
		if !strings.HasPrefix(arg, "--") && strings.ContainsAny(arg[1:], noScript) && noScript != "" {
			return "", ""
		}
	}
	return "", ""
}
