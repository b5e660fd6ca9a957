// Package seal encrypts the files that hold keys, and opens them again, by age
// (https://age-encryption.org/v1), so that age itself opens them too: backups and the
// root's key.
//
// Its invariant: a secret comes from a file, standard input or a terminal, never from an
// argument, and is in no error.
package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

var (
	// ErrKey: it is encrypted, and not for what was given to open it.
	ErrKey = errors.New("it cannot be decrypted with this passphrase or these keys")
	// ErrEncrypted: it is encrypted and nothing was given to open it.
	ErrEncrypted = errors.New("it is encrypted")
	// ErrDamaged: what it holds is not what was encrypted.
	ErrDamaged = errors.New("what is encrypted is damaged")
)

const (
	// magic begins every age file, whatever its recipients.
	magic = "age-encryption.org/"
	// Peek is how many bytes Is needs.
	Peek = len(magic)
	// MaxRecipients bounds who can open one file.
	MaxRecipients = 16
	// maxSecret bounds a file with a passphrase or keys: a wrong path is not read for long.
	maxSecret = 64 << 10
	// maxWork is the scrypt cost that a file can make its reader pay, as a power of two: 1 GiB
	// for some seconds. What is written has age's own, 2^18.
	maxWork = 20
)

// Is says whether a file that begins so is encrypted by age.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

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
		return nil, errors.New("a file is encrypted for recipients or by a passphrase, not both")
	case len(to) > MaxRecipients:
		return nil, fmt.Errorf("encrypting for %d recipients, at most %d", len(to), MaxRecipients)
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
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return w, nil
}

// Keys open an encrypted file. The zero value opens none.
type Keys struct {
	// Identities is the text of a file of age identities (AGE-SECRET-KEY-1...).
	Identities string
	Passphrase string
}

// Given is whether there is anything to open a file with.
func (k Keys) Given() bool { return k.Identities != "" || k.Passphrase != "" }

// Decrypt reads what was encrypted. An error of the reader wraps ErrDamaged unless it is in's own.
func Decrypt(in io.Reader, keys Keys) (io.Reader, error) {
	var with []age.Identity
	switch {
	case keys.Passphrase != "":
		id, err := age.NewScryptIdentity(keys.Passphrase)
		if err != nil {
			return nil, fmt.Errorf("using the passphrase: %w", err)
		}
		id.SetMaxWorkFactor(maxWork)
		with = append(with, id)
	case keys.Identities != "":
		var err error
		if with, err = age.ParseIdentities(strings.NewReader(keys.Identities)); err != nil {
			// The library's error may quote the line, which is a secret.
			return nil, errors.New("the file of age identities cannot be read: it has lines of AGE-SECRET-KEY-1..., as 'age-keygen' writes them")
		}
	default:
		return nil, ErrEncrypted
	}
	plain, err := age.Decrypt(in, with...)
	if none := new(age.NoIdentityMatchError); errors.As(err, &none) {
		return nil, ErrKey
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return changed{plain}, nil
}

// changed makes age's errors while reading what they mean to whoever reads.
type changed struct{ in io.Reader }

func (c changed) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // the reader above says where
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
