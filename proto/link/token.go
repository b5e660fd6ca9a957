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
	tokenPrefix   = "vdt2"
	tokenOlder    = "vdt1" // without the operators' authority
	tokenIDBytes  = 7      // 12 base32 characters
	tokenIDLength = 12
)

// lowercase, without padding: a token is typed, read aloud and put in URLs
var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is a join token: single use, short-lived, and the pins of the two
// authorities that whoever joins has to meet: the cluster's, which says who is a
// node, and the operators', which says whose grants are honoured.
type Token struct {
	ID        string   // names the token in lists and in the audit; not secret
	Secret    [16]byte // what redeems it
	CA        [32]byte // Pin of the cluster's CA
	Operators [32]byte // Pin of the operators' authority
}

// NewToken makes a random token for the cluster whose authorities have these pins.
func NewToken(ca, operators [32]byte) Token {
	var id [tokenIDBytes]byte
	t := Token{CA: ca, Operators: operators}
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	_, _ = rand.Read(t.Secret[:])
	t.ID = tokenEncoding.EncodeToString(id[:])
	return t
}

// String is the whole token, secret included: for the one who will use it, never for a log.
func (t Token) String() string {
	return strings.Join([]string{tokenPrefix, t.ID, tokenEncoding.EncodeToString(t.Secret[:]),
		base64.RawURLEncoding.EncodeToString(t.CA[:]), base64.RawURLEncoding.EncodeToString(t.Operators[:])}, ".")
}

// IsTokenShape says whether an id and a secret could be a token's.
func IsTokenShape(id string, secret []byte) bool {
	raw, err := tokenEncoding.DecodeString(id)
	return err == nil && len(id) == tokenIDLength && len(raw) == tokenIDBytes && len(secret) == len(Token{}.Secret)
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
	if parts[0] == tokenOlder {
		return Token{}, fmt.Errorf("%w: it is of an older release (%s) and does not name the operators' authority: make a new one with 'vedette token create'", ErrBadToken, tokenOlder)
	}
	if len(parts) != 5 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("%w: it must be the whole line %s.ID.SECRET.CA.OPERATORS that 'vedette token create' printed", ErrBadToken, tokenPrefix)
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
	for _, pin := range []struct {
		into *[32]byte
		text string
		what string
	}{{&t.CA, parts[3], "fourth part, the cluster's CA"}, {&t.Operators, parts[4], "last part, the operators' authority"}} {
		sum, err := base64.RawURLEncoding.Strict().DecodeString(pin.text)
		if err != nil || len(sum) != len(pin.into) {
			return Token{}, fmt.Errorf("%w: its %s, is damaged", ErrBadToken, pin.what)
		}
		copy(pin.into[:], sum)
	}
	return t, nil
}
