package decode

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func fileRecord(flags uint16, op event.FileOp, path, target string) []byte {
	return record(typeFile, flags, []uint64{1, 2}, []uint32{3, 4, 5, 6, 7, 0xffffffff, 9, 10, 11, 12},
		[]uint16{uint16(op), 2, uint16(len(path)), uint16(len(target))}, []byte(path+target))
}

func TestFile(t *testing.T) {
	want := func(change func(*event.File)) *event.File {
		e := &event.File{
			Header: wantHead(), Inode: 1, Directory: 2, Device: 3, Watch: 4, TargetWatch: 5, Mode: 6, OpenFlags: 7, Result: -1,
			MountNS: 9, Owner: 11, NLink: 12, Class: event.FilePersistence, Path: []byte{}, Target: []byte{},
		}
		change(e)
		return e
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want *event.File
	}{
		"below a watched path": {fileRecord(0, event.FileRename, "b\x00a\x00", "\xff\x00"), want(func(e *event.File) {
			e.Op, e.Path, e.Target = event.FileRename, []byte("a/b"), []byte("\xff")
		})},
		"the watched path": {fileRecord(fileURing, event.FileWrite, "", ""), want(func(e *event.File) { e.Op, e.URing = event.FileWrite, true })},
		"library": {fileRecord(fileWhole|fileOpenPlace, event.FileMapExec, "l.so\x00tmp\x00", ""), want(func(e *event.File) {
			e.Op, e.Path, e.Whole, e.OpenPlace = event.FileMapExec, []byte("/tmp/l.so"), true, true
		})},
		"memfd": {fileRecord(fileWhole|fileMemoryFD, event.FileMapExec, "memfd:x\x00", ""), want(func(e *event.File) {
			e.Op, e.Path, e.Whole, e.MemoryFD = event.FileMapExec, []byte("memfd:x"), true, true
		})},
		"truncated": {fileRecord(fileWhole|filePathTruncated, event.FileMapExec, "b\x00a\x00", ""), want(func(e *event.File) {
			e.Op, e.Path, e.Whole, e.Truncated = event.FileMapExec, []byte("a/b"), true, true
		})},
		"symbolic link": {fileRecord(fileTextTarget|fileDirectory, event.FileSymlink, "l\x00", "/dev/null\x00"), want(func(e *event.File) {
			e.Op, e.Path, e.Target, e.InPath = event.FileSymlink, []byte("l"), []byte("/dev/null"), true
		})},
	} {
		got, err := Decode(tt.raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(event.Event(tt.want), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
	for name, raw := range map[string][]byte{
		"short":             record(typeFile, 0, uint64(1)),
		"lengths":           append(fileRecord(0, event.FileWrite, "a\x00", ""), 0),
		"no operation":      fileRecord(0, 0, "", ""),
		"unknown operation": fileRecord(0, event.FileMapExec+1, "", ""),
	} {
		order.PutUint32(raw[4:], uint32(len(raw)))
		if e, err := Decode(raw); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// Whatever a file record's bytes are: an event within the record's size, or ErrMalformed.
func FuzzDecodeFile(f *testing.F) {
	for _, raw := range [][]byte{
		fileRecord(0, event.FileRename, "b\x00a\x00", "c\x00"), fileRecord(0xffff, event.FileSymlink, "l\x00", "t\x00"),
		fileRecord(fileWhole, event.FileMapExec, "\x00\x00\x00", "\x00"), fileRecord(0, event.FileMapExec, "", "x"),
	} {
		f.Add(raw[headSize:], uint16(0))
		f.Add(raw[headSize:], uint16(0xffff))
	}
	f.Fuzz(func(t *testing.T, rest []byte, flags uint16) {
		raw := record(typeFile, flags, rest)
		e, err := Decode(raw)
		if err != nil {
			return
		}
		x := e.(*event.File)
		if len(x.Path)+len(x.Target) > len(raw)+len("/proc/") || x.Op.String() == "unknown" {
			t.Fatalf("%+v of a record of %d bytes", x, len(raw))
		}
	})
}
