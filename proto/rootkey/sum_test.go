package rootkey_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
)

// summed is a block with the sum that makes it whole.
func summed(block *pem.Block) []byte {
	delete(block.Headers, "Sum")
	sum := sha256.Sum256(pem.EncodeToMemory(block))
	block.Headers["Sum"] = hex.EncodeToString(sum[:])
	return pem.EncodeToMemory(block)
}
