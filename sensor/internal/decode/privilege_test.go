package decode

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func privilegeRecord(flags uint16, op, number uint32, name, claimed string) []byte {
	return record(typePrivilege, flags,
		[]uint64{1, 2, 3, 4, 5, ^uint64(0)}, []uint32{op, number, 6, 7, 8, 9, 10, 11, 2, 12},
		[]uint16{uint16(len(name)), uint16(len(claimed)), 0, 0}, []byte(name+claimed))
}

func TestPrivilege(t *testing.T) {
	want := func(change func(*event.Privilege)) *event.Privilege {
		e := &event.Privilege{
			Header: wantHead(), Target: event.ProcessKey{PID: 7, Start: 1}, Arguments: 2, Object: 3, CapsBefore: 4, Caps: 5,
			Result: -1, Command: 6, UIDBefore: 8, GIDBefore: 9, GID: 10, RealUID: 11, Kind: event.ObjectProgram, UserNS: 12,
		}
		change(e)
		return e
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want *event.Privilege
	}{
		"plain": {privilegeRecord(0, 8, 101, "", ""), want(func(e *event.Privilege) {
			e.Operation, e.Call = event.OpPtrace, "ptrace"
		})},
		"32-bit": {privilegeRecord(privilegeCompat|privilegeGained|privilegeUnexplained, 1, 213, "", ""), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.Compat, e.Gained, e.Unexplained = event.OpSetUID, "setuid", true, true, true
		})},
		"no call": {privilegeRecord(privilegeNoCall|privilegeOurs|privilegeFromKernel, 15, 0, "", ""), want(func(e *event.Privilege) {
			e.Operation, e.Ours, e.FromKernel = event.OpSignal, true, true
		})},
		"name": {privilegeRecord(privilegeMemoryFile, 11, 319, "memfd:\xff", ""), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.MemoryFile, e.Name = event.OpMemFD, "memfd_create", true, []byte("memfd:\xff")
		})},
		"path": {privilegeRecord(privilegeNamePath|privilegeHostMounts, 7, 165, "ssh\x00etc\x00", "src\x00\x00tmpfs\x00"), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.HostMounts, e.Name = event.OpMount, "mount", true, []byte("/etc/ssh")
			e.Claimed = [][]byte{[]byte("src"), {}, []byte("tmpfs")}
		})},
		"path above what was read": {privilegeRecord(privilegeNamePath|privilegeTextCut|privilegeNameCut, 7, 165, "ssh\x00etc\x00", ""), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.TextCut, e.Name = event.OpMount, "mount", true, []byte("etc/ssh")
		})},
		"path beside a claim that was not read": {privilegeRecord(privilegeNamePath|privilegeTextCut, 7, 165, "ssh\x00etc\x00", "\x00"), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.TextCut, e.Name = event.OpMount, "mount", true, []byte("/etc/ssh")
			e.Claimed = [][]byte{{}}
		})},
		"root": {privilegeRecord(privilegeNamePath, 7, 429, "", ""), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.Name = event.OpMount, "move_mount", []byte("/")
		})},
		"claims beyond the bound": {privilegeRecord(privilegeTextCut, 13, 313, "a.ko", "1\x002\x003\x004\x005"), want(func(e *event.Privilege) {
			e.Operation, e.Call, e.TextCut, e.Name = event.OpModule, "finit_module", true, []byte("a.ko")
			e.Claimed = [][]byte{[]byte("1"), []byte("2"), []byte("3")}
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
		for i := range tt.raw {
			tt.raw[i] = 'X' // the ring is used again
		}
		if diff := cmp.Diff(event.Event(tt.want), got); diff != "" {
			t.Errorf("%s keeps bytes of the ring: %s", name, diff)
		}
	}
}

func TestPrivilegeMalformed(t *testing.T) {
	good := privilegeRecord(0, 7, 165, "name", "claimed\x00")
	for n := headSize; n < len(good); n++ {
		short := append([]byte(nil), good[:n]...)
		order.PutUint32(short[4:], uint32(n))
		if _, err := Decode(short); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(good), err)
		}
	}
	for _, op := range []uint32{0, uint32(len(operations)), 1 << 31} {
		if _, err := Decode(privilegeRecord(0, op, 0, "", "")); !errors.Is(err, ErrMalformed) {
			t.Errorf("operation %d: %v", op, err)
		}
	}
}

// FuzzPrivilege: whatever a record holds, the answer is an event or a known error, and
// no text is longer than the record.
func FuzzPrivilege(f *testing.F) {
	f.Add(privilegeRecord(0, 8, 101, "", ""))
	f.Add(privilegeRecord(privilegeNamePath|privilegeNameCut, 7, 165, "b\x00a\x00", "source\x00target\x00type\x00"))
	f.Add(privilegeRecord(0xffff, 14, 357, "\x00\x00", "\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= headSize {
			order.PutUint16(raw, typePrivilege)
			order.PutUint32(raw[4:], uint32(len(raw)))
		}
		e, err := Decode(raw)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("undocumented error %v", err)
			}
			return
		}
		p, ok := e.(*event.Privilege)
		if !ok {
			t.Fatalf("decoded %T", e)
		}
		n := len(p.Name)
		for _, c := range p.Claimed {
			n += len(c)
		}
		if n > len(raw) || len(p.Claimed) > maxClaimed {
			t.Fatalf("%d bytes in %d texts from a record of %d", n, len(p.Claimed), len(raw))
		}
		p.CommandName()
		p.Namespaces()
		p.GainedCapabilities()
		p.ErrorName()
		p.Marks()
	})
}
