package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Ensure that the archive is what the kernel's own description of the format says
// (Documentation/driver-api/early-userspace/buffer-format.rst): everything that is
// put into the tree comes out, folders first, the trailer last.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := newTree()
	tree.file("/a/b/file", source, 0o755)
	if err := tree.json("/plan.json", 7); err != nil {
		t.Fatal(err)
	}
	tree.dir("/var/tmp", 0o777)
	tree.entries["/bin"] = entry{mode: typeLink | 0o777, content: []byte("usr/bin")}
	archive := filepath.Join(dir, "archive")
	if err := tree.write(archive); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a 40755 ", "a/b 40755 ", "a/b/file 100755 12345", "bin 120777 usr/bin", "plan.json 100644 7", "var 40755 ", "var/tmp 40777 ", "TRAILER!!! 0 "}
	if got := list(t, text); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

// list reads a newc archive.
func list(t *testing.T, text []byte) (entries []string) {
	t.Helper()
	const header = 110
	align := func(n int) int { return (n + 3) &^ 3 }
	number := func(at int) (n int) {
		for _, c := range text[at : at+8] {
			n = n*16 + strings.IndexByte("0123456789ABCDEF", c)
		}
		return n
	}
	for {
		if !bytes.HasPrefix(text, []byte("070701")) {
			t.Fatalf("after %q: not a header: %.20q", entries, text)
		}
		mode, size, nameSize := number(6+8), number(6+6*8), number(6+11*8)
		name := string(text[header : header+nameSize-1])
		at := align(header + nameSize)
		entries = append(entries, name+" "+octal(mode)+" "+string(text[at:at+size]))
		text = text[align(at+size):]
		if name == "TRAILER!!!" {
			return entries
		}
	}
}

func octal(n int) string {
	if n == 0 {
		return "0"
	}
	return strings.TrimPrefix(octal(n/8), "0") + string(rune('0'+n%8))
}

// Ensure that a program comes with all links on its way, its interpreter and
// libraries.
func TestProgram(t *testing.T) {
	tree := newTree()
	if err := tree.program("/bin/sh"); err != nil {
		t.Skipf("SKIP: needs a dynamically linked /bin/sh: %v", err)
	}
	image, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := tree.entries[image]; !ok || e.source != image || e.mode&0o111 == 0 {
		t.Errorf("%s: got %+v, %t", image, e, ok)
	}
	if link, err := os.Readlink("/bin"); err == nil && string(tree.entries["/bin"].content) != link {
		t.Errorf("/bin: got %+v, want a link to %s", tree.entries["/bin"], link)
	}
	library := false
	for name := range tree.entries {
		library = library || strings.HasPrefix(filepath.Base(name), "libc.")
	}
	if !library {
		t.Error("no C library came along")
	}
}
