package export

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// maxSecret bounds a file with a password or a key, and maxPEM one of certificates.
	maxSecret = 64 << 10
	maxPEM    = 4 << 20
)

// openSecret opens a file that its owner alone may read: this process's user, or root.
func openSecret(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q: give the absolute path of a file that has it", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold the node up
	if err != nil {
		return nil, fmt.Errorf("opening a secret: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		owner, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.Mode().IsRegular():
			err = fmt.Errorf("%s is no file", path)
		case info.Mode().Perm()&0o077 != 0:
			err = fmt.Errorf("others can read or change %s: chmod 600 %s", path, path)
		case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
			err = fmt.Errorf("%s belongs to another user (%d): it must be the one that the coordinator runs as", path, owner.Uid)
		case info.Size() > maxSecret:
			err = fmt.Errorf("%s has more than %d bytes", path, maxSecret)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func readSecret(path string) (string, error) {
	f, err := openSecret(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	text := strings.TrimRight(string(raw), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

func checkSecret(path string) error {
	_, err := readSecret(path)
	return err
}

// client is the TLS configuration of a client; nil gives nil.
func (t *TLSConfig) client() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		raw, err := readBounded(t.CA)
		if err != nil {
			return nil, err
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", t.CA)
		}
	}
	if t.Certificate != "" {
		chain, err := readBounded(t.Certificate)
		if err != nil {
			return nil, err
		}
		key, err := readSecret(t.Key)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(chain, []byte(key))
		if err != nil { // it says what is wrong, and nothing of the key
			return nil, fmt.Errorf("reading certificate and key: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening certificates: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	if len(raw) > maxPEM {
		return nil, errors.New("reading certificates: " + path + " is too large")
	}
	return raw, nil
}
