package link

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
)

const (
	tokenPrefix   = "vdt1"
	tokenIDBytes  = 7 // 12 base32 characters
	tokenIDLength = 12
)

// lowercase, without padding: a token is typed, read aloud and put in URLs
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is a join token: single use, short-lived, and the pin of the CA that
// whoever joins has to meet.
type Token struct {
	ID     string   // names the token in lists and in the audit; not secret
	Secret [16]byte // what redeems it
	CA     [32]byte // Pin of the cluster's CA
}

// NewToken makes a random token for the cluster whose CA has this pin.
func NewToken(ca [32]byte) Token {
	var id [tokenIDBytes]byte
	t := Token{CA: ca}
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	_, _ = rand.Read(t.Secret[:])
	t.ID = tokenEncoding.EncodeToString(id[:])
	return t
}

// String is the whole token, secret included: for the one who will use it, never for a log.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.ID, tokenEncoding.EncodeToString(t.Secret[:]), base64.RawURLEncoding.EncodeToString(t.CA[:])}, ".")
}

// LogValue implements slog.LogValuer: a logged token is only its id.
func (t Token) LogValue() slog.Value { return slog.StringValue(tokenPrefix + "." + t.ID + ".REDACTED") }

// SecretEqual compares in constant time.
func (t Token) SecretEqual(secret []byte) bool {
	return subtle.ConstantTimeCompare(t.Secret[:], secret) == 1
}

// ParseToken reads what String wrote. Errors wrap ErrBadToken, say which part is
// wrong and never repeat the token.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("%w: it must be the whole line %s.ID.SECRET.CA that 'vedette token create' printed", ErrBadToken, tokenPrefix)
	}
	t := Token{ID: strings.ToLower(parts[1])}
	if id, err := tokenEncoding.DecodeString(t.ID); err != nil || len(t.ID) != tokenIDLength || len(id) != tokenIDBytes {
		return Token{}, fmt.Errorf("%w: its second part is not %d characters of base32", ErrBadToken, tokenIDLength)
	}
	secret, err := tokenEncoding.DecodeString(strings.ToLower(parts[2]))
	if err != nil || len(secret) != len(t.Secret) {
		return Token{}, fmt.Errorf("%w: its third part, the secret, is damaged", ErrBadToken)
	}
	copy(t.Secret[:], secret)
	ca, err := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || len(ca) != len(t.CA) {
		return Token{}, fmt.Errorf("%w: its last part, the CA's fingerprint, is damaged", ErrBadToken)
	}
	copy(t.CA[:], ca)
	return t, nil
}
