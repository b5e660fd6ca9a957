package backup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// ErrKey: the file is encrypted, and not for what was given to open it.
var ErrKey = errors.New("the backup cannot be decrypted with this")

// ErrEncrypted: the file is encrypted and nothing was given to open it.
var ErrEncrypted = errors.New("the backup is encrypted")

// ageMagic begins every age file, whatever its recipients.
const ageMagic = "age-encryption.org/"

// maxSecret bounds a file with a passphrase or keys: a wrong path is not read for long.
const maxSecret = 64 << 10

// Encrypt makes a writer whose output only the recipients, or whoever knows the
// passphrase, can read. It is one or the other: an age file cannot have both. Close
// ends the encryption, and does not close out.
func Encrypt(out io.Writer, recipients []string, passphrase string) (io.WriteCloser, error) {
	var to []age.Recipient
	for _, text := range recipients {
		r, err := age.ParseX25519Recipient(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w: it looks like age1..., as 'age-keygen' prints it", text, err)
		}
		to = append(to, r)
	}
	switch {
	case passphrase != "" && len(to) > 0:
		return nil, errors.New("a backup is encrypted for recipients or by a passphrase, not both")
	case passphrase != "":
		r, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return nil, fmt.Errorf("using the passphrase: %w", err)
		}
		to = append(to, r)
	case len(to) == 0:
		return nil, errors.New("encrypting for nobody")
	}
	w, err := age.Encrypt(out, to...)
	if err != nil {
		return nil, fmt.Errorf("encrypting the backup: %w", err)
	}
	return w, nil
}

// Keys open an encrypted backup. The zero value opens none.
type Keys struct {
	// Identities is the text of a file of age identities (AGE-SECRET-KEY-1...).
	Identities string
	Passphrase string
}

// Open makes a Reader of a file, which it decrypts if it is encrypted; encrypted says so.
func Open(in io.Reader, keys Keys) (r *Reader, encrypted bool, err error) {
	buffered := bufio.NewReaderSize(in, 256<<10)
	// What cannot be looked at is too short to be anything, which NewReader says.
	if head, _ := buffered.Peek(len(ageMagic)); !bytes.Equal(head, []byte(ageMagic)) {
		r, err = NewReader(buffered)
		return r, false, err
	}
	var with []age.Identity
	switch {
	case keys.Passphrase != "":
		id, err := age.NewScryptIdentity(keys.Passphrase)
		if err != nil {
			return nil, true, fmt.Errorf("using the passphrase: %w", err)
		}
		with = append(with, id)
	case keys.Identities != "":
		if with, err = age.ParseIdentities(strings.NewReader(keys.Identities)); err != nil {
			// The library's error may quote the line, which is a secret.
			return nil, true, errors.New("the file of age identities cannot be read: it has lines of AGE-SECRET-KEY-1..., as 'age-keygen' writes them")
		}
	default:
		return nil, true, ErrEncrypted
	}
	plain, err := age.Decrypt(buffered, with...)
	if none := new(age.NoIdentityMatchError); errors.As(err, &none) {
		return nil, true, ErrKey
	}
	if err != nil {
		return nil, true, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	r, err = NewReader(changed{plain})
	return r, true, err
}

// changed makes age's errors while reading what they mean to whoever restores.
type changed struct{ in io.Reader }

func (c changed) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // NewReader and Read say where
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

// ReadSecret reads a passphrase or keys from a file, or from stdin when path is "-".
// Arguments are readable by every user of a machine, which is why there is no other way.
func ReadSecret(path string, stdin io.Reader) (string, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s has more than %d bytes: is it the right file?", path, maxSecret)
	case len(bytes.TrimSpace(text)) == 0:
		return "", fmt.Errorf("%s is empty", path)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
