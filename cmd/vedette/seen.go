package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vedette-edr/vedette/coordinator/client"
)

// The newest version of the intent that was verified here is kept in the user's cache,
// so that a node which goes back behind it is found out. It is no secret and no trust: a
// file that is lost costs the comparison, and nothing else.

// mostMark bounds the file, whoever wrote it.
const mostMark = 256

// intentFile is where a cluster's mark is kept; "" when nowhere.
func intentFile(cluster string) string {
	nodes := nodesFile(cluster)
	if nodes == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(nodes), "intent-"+cluster)
}

// seenIntent is the newest version that was verified here; none when that is not known.
func seenIntent(cluster string) client.Mark {
	f, err := os.Open(intentFile(cluster))
	if err != nil {
		return client.Mark{}
	}
	defer func() { _ = f.Close() }()
	raw := make([]byte, mostMark)
	n, _ := f.Read(raw)
	number, digest, _ := strings.Cut(strings.TrimSpace(string(raw[:n])), " ")
	version, err := strconv.ParseUint(number, 10, 64)
	sum, badSum := hex.DecodeString(digest)
	if err != nil || badSum != nil || len(sum) != 32 {
		return client.Mark{}
	}
	return client.Mark{Version: version, Digest: sum}
}

// markIntent keeps the newest version. One that cannot be kept is no error: nothing
// that is asked for depends on it.
func markIntent(cluster string, i *client.Intent) {
	path, seen := intentFile(cluster), seenIntent(cluster)
	if path == "" || i.Version() < seen.Version || (i.Version() == seen.Version && bytes.Equal(i.Digest(), seen.Digest)) {
		return
	}
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".intent-*")
	if err != nil {
		return
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after the rename
	_, err = fmt.Fprintf(f, "%d %s\n", i.Version(), hex.EncodeToString(i.Digest()))
	if f.Close() == nil && err == nil {
		_ = os.Rename(f.Name(), path)
	}
}
