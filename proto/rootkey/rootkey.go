// Package rootkey is the file in which the key of a cluster's operators' authority, the
// root that vouches for everything, is kept offline.
//
// Its invariant: the key is in the file encrypted only, and what Open returns is whole: the
// key is that of the certificate beside it, which is an operators' authority of the cluster
// that the file names. That it is the one of this cluster is for its pin to say.
//
// The file is text, so that it can be printed, with what is public in the clear, so that a
// copy can be checked without opening it:
//
//	-----BEGIN VEDETTE ROOT-----
//	Cluster: the cluster's id
//	Ends: when the certificate in it does (RFC 3339)
//	Format: 1
//	Made: when the file was made (RFC 3339)
//	Opened-By: passphrase, or the age recipients
//	Root: the SHA-256 of the root's public key
//	Sum: the SHA-256 of all of the above but itself, and of the bytes below
//
//	base64 of a JSON document, encrypted by age
//	-----END VEDETTE ROOT-----
//
// The sum is against bad disks and torn copies, and it is why a wrong passphrase can be told
// from a damaged file. Against people there is age, and that the head must say what the
// document says. Without this program the key is had by
//
//	sed '1,/^$/d;/^-----/d' FILE | base64 -d | age -d
package rootkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/seal"
)

var (
	// ErrNot: the file is nothing of the kind.
	ErrNot = errors.New("this is no file with a root's key")
	// ErrTorn: it begins as one and has no end.
	ErrTorn = errors.New("the file is torn, its end is missing: it was not copied whole; use another copy")
	// ErrChanged: it is not what was written.
	ErrChanged = errors.New("the file was changed or is damaged: use another copy")
	// ErrNewer: a later release has written it.
	ErrNewer = errors.New("the file is of a newer release: use that release's program")
)

const (
	blockType = "VEDETTE ROOT"
	begin     = "-----BEGIN " + blockType + "-----\n"
	end       = "-----END " + blockType + "-----\n"
	// format is the newest that this release reads and the one that it writes.
	format = 1
	// MaxFile bounds a file, in bytes: a wrong path is not read for long.
	MaxFile = 256 << 10
	// maxDocument bounds what is encrypted: the lists in it have at most 64 KiB.
	maxDocument = 160 << 10
	// ByPassphrase is File.OpenedBy of a file that a passphrase opens.
	ByPassphrase = "passphrase"
)

// Content is what a file holds.
type Content struct {
	ClusterID string
	// Certificate is the root's as it was when the file was made: the cluster may have renewed it.
	Certificate *x509.Certificate
	// Key is the one that this is all about.
	Key ed25519.PrivateKey
	// Made is when the file was made, and By the operator who did, or "init".
	Made time.Time
	By   string
	// CA, Trust and Nodes are what a context of the cluster had then (see coordinator/client):
	// with them the file alone makes an admin when all contexts are lost. They are public.
	CA, Trust string
	Nodes     []string
}

// Authority is the root with its key, by the later ending of the file's certificate and
// another one of the same key, which may be nil.
func (c *Content) Authority(renewed *x509.Certificate) (*operator.Authority, error) {
	root := c.Certificate
	if renewed != nil && link.Pin(renewed) == link.Pin(root) && renewed.NotAfter.After(root.NotAfter) {
		root = renewed
	}
	return operator.Open(c.ClusterID, root, root, c.Key)
}

// document is what is encrypted. Fields are added, never changed.
type document struct {
	Format      int       `json:"format"`
	ClusterID   string    `json:"cluster_id"`
	Certificate []byte    `json:"certificate"` // DER
	Key         []byte    `json:"key"`         // PKCS#8
	Made        time.Time `json:"made"`
	By          string    `json:"by"`
	CA          string    `json:"ca"`
	Trust       string    `json:"trust,omitempty"`
	Nodes       []string  `json:"nodes"`
}

// File is one that was read and is not torn, and what its head says; nobody vouches for
// that before it is opened.
type File struct {
	Format    int
	ClusterID string
	// Root is the SHA-256 of the root's public key, in hex.
	Root string
	// Ends is the end of the root's certificate in the file.
	Ends, Made time.Time
	// OpenedBy is ByPassphrase or the age recipients.
	OpenedBy string

	sealed []byte
}

// Seal encrypts a root's key for recipients or by a passphrase.
func Seal(c *Content, recipients []string, passphrase string) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding the root's key: %w", err)
	}
	text, err := json.Marshal(document{Format: format, ClusterID: c.ClusterID, Certificate: c.Certificate.Raw, Key: key,
		Made: c.Made.UTC().Truncate(time.Second), By: c.By, CA: c.CA, Trust: c.Trust, Nodes: c.Nodes})
	if err != nil {
		return nil, fmt.Errorf("encoding the root's key: %w", err)
	}
	if len(text) > maxDocument {
		return nil, fmt.Errorf("encoding the root's key: %d bytes, at most %d", len(text), maxDocument)
	}
	if _, err := read(text); err != nil { // what could not be read back
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := seal.Encrypt(&sealed, recipients, passphrase)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("encrypting the root's key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encrypting the root's key: %w", err)
	}
	by := ByPassphrase
	if len(recipients) > 0 {
		trimmed := make([]string, len(recipients))
		for i, r := range recipients {
			trimmed[i] = strings.TrimSpace(r)
		}
		by = strings.Join(trimmed, ",")
	}
	f := &File{Format: format, ClusterID: c.ClusterID, Root: Name(c.Certificate), Ends: c.Certificate.NotAfter, Made: c.Made, OpenedBy: by, sealed: sealed.Bytes()}
	return f.encode(), nil
}

