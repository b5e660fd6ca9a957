package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wanted are the modules that a Debian system would load by itself when the tests
// ask for a device, a table or a queueing discipline; the guest has no modprobe.
// A module that is built into a series is not among its files, and needs nothing.
var wanted = []string{
	"nf_tables", "nfnetlink", "nft_compat", "nft_ct", "nft_log", "nft_limit", "nft_objref", "nft_reject_inet", "nft_fib_inet", "nft_fwd_netdev",
	"veth", "macvlan", "dummy", "bridge", "8021q", "tun", "ipvlan",
	"bonding", "wireguard", "vxlan", "ipip", "ip_gre",
	"sch_ingress", "sch_netem", "sch_fq", "sch_fq_codel", "sch_prio", "cls_u32", "cls_bpf", "cls_matchall", "act_mirred", "act_gact",
	"overlay", "loop", "sctp", "mptcp_diag", "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "af_packet_diag",
}

// modules unpacks the wanted modules and what they depend on below dir and returns
// them in the order of loading. The package holds no modules.dep: that is made when
// it is installed, from what each module says of itself.
func (k kernel) modules(ctx context.Context, dir string, wanted []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.moduleDir, func(at string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(at), ".ko"); ok {
			files[moduleName(name)] = at
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the kernel's modules: %w", err)
	}
	var order []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		source, ok := files[name]
		if done[name] || !ok {
			return nil // built in
		}
		done[name] = true
		at := filepath.Join(dir, name+".ko")
		if err := unpackModule(ctx, source, at); err != nil {
			return err
		}
		depends, err := dependencies(at)
		if err != nil {
			return err
		}
		for _, other := range depends {
			if err := add(moduleName(other)); err != nil {
				return err
			}
		}
		order = append(order, at)
		return nil
	}
	for _, name := range wanted {
		if err := add(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName writes a name as the kernel does, whatever the file's is.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// unpackModule uses the programs that dpkg needs itself.
func unpackModule(ctx context.Context, source, at string) error {
	var text []byte
	var err error
	switch filepath.Ext(source) {
	case ".xz":
		text, err = exec.CommandContext(ctx, "xz", "-dc", source).Output()
	case ".zst":
		text, err = exec.CommandContext(ctx, "zstd", "-dcq", source).Output()
	default:
		text, err = os.ReadFile(source)
	}
	if err == nil {
		err = os.WriteFile(at, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", source, err)
	}
	return nil
}

// dependencies is what the module's .modinfo says: "depends=a,b" among strings that
// end with zero.
func dependencies(at string) ([]string, error) {
	file, err := elf.Open(at)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", at, err)
	}
	defer func() { _ = file.Close() }()
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("reading %s: no .modinfo", at)
	}
	text, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", at, err)
	}
	var names []string
	for line := range bytes.SplitSeq(text, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			names = append(names, strings.Split(string(list), ",")...)
		}
	}
	return names, nil
}
