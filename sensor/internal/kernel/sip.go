package kernel

import (
	"encoding/binary"
	"math/bits"
)

// sip is SipHash-1-3 over words, as bpf/include/sip.h has it: user space must make the
// hashes that the programs look up.
type sip struct{ v0, v1, v2, v3, words uint64 }

func newSip(key [2]uint64) *sip {
	return &sip{
		v0: key[0] ^ 0x736f6d6570736575, v1: key[1] ^ 0x646f72616e646f6d,
		v2: key[0] ^ 0x6c7967656e657261, v3: key[1] ^ 0x7465646279746573,
	}
}

func (s *sip) round() {
	s.v0 += s.v1
	s.v2 += s.v3
	s.v1 = bits.RotateLeft64(s.v1, 13) ^ s.v0
	s.v3 = bits.RotateLeft64(s.v3, 16) ^ s.v2
	s.v0 = bits.RotateLeft64(s.v0, 32)
	s.v2 += s.v1
	s.v0 += s.v3
	s.v1 = bits.RotateLeft64(s.v1, 17) ^ s.v2
	s.v3 = bits.RotateLeft64(s.v3, 21) ^ s.v0
	s.v2 = bits.RotateLeft64(s.v2, 32)
}

func (s *sip) word(m uint64) {
	s.v3 ^= m
	s.round()
	s.v0 ^= m
	s.words++
}

func (s *sip) end(extra uint64) uint64 {
	last := s.words<<56 | extra&(1<<56-1)
	s.v3 ^= last
	s.round()
	s.v0 ^= last
	s.v2 ^= 0xff
	s.round()
	s.round()
	s.round()
	if hash := s.v0 ^ s.v1 ^ s.v2 ^ s.v3; hash != 0 {
		return hash
	}
	return 1
}

// hashName is hash_name of bpf/src/file.bpf.c.
func hashName(key [2]uint64, name string, where uint64) uint64 {
	s := newSip(key)
	s.word(where)
	for at := 0; at < len(name); at += 8 {
		var word [8]byte
		copy(word[:], name[at:])
		s.word(binary.LittleEndian.Uint64(word[:]))
	}
	return s.end(uint64(len(name)))
}
