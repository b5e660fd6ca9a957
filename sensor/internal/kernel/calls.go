package kernel

import (
	"fmt"

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

// callClasses is every class that there is a program for; decode.CallName knows the
// numbers' names.
var callClasses = []callClass{
	{class: 1, program: bpf.VedetteProgCallOpen, native: []uint16{2, 85, 257, 437}, compat: []uint16{5, 8, 295, 437}},
	{class: 4, program: bpf.VedetteProgCallMap, native: []uint16{9, 10, 329}, compat: []uint16{90, 125, 192, 380}},
	{
		class: 5, program: bpf.VedetteProgCallIdentity, native: []uint16{105, 106, 113, 114, 117, 119, 122, 123, 126},
		compat: []uint16{23, 46, 70, 71, 138, 139, 164, 170, 185, 203, 204, 208, 210, 213, 214, 215, 216},
	},
	{class: 6, program: bpf.VedetteProgCallTrace, native: []uint16{101, 311, 438}, compat: []uint16{26, 348, 438}},
	{class: 7, program: bpf.VedetteProgCallMemory, native: []uint16{319, 447}, compat: []uint16{356, 447}},
	{class: 8, program: bpf.VedetteProgCallModule, native: []uint16{175, 176, 313}, compat: []uint16{128, 129, 350}},
	{class: 9, program: bpf.VedetteProgCallBpf, native: []uint16{321}, compat: []uint16{357}},
	{class: 10, program: bpf.VedetteProgCallMount, native: []uint16{155, 165, 166, 429, 432}, compat: []uint16{21, 22, 52, 217, 429, 432}},
	{class: 11, program: bpf.VedetteProgCallNamespace, native: []uint16{56, 272, 308}, compat: []uint16{120, 310, 346}},
	{class: 12, program: bpf.VedetteProgCallUring, native: []uint16{425, 427}, compat: []uint16{425, 427}},
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
	for name, table := range map[string]any{bpf.VedetteVarNativeCalls: native, bpf.VedetteVarCompatCalls: compat} {
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
