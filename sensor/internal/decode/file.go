package decode

import (
	"fmt"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	typeFile = 8
	fileSize = headSize + 64

	filePathTruncated = 1
	fileURing         = 2
	fileDirectory     = 4
	fileMemoryFD      = 8
	fileOpenPlace     = 16
	fileWhole         = 32
	fileTextTarget    = 64
)

func decodeFile(raw []byte) (event.Event, error) {
	if len(raw) < fileSize {
		return nil, fmt.Errorf("%w: file event of %d bytes", ErrMalformed, len(raw))
	}
	e := new(event.File)
	flags := head(raw, &e.Header)
	b := raw[headSize:]
	e.Inode = order.Uint64(b[0:])
	e.Directory = order.Uint64(b[8:])
	e.Device = order.Uint32(b[16:])
	e.Watch = order.Uint32(b[20:])
	e.TargetWatch = order.Uint32(b[24:])
	e.Mode = order.Uint32(b[28:])
	e.OpenFlags = order.Uint32(b[32:])
	e.Result = int32(order.Uint32(b[36:])) //nolint:gosec // the same bits
	e.MountNS = order.Uint32(b[40:])
	e.Owner = order.Uint32(b[48:])
	e.NLink = order.Uint32(b[52:])
	op, class := order.Uint16(b[56:]), order.Uint16(b[58:])
	if op == 0 || op > uint16(event.FileMapExec) || class > 0xff {
		return nil, fmt.Errorf("%w: file operation %d of class %d", ErrMalformed, op, class)
	}
	e.Op, e.Class = event.FileOp(op), event.FileClass(class)
	pathLen, targetLen := int(order.Uint16(b[60:])), int(order.Uint16(b[62:]))
	tail := raw[fileSize:]
	if pathLen+targetLen != len(tail) {
		return nil, fmt.Errorf("%w: file event says %d+%d bytes, has %d", ErrMalformed, pathLen, targetLen, len(tail))
	}
	e.Truncated = flags&filePathTruncated != 0
	e.URing = flags&fileURing != 0
	e.InPath = flags&fileDirectory != 0
	e.MemoryFD = flags&fileMemoryFD != 0
	e.OpenPlace = flags&fileOpenPlace != 0
	e.Whole = flags&fileWhole != 0

	own := make([]byte, 0, len(tail))
	own = appendPath(own, tail[:pathLen], !e.Whole || e.Truncated || e.MemoryFD)
	e.Path = own[:len(own):len(own)]
	from := len(own)
	if flags&fileTextTarget != 0 && targetLen > 0 {
		own = append(own, tail[pathLen:len(tail)-1]...) // without the NUL
	} else {
		own = appendPath(own, tail[pathLen:], true)
	}
	e.Target = own[from:len(own):len(own)]
	return e, nil
}