// Name is what a root goes by: the SHA-256 of its public key, in hex.
func Name(root *x509.Certificate) string {
	pin := link.Pin(root)
	return hex.EncodeToString(pin[:])
}

func (f *File) encode() []byte {
	head := map[string]string{"Cluster": f.ClusterID, "Ends": f.Ends.UTC().Format(time.RFC3339), "Format": strconv.Itoa(f.Format),
		"Made": f.Made.UTC().Format(time.RFC3339), "Opened-By": f.OpenedBy, "Root": f.Root}
	block := &pem.Block{Type: blockType, Headers: head, Bytes: f.sealed}
	sum := sha256.Sum256(pem.EncodeToMemory(block))
	head["Sum"] = hex.EncodeToString(sum[:])
	return pem.EncodeToMemory(block)
}

// Parse reads a file as far as it can be read without opening it. It is taken in one
// form only, but for the ends of lines, which a mail or a printer may have changed.
func Parse(raw []byte) (*File, error) {
	if len(raw) > MaxFile {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrNot, MaxFile)
	}
	raw = append(bytes.TrimRight(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n")), " \n"), '\n')
	switch {
	case !bytes.HasPrefix(raw, []byte(begin)):
		return nil, ErrNot
	case !bytes.HasSuffix(raw, []byte(end)):
		return nil, ErrTorn
	}
	block, rest := pem.Decode(raw)
	if block == nil || len(rest) > 0 || block.Type != blockType {
		return nil, ErrChanged
	}
	f := &File{ClusterID: block.Headers["Cluster"], Root: block.Headers["Root"], OpenedBy: block.Headers["Opened-By"], sealed: block.Bytes}
	var err error
	if f.Format, err = strconv.Atoi(block.Headers["Format"]); err != nil || f.Format < 1 {
		return nil, ErrChanged
	}
	if f.Format > format {
		return nil, fmt.Errorf("%w (its format is %d, this release knows %d)", ErrNewer, f.Format, format)
	}
	var bad [2]error
	f.Ends, bad[0] = time.Parse(time.RFC3339, block.Headers["Ends"])
	f.Made, bad[1] = time.Parse(time.RFC3339, block.Headers["Made"])
	if errors.Join(bad[:]...) != nil || !bytes.Equal(f.encode(), raw) {
		return nil, ErrChanged
	}
	return f, nil
}

// Open decrypts the key. What does not open it is seal.ErrKey, nothing to open it with
// seal.ErrEncrypted, and a key that is not what the head says ErrChanged.
func (f *File) Open(keys seal.Keys) (*Content, error) {
	plain, err := seal.Decrypt(bytes.NewReader(f.sealed), keys)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(plain, maxDocument+1))
	}
	if errors.Is(err, seal.ErrDamaged) {
		return nil, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if err != nil {
		return nil, err
	}
	c, err := read(text)
	if err != nil {
		return nil, err
	}
	if c.ClusterID != f.ClusterID || Name(c.Certificate) != f.Root || !c.Certificate.NotAfter.Equal(f.Ends) || !c.Made.Equal(f.Made) {
		return nil, fmt.Errorf("%w: its head does not say what is in it", ErrChanged)
	}
	return c, nil
}

// read is the document's content, checked. No error of it shows what is in it.
func read(text []byte) (*Content, error) {
	var d document
	if len(text) > maxDocument || json.Unmarshal(text, &d) != nil {
		return nil, fmt.Errorf("%w: what is encrypted cannot be read", ErrChanged)
	}
	if d.Format > format {
		return nil, fmt.Errorf("%w (its format is %d, this release knows %d)", ErrNewer, d.Format, format)
	}
	if d.Format < 1 {
		return nil, fmt.Errorf("%w: what is encrypted has no format", ErrChanged)
	}
	cert, err := x509.ParseCertificate(d.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: the root's certificate cannot be read", ErrChanged)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(d.Key)
	key, ed := parsed.(ed25519.PrivateKey)
	if err != nil || !ed {
		return nil, fmt.Errorf("%w: the root's key cannot be read", ErrChanged)
	}
	c := &Content{ClusterID: d.ClusterID, Certificate: cert, Key: key, Made: d.Made, By: d.By, CA: d.CA, Trust: d.Trust, Nodes: slices.Clone(d.Nodes)}
	if _, err := c.Authority(nil); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return c, nil
}
