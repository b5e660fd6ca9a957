package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// A context file often knows one node alone. What the cluster says of the others
// is kept in the user's cache, so that the next command goes on when that node is
// dead. No trust is kept there: whoever answers still has to prove that it is a
// node of the context's cluster before it learns anything of the operator.

// mostNodes and mostCache bound a cache file, whoever wrote it.
const (
	mostNodes = 16
	mostCache = 8 << 10
)

// nodesFile is where a cluster's addresses are kept; "" when nowhere.
func nodesFile(cluster string) string {
	dir, err := os.UserCacheDir()
	if err != nil || cluster == "" || strings.Trim(cluster, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return ""
	}
	return filepath.Join(dir, "vedette", "nodes-"+cluster)
}

// remembered adds to a context's nodes those that the cluster was last seen to have.
func remembered(cluster string, nodes []string) []string {
	path := nodesFile(cluster)
	if path == "" {
		return nodes
	}
	f, err := os.Open(path)
	if err != nil {
		return nodes
	}
	defer func() { _ = f.Close() }()
	all := slices.Clone(nodes)
	for lines := bufio.NewScanner(io.LimitReader(f, mostCache)); len(all) < mostNodes && lines.Scan(); {
		if host, port, err := net.SplitHostPort(lines.Text()); err == nil && host != "" && port != "" && !slices.Contains(all, lines.Text()) {
			all = append(all, lines.Text())
		}
	}
	return all
}

// remember keeps the addresses of the cluster's nodes and says whether it could.
func remember(cluster string, members []*operatorv1.Member) bool {
	path := nodesFile(cluster)
	var text strings.Builder
	for _, m := range members[:min(len(members), mostNodes)] {
		if m.GetOperatorAddress() != "" {
			text.WriteString(m.GetOperatorAddress() + "\n")
		}
	}
	if path == "" || text.Len() == 0 {
		return false
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == text.String() {
		return true
	}
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return false
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".nodes-*")
	if err != nil {
		return false
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already after the rename
	_, err = f.WriteString(text.String())
	return f.Close() == nil && err == nil && os.Rename(f.Name(), path) == nil
}
