package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
)

// archive is a .tar.gz of texts. It takes its name when it is whole.
type archive struct {
	path  string
	force bool
	at    time.Time
	file  *os.File
	zip   *gzip.Writer
	tar   *tar.Writer
	err   error // the first that writing ended with
}

// newArchive begins one. A file that is in the way is a mistake, unless force is said.
func newArchive(path string, force bool, at time.Time) (*archive, error) {
	if _, err := os.Lstat(path); err == nil && !force {
		return nil, usage("%s exists: choose another file with --out, or write over it with --force", path)
	}
	// CreateTemp makes it of mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), ".vedette-debug-*")
	if err != nil {
		return nil, fmt.Errorf("writing the bundle: %w", err)
	}
	t := &archive{path: path, force: force, at: at, file: f, zip: gzip.NewWriter(f)}
	t.tar = tar.NewWriter(t.zip)
	return t, nil
}

func (t *archive) add(name, text string) {
	if t.err != nil {
		return
	}
	t.err = t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o600, ModTime: t.at, Format: tar.FormatPAX})
	if t.err == nil {
		_, t.err = t.tar.Write([]byte(text))
	}
}

// page adds what a person would read.
func (t *archive) page(name string, page func(*output.Page)) {
	var text bytes.Buffer
	p := &output.Printer{Out: &text, Format: output.Table}
	if err := p.Show(output.Shown{Page: page}); err != nil {
		t.err = errors.Join(t.err, err)
	}
	t.add(name, text.String())
}

// close ends the archive and gives it its name.
func (t *archive) close() error {
	defer func() { _ = os.Remove(t.file.Name()) }() // gone already when all is well
	err := errors.Join(t.err, t.tar.Close(), t.zip.Close(), t.file.Close())
	switch {
	case err != nil:
	case t.force:
		err = os.Rename(t.file.Name(), t.path)
	default:
		// A link fails where a file came meanwhile, a rename would take its place.
		if err = os.Link(t.file.Name(), t.path); errors.Is(err, fs.ErrExist) {
			return usage("%s exists: choose another file with --out, or write over it with --force", t.path)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}
