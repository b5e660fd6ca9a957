package kernel

import (
	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// enum call_class of bpf/src/syscall.bpf.c.
const (
	classOpen      = 1
	className      = 2
	classAttribute = 3
	classMap       = 4
)

// fileCall is an operation and the calls that do it, on x86-64 and by int 0x80.
type fileCall struct {
	class          uint8
	op             event.FileOp
	native, compat []uint16
}

var fileCalls = []fileCall{
	{className, event.FileRename, []uint16{82, 264, 316}, []uint16{38, 302, 353}},
	{className, event.FileLink, []uint16{86, 265}, []uint16{9, 303}},
	{className, event.FileSymlink, []uint16{88, 266}, []uint16{83, 304}},
	{className, event.FileUnlink, []uint16{87, 263}, []uint16{10, 301}},
	{className, event.FileMkdir, []uint16{83, 258}, []uint16{39, 296}},
	{className, event.FileRmdir, []uint16{84}, []uint16{40}},
	{className, event.FileMknod, []uint16{133, 259}, []uint16{14, 297}},
	{classAttribute, event.FileChmod, []uint16{90, 91, 268, 452}, []uint16{15, 94, 306, 452}},
	{classAttribute, event.FileChown, []uint16{92, 93, 94, 260}, []uint16{16, 95, 182, 198, 207, 212, 298}},
	{classAttribute, event.FileUtimes, []uint16{132, 235, 261, 280}, []uint16{30, 271, 299, 320, 412}},
	{classAttribute, event.FileTruncate, []uint16{76, 77}, []uint16{92, 93, 193, 194}},
	{classAttribute, event.FileSetxattr, []uint16{188, 189, 190, 463}, []uint16{226, 227, 228, 463}},
	{classAttribute, event.FileRemovexattr, []uint16{197, 198, 199, 466}, []uint16{235, 236, 237, 466}},
}

var fileCallClasses = []callClass{
	{class: classOpen, program: bpf.VedetteProgCallOpen,
		// open, openat, openat2, creat, open_by_handle_at
		native: []uint16{2, 257, 437, 85, 304}, compat: []uint16{5, 295, 437, 8, 342}},
	// mmap, mprotect, pkey_mprotect; by int 0x80 mmap2 and the old mmap as well
	{class: classMap, program: bpf.VedetteProgCallMap, native: []uint16{9, 10, 329}, compat: []uint16{192, 90, 125, 380}},
	nameCalls(className, bpf.VedetteProgCallName),
	nameCalls(classAttribute, bpf.VedetteProgCallAttribute),
}

func nameCalls(class uint8, program string) callClass {
	c := callClass{class: class, program: program}
	for _, f := range fileCalls {
		if f.class == class {
			c.native = append(c.native, f.native...)
			c.compat = append(c.compat, f.compat...)
		}
	}
	return c
}

// fileOps are the tables of operations by call.
func fileOps() (native, compat [callsMax]uint8) {
	for _, f := range fileCalls {
		for _, number := range f.native {
			native[number] = uint8(f.op)
		}
		for _, number := range f.compat {
			compat[number] = uint8(f.op)
		}
	}
	return native, compat
}
