package delivery

import "crypto/sha256"

// An OrderHash stands for an ordering key: 16 bytes of its SHA-256. Two keys of an
// account that collide would wait for each other, and nothing else.
type OrderHash [16]byte

// HashOrder is the hash of an ordering key.
func HashOrder(key string) OrderHash {
	sum := sha256.Sum256([]byte(key))
	return OrderHash(sum[:16])
}
