package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	metaName    = "position"
	metaVersion = 1
	maxMeta     = 1 << 20
)

// meta is the position file: a CRC line and JSON. It is replaced as a whole and
// never synced but at the start: after a crash of the kernel its content does
// not matter, because every kernel boot begins a new stream.
type meta struct {
	Version    int          `json:"version"`
	KernelBoot string       `json:"kernel_boot"`
	Current    uint32       `json:"current"` // ordinal of the stream that is appended to
	Streams    []streamMeta `json:"streams"`
	// Damaged are the indices already counted as lost, by chain.
	Damaged map[string][]span `json:"damaged,omitempty"`
}

type streamMeta struct {
	Ordinal uint32   `json:"ordinal"`
	ID      [16]byte `json:"id"`
	Acked   uint64   `json:"acked"`
	Last    uint64   `json:"last"`
	// Next are the chains' next indices: records below them were written.
	Next [classes]uint64 `json:"next"`
}

var (
	errNoMeta      = errors.New("position file is missing")
	errDamagedMeta = errors.New("position file is damaged")
)

func readMeta(dir string) (meta, error) {
	data, err := os.ReadFile(filepath.Join(dir, metaName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return meta{}, errNoMeta
	case err != nil:
		return meta{}, fmt.Errorf("%w: %w", errDamagedMeta, err)
	case len(data) > maxMeta:
		return meta{}, errDamagedMeta
	}
	return decodeMeta(data)
}

func decodeMeta(data []byte) (meta, error) {
	line, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok || string(line) != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return meta{}, errDamagedMeta
	}
	var m meta
	if err := json.Unmarshal(body, &m); err != nil || m.Version != metaVersion {
		return meta{}, errDamagedMeta
	}
	return m, nil
}

func encodeMeta(m meta) ([]byte, error) {
	m.Version = metaVersion
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%08x\n", crc32.Checksum(body, castagnoli)), body...), nil
}

func (s *Spool) writeMeta(sync bool) error {
	m := meta{KernelBoot: s.cfg.KernelBoot, Current: s.current.ordinal, Damaged: s.counted}
	if s.failure != nil {
		m.Current = 0 // memory has records of it that a restart will not know
	}
	for _, st := range s.streams {
		sm := streamMeta{Ordinal: st.ordinal, ID: st.id, Acked: st.acked, Last: st.last}
		for c := range st.chains {
			sm.Next[c] = st.chains[c].nextIndex
		}
		m.Streams = append(m.Streams, sm)
	}
	data, err := encodeMeta(m)
	if err != nil {
		return fmt.Errorf("writing position: %w", err)
	}
	path := filepath.Join(s.dir, metaName)
	f, err := s.cfg.Create(path + ".new")
	if err != nil {
		return fmt.Errorf("writing position: %w", err)
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("writing position: %w", err)
	}
	return nil
}
