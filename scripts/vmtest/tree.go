package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks bounds a chain of symbolic links, as the kernel does.
const maxLinks = 40

// tree is what the guest's archive holds, by path.
type tree struct{ entries map[string]entry }

type entry struct {
	mode    uint32 // type and permissions as stat(2) has them
	source  string // a file of the host
	content []byte // else, or a link's target
}

// Types of stat(2) that an archive holds here.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
)

func newTree() *tree { return &tree{entries: map[string]entry{}} }

func (t *tree) parents(at string) {
	for dir := path.Dir(at); dir != "/"; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; ok {
			return
		}
		t.entries[dir] = entry{mode: typeDir | 0o755}
	}
}

// file puts a file of the host at a path of the guest.
func (t *tree) file(at, source string, mode uint32) {
	t.parents(at)
	t.entries[at] = entry{mode: typeFile | mode, source: source}
}

// dir makes an empty folder.
func (t *tree) dir(at string, mode uint32) {
	t.parents(at)
	t.entries[at] = entry{mode: typeDir | mode}
}

// json puts a value at a path of the guest.
func (t *tree) json(at string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", at, err)
	}
	t.parents(at)
	t.entries[at] = entry{mode: typeFile | 0o644, content: text}
	return nil
}

// folder puts a folder of the host, if it is there, at a path of the guest.
func (t *tree) folder(at, source string) error {
	t.parents(at + "/x") // a working directory is there also without testdata
	err := filepath.WalkDir(source, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		t.file(at+"/"+filepath.ToSlash(relative), name, 0o644)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("packing %s: %w", source, err)
	}
	return nil
}

// host puts a file at the path that it has on this host, with every symbolic link
// on the way: /bin/sh is then /usr/bin/dash here as there.
func (t *tree) host(name string) error {
	rest := strings.Split(strings.TrimPrefix(name, "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(next)
		if err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return fmt.Errorf("packing %s: more than %d links", name, maxLinks)
			}
			target, err := os.Readlink(next)
			if err != nil {
				return fmt.Errorf("packing %s: %w", name, err)
			}
			t.parents(next)
			t.entries[next] = entry{mode: typeLink | 0o777, content: []byte(target)}
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
		case info.Mode().IsRegular():
			t.file(next, next, uint32(info.Mode().Perm()))
			at = next
		default:
			at = next
		}
	}
	return nil
}

// write writes the archive in the format that the kernel unpacks: cpio, newc.
func (t *tree) write(archive string) (err error) {
	file, err := os.Create(archive)
	if err != nil {
		return fmt.Errorf("making the archive: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := bufio.NewWriterSize(file, 1<<20)
	names := make([]string, 0, len(t.entries))
	for name := range t.entries {
		names = append(names, name)
	}
	slices.Sort(names) // a folder before what is in it
	for i, name := range names {
		if err := writeEntry(out, i+1, name, t.entries[name]); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
	}
	if err := writeHeader(out, 0, "TRAILER!!!", 0, 0); err != nil {
		return fmt.Errorf("ending the archive: %w", err)
	}
	return out.Flush()
}

func writeEntry(out io.Writer, inode int, name string, e entry) error {
	size := int64(len(e.content))
	var content io.Reader = strings.NewReader(string(e.content))
	if e.source != "" {
		file, err := os.Open(e.source)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		size, content = info.Size(), file
	}
	if err := writeHeader(out, inode, strings.TrimPrefix(name, "/"), e.mode, size); err != nil {
		return err
	}
	if n, err := io.Copy(out, content); err != nil || n != size {
		return errors.Join(err, fmt.Errorf("wrote %d bytes of %d", n, size))
	}
	return pad(out, size)
}

// writeHeader writes a header and its name, both padded to four bytes.
func writeHeader(out io.Writer, inode int, name string, mode uint32, size int64) error {
	links, zero := 1, 0
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, mode, zero, zero, links, zero, size, zero, zero, zero, zero, len(name)+1, zero)
	if _, err := io.WriteString(out, header+name+"\x00"); err != nil {
		return err
	}
	return pad(out, int64(len(header)+len(name)+1))
}

func pad(out io.Writer, size int64) error {
	_, err := out.Write(make([]byte, (4-size%4)%4))
	return err
}
