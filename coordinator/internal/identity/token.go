package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"
)

// HashSecret is what the store keeps of a join token's secret. The secret is
// 128 random bits, so a plain hash withstands guessing; no slow one is needed.
func HashSecret(secret []byte) [32]byte { return sha256.Sum256(secret) }

// SecretMatches compares in constant time.
func SecretMatches(secret, hash []byte) bool {
	sum := HashSecret(secret)
	return subtle.ConstantTimeCompare(sum[:], hash) == 1
}

// CheckTokenLifetime bounds how long a token may be good for; zero means the longest.
func CheckTokenLifetime(ttl time.Duration) (time.Duration, error) {
	switch {
	case ttl == 0:
		return TokenLifetime, nil
	case ttl < time.Minute || ttl > TokenLifetime:
		return 0, fmt.Errorf("a join token may be good for 1m to 1h, not %s", ttl)
	}
	return ttl, nil
}
