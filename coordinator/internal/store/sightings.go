package store

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// What a host shows is kept in shelves: rows of about perShelf sightings, in the order of
// their keys. A shelf's number is the host's and the first bits of its keys; how many bits
// follows from how many behaviours the host has. So the rows are a function of what they
// hold, whatever the order in which it came: a node that made them from an older
// schema has the same ones.
//
// A sighting is a byte (the key's length, and 128 when it is known), the key, and count, first_seen and
// last_seen, 8 bytes each, big-endian: of a fixed length, so that counting changes a shelf in place.
const (
	perShelf   = 64
	shelfBits  = 16 // of a row's number
	maxShelf   = 4 * perShelf
	maxLevel   = 11 // bits of a key at most: MaxBehaviours fits
	knownBit   = 0x80
	maxKey     = 0x7f
	countsSize = 3 * 8
)

var errShelf = errors.New("a row of sightings is damaged")

// level is how many bits of a key tell the shelf of a host with so many behaviours.
func level(behaviours int) int {
	for bits := range maxLevel {
		if behaviours <= perShelf<<bits {
			return bits
		}
	}
	return maxLevel
}

// shelfOf is the number of a key's shelf among its host's.
func shelfOf(key []byte, bits int) int {
	var first [2]byte
	copy(first[:], key)
	return int(binary.BigEndian.Uint16(first[:])) >> (shelfBits - bits)
}

func shelfRow(host int64, shelf int) int64 { return host<<shelfBits | int64(shelf) }

// sighting is one entry of a shelf, or nil at its end: a part of the body, and what is behind it.
type sighting []byte

func next(body []byte) (s sighting, rest []byte, err error) {
	if len(body) == 0 {
		return nil, nil, nil
	}
	size := 1 + int(body[0]&^knownBit) + countsSize
	if size > len(body) {
		return nil, nil, errShelf
	}
	return sighting(body[:size:size]), body[size:], nil
}

func newSighting(to, key []byte, first int64) []byte {
	to = append(append(to, byte(len(key))), key...)
	to = binary.BigEndian.AppendUint64(to, 0)
	to = binary.BigEndian.AppendUint64(to, uint64(first))
	return binary.BigEndian.AppendUint64(to, uint64(first))
}

func (s sighting) key() []byte    { return s[1 : len(s)-countsSize] }
func (s sighting) known() bool    { return s[0]&knownBit != 0 }
func (s sighting) counts() []byte { return s[len(s)-countsSize:] }
func (s sighting) count() int64   { return int64(binary.BigEndian.Uint64(s.counts())) }
func (s sighting) first() int64   { return int64(binary.BigEndian.Uint64(s.counts()[8:])) }
func (s sighting) last() int64    { return int64(binary.BigEndian.Uint64(s.counts()[16:])) }

// add counts, in place.
func (s sighting) add(count, last int64, known bool) {
	binary.BigEndian.PutUint64(s.counts(), uint64(min(s.count()+count, maxCount)))
	binary.BigEndian.PutUint64(s.counts()[16:], uint64(max(s.last(), last)))
	s[0] &^= knownBit
	if known {
		s[0] |= knownBit
	}
}

// merge puts two bodies with different keys into one, in the order of the keys.
func merge(to, a, b []byte) ([]byte, error) {
	x, a, err := next(a)
	if err != nil {
		return nil, err
	}
	y, b, err := next(b)
	for err == nil && (x != nil || y != nil) {
		if y == nil || x != nil && bytes.Compare(x.key(), y.key()) < 0 {
			to = append(to, x...)
			x, a, err = next(a)
		} else {
			to = append(to, y...)
			y, b, err = next(b)
		}
	}
	return to, err
}

// shelve cuts a body, which holds keys in their order, at the ends of shelves.
func shelve(body []byte, bits int, each func(shelf int, part []byte) error) error {
	for len(body) > 0 {
		first, rest, err := next(body)
		if err != nil {
			return err
		}
		shelf := shelfOf(first.key(), bits)
		for len(rest) > 0 {
			s, after, err := next(rest)
			if err != nil {
				return err
			}
			if shelfOf(s.key(), bits) != shelf {
				break
			}
			rest = after
		}
		if err := each(shelf, body[:len(body)-len(rest)]); err != nil {
			return err
		}
		body = rest
	}
	return nil
}

// asBytes does not copy: it is valid as long as the row is.
func asBytes(v val) []byte {
	b, _ := v.([]byte)
	return b
}
