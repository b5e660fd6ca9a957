package kernel

import "github.com/vedette-edr/vedette/bpf"

// privilegeCallClasses are the calls of the privilege family but for open, mmap and
// mprotect, which it shares with files; decode.CallName knows their names.
var privilegeCallClasses = []callClass{
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
