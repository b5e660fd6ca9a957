package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/vedette-edr/vedette/proto/seal"
)

// Open makes a Reader of a file, which it decrypts if it is encrypted; encrypted says so.
func Open(in io.Reader, keys seal.Keys) (r *Reader, encrypted bool, err error) {
	buffered := bufio.NewReaderSize(in, 256<<10)
	// What cannot be looked at is too short to be anything, which NewReader says.
	if head, _ := buffered.Peek(seal.Peek); !seal.Is(head) {
		r, err = NewReader(buffered)
		return r, false, err
	}
	plain, err := seal.Decrypt(buffered, keys)
	if err != nil {
		return nil, true, damaged(err)
	}
	r, err = NewReader(changed{plain})
	return r, true, err
}

// changed makes what seal says while reading an error of a backup.
type changed struct{ in io.Reader }

func (c changed) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	return n, damaged(err)
}

func damaged(err error) error {
	if errors.Is(err, seal.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
