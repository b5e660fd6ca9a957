package respond

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// sealed is a file that is either what was saved or known not to be: a line with
// a magic and the checksum of the JSON below it, replaced as a whole.
type sealed struct {
	path, magic string
	max         int64
}

var errUnsealed = errors.New("the file is damaged")

// load fills v; fs.ErrNotExist and errUnsealed are told apart by the caller.
func (f sealed) load(v any) error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	raw, err := io.ReadAll(io.LimitReader(file, f.max+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", filepath.Base(f.path), err)
	}
	return f.decode(raw, v)
}

func (f sealed) decode(raw []byte, v any) error {
	head, body, found := bytes.Cut(raw, []byte("\n"))
	sum := sha256.Sum256(body)
	if int64(len(raw)) > f.max || !found || string(head) != f.magic+" "+hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: %d bytes that do not match their checksum", errUnsealed, len(raw))
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", errUnsealed, err)
	}
	return nil
}

func (f sealed) encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(f.magic+" "+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

// save leaves the old or the new file, whatever interrupts it.
func (f sealed) save(v any) (err error) {
	raw, err := f.encode(v)
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(f.path)+"-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	_, err = temp.Write(raw)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp.Name(), f.path); err != nil {
		return err
	}
	if handle, openErr := os.Open(dir); openErr == nil {
		_ = handle.Sync() // some file systems cannot sync a directory; the file is in place
		_ = handle.Close()
	}
	return nil
}
