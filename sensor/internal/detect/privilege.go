package detect

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Marks that are not the event's own but of who did it to whom.
const (
	// markOwnChild: the target descends from who did it, as under a debugger.
	markOwnChild = "own-child"
	// markSameImage: both run the same file, as the ranks of a parallel program do.
	markSameImage = "same-image"
)

func privilegeValues(n int, o *event.Observation, ev *event.Privilege, out []string) []string {
	text := func(s string) []string {
		if s == "" {
			return out
		}
		return append(out, s)
	}
	switch n {
	case taxonomy.Operation:
		return append(out, string(ev.Operation))
	case taxonomy.Call:
		return text(ev.Call)
	case taxonomy.Succeeded:
		return append(out, strconv.FormatBool(ev.ErrorName() == ""))
	case taxonomy.Error:
		return text(ev.ErrorName())
	case taxonomy.Command:
		return text(ev.CommandName())
	case taxonomy.Marks:
		return append(append(out, ev.Marks()...), relation(o)...)
	case taxonomy.Namespaces:
		return append(out, ev.Namespaces()...)
	case taxonomy.Capabilities:
		return append(out, ev.GainedCapabilities()...)
	case taxonomy.EffectiveUID:
		return append(out, strconv.FormatUint(uint64(ev.UID), 10))
	case taxonomy.PreviousUID:
		if !ev.NoBefore {
			return append(out, strconv.FormatUint(uint64(ev.UIDBefore), 10))
		}
	case taxonomy.Name:
		return text(string(ev.Name))
	case taxonomy.Claimed:
		for _, c := range ev.Claimed {
			if len(c) > 0 {
				out = append(out, string(c))
			}
		}
	case taxonomy.TargetImage, taxonomy.TargetProcessID, taxonomy.TargetUser:
		if o.Target == nil {
			return out
		}
		switch n {
		case taxonomy.TargetImage:
			return text(o.Target.Image)
		case taxonomy.TargetUser:
			return text(o.Target.User)
		}
		return append(out, strconv.FormatUint(uint64(o.Target.Key.PID), 10))
	}
	return out
}

func relation(o *event.Observation) (marks []string) {
	if o.Target == nil {
		return nil
	}
	for _, a := range o.Target.Ancestors(32) {
		if a.Key == o.Process.Key {
			marks = append(marks, markOwnChild)
			break
		}
	}
	if o.Target.ImageID == o.Process.ImageID && o.Target.Image == o.Process.Image {
		marks = append(marks, markSameImage)
	}
	return marks
}

// privilegeDeed says in words what was done.
func privilegeDeed(o *event.Observation, ev *event.Privilege) string {
	on := ""
	if o.Target != nil {
		on = " " + who(o.Target)
	}
	did := ""
	switch ev.Operation {
	case event.OpSetUID:
		did = fmt.Sprintf("changed its effective user from %d to %d and its group from %d to %d", ev.UIDBefore, ev.UID, ev.GIDBefore, ev.GID)
	case event.OpCapability:
		did = "raised capabilities: " + strings.Join(ev.GainedCapabilities(), ", ")
	case event.OpUserNS, event.OpUnshare:
		did = "made new namespaces: " + strings.Join(ev.Namespaces(), ", ")
	case event.OpSetNS:
		did = "joined the namespace " + strconv.FormatUint(ev.Object, 10)
	case event.OpPivotRoot:
		did = "changed the root of its file systems"
	case event.OpMount:
		did = "called " + ev.Call + " for " + plain(string(ev.Name), 200)
	case event.OpPtrace:
		did = "traced" + on + " (" + ev.CommandName() + ")"
	case event.OpVMWrite:
		did = "wrote into the memory of" + on
	case event.OpProcMem:
		did = "opened the memory for writing of" + on
	case event.OpMemFD:
		did = "made a file in memory: " + plain(string(ev.Name), 100)
	case event.OpExecAnon:
		did = "made memory executable that no file stands behind"
	case event.OpModule:
		did = "changed the kernel's modules: " + plain(string(ev.Name), 100)
	case event.OpBPF:
		did = "used bpf(2): " + ev.CommandName()
	case event.OpSignal:
		did = "sent the sensor " + ev.CommandName()
	case event.OpCgroupMove:
		did = "moved the sensor into the cgroup " + plain(string(ev.Name), 200)
	case event.OpCgroupFreeze:
		did = "froze the sensor's cgroup"
	case event.OpURing:
		did = "called " + ev.Call
	case event.OpPidFDGetFD:
		did = "took a descriptor of the sensor"
	}
	if refused := ev.ErrorName(); refused != "" {
		return "tried and was refused (" + refused + "): " + did
	}
	var said []string
	for _, c := range ev.Claimed {
		if len(c) > 0 {
			said = append(said, plain(string(c), 80))
		}
	}
	if len(said) > 0 {
		did += "; by its own word: " + strings.Join(said, ", ")
	}
	return did
}
