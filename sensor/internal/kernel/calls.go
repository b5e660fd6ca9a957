package kernel

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/vedette-edr/vedette/bpf"
)

// callsMax is CALLS_MAX of bpf/src/syscall.bpf.c.
const callsMax = 512

// callClass is a sort of system calls that one program looks at after they ended.
type callClass struct {
	class   uint8  // enum call_class
	program string // its program, dropped where the kernel has not what it needs
	// native and compat are the numbers of the calls on x86-64 and by int 0x80. They
	// are different lists: who looks at one alone is evaded by the other.
	native, compat []uint16
}

// callClasses is every class that there is a program for.
var callClasses = slices.Concat(socketCallClasses, fileCallClasses, privilegeCallClasses)

// enum call_class of bpf/src/syscall.bpf.c.
const classSocket = 13

var socketCallClasses = []callClass{
	{class: classSocket, program: bpf.VedetteProgCallSocket, native: []uint16{41, 43, 288}, compat: []uint16{359, 364, 102}}, // socket, accept, accept4; socketcall
}

// classPrograms are the programs of all classes.
func classPrograms() (names []string) {
	for _, c := range callClasses {
		names = append(names, c.program)
	}
	return names
}

// setCalls tells the dispatcher which calls are worth a look.
func setCalls(spec *ebpf.CollectionSpec) error {
	var native, compat [callsMax]uint8
	for _, c := range callClasses {
		if spec.Programs[c.program] == nil {
			continue
		}
		for _, number := range c.native {
			native[number] = c.class
		}
		for _, number := range c.compat {
			compat[number] = c.class
		}
	}
	nativeOps, compatOps := fileOps()
	for name, table := range map[string]any{
		bpf.VedetteVarNativeCalls: native, bpf.VedetteVarCompatCalls: compat,
		bpf.VedetteVarNativeOps: nativeOps, bpf.VedetteVarCompatOps: compatOps,
	} {
		if err := spec.Variables[name].Set(table); err != nil {
			return fmt.Errorf("setting table %s: %w", name, err)
		}
	}
	return nil
}

// linkCalls puts each class's program where the dispatcher finds it; it must be done
// before that is attached.
func linkCalls(c *ebpf.Collection) error {
	for _, class := range callClasses {
		program := c.Programs[class.program]
		if program == nil {
			continue
		}
		if err := c.Maps[bpf.VedetteMapCalls].Put(uint32(class.class), program); err != nil {
			return fmt.Errorf("linking %s: %w", class.program, err)
		}
	}
	return nil
}
