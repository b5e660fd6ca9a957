package main

import (
	"slices"
	"strings"
	"testing"
)

// Ensure a line of the fork program is read exactly, and nothing else is.
func TestReadBirth(t *testing.T) {
	child, parent, err := readBirth([]byte("32768 123456 4194303 99"))
	if err != nil || child != newWho(32768, 123456) || parent != newWho(4194303, 99) {
		t.Errorf("got %v of %v (%v)", child, parent, err)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4 5", "1 2 3 x", "-1 2 3 4"} {
		if _, _, err := readBirth([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

// Ensure aliases are joined by file or by content, and that nothing else is.
func TestJoinAliases(t *testing.T) {
	const device = 8<<20 | 1
	line := func(pid uint32, name string) truth {
		return truth{PID: pid, Argv: []string{"ran", name}, Device: 8<<8 | 1, Inode: 7}
	}
	file := func(inode uint64) (r record) {
		r.Device, r.Inode = device, inode
		return r
	}
	tests := []struct {
		name   string
		inodes map[string]uint64 // by alias; 0: not told
		hashes map[uint64]string // by inode
		wrong  []string          // parts of the examples
		byHash string
	}{
		{
			name:   "all joined",
			inodes: map[string]uint64{"absolute": 7, "other": 8, "link": 7, "copy": 9},
			hashes: map[uint64]string{7: "aa", 8: "bb", 9: "aa"}, byHash: "alone: copy",
		},
		{
			name:   "a copy without a hash",
			inodes: map[string]uint64{"absolute": 7, "other": 8, "link": 7, "copy": 9},
			hashes: map[uint64]string{7: "aa", 8: "bb"}, wrong: []string{"copy is told as"},
		},
		{
			name:   "nothing is hashed",
			inodes: map[string]uint64{"absolute": 7, "other": 8, "link": 7, "copy": 9},
			wrong:  []string{"copy is told as"},
		},
		{
			name:   "another program has the hash",
			inodes: map[string]uint64{"absolute": 7, "other": 8, "link": 7, "copy": 9},
			hashes: map[uint64]string{7: "aa", 8: "aa", 9: "aa"}, wrong: []string{"another program"},
		},
		{
			name:   "one is not told, and the program itself is another",
			inodes: map[string]uint64{"absolute": 6, "other": 8, "link": 0, "copy": 6},
			wrong:  []string{"the program itself", "link is not told"},
		},
	}
	names := []string{"other", "link", "absolute", "copy"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var truths []truth
			told := map[string]record{}
			for i, name := range names {
				l := line(uint32(100+i), name)
				truths = append(truths, l)
				if inode := tt.inodes[name]; inode != 0 {
					told[l.who().String()+name] = file(inode)
				}
			}
			hashOf := map[[2]uint64]string{}
			for inode, hash := range tt.hashes {
				hashOf[[2]uint64{device, inode}] = hash
			}
			v := joinAliases(truths, told, hashOf)
			if v.wrong != len(tt.wrong) || !strings.Contains(v.remark, tt.byHash) {
				t.Errorf("got %d wrong (%q; %s), want %d", v.wrong, v.examples, v.remark, len(tt.wrong))
			}
			for _, part := range tt.wrong {
				if !slices.ContainsFunc(v.examples, func(e string) bool { return strings.Contains(e, part) }) {
					t.Errorf("%q is not said in %q", part, v.examples)
				}
			}
		})
	}
}
