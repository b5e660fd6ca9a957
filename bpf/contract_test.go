package bpf_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/vedette-edr/vedette/bpf"
)

// member is where a field must be for package decode.
type member struct {
	structure, field string
	offset, size     uint32 // bytes
}

var members = []member{
	{"event_head", "type", 0, 2}, {"event_head", "flags", 2, 2}, {"event_head", "size", 4, 4},
	{"event_head", "time", 8, 8}, {"event_head", "start", 16, 8}, {"event_head", "parent_start", 24, 8},
	{"event_head", "cgroup", 32, 8}, {"event_head", "key", 40, 8}, {"event_head", "pid", 48, 4},
	{"event_head", "tid", 52, 4}, {"event_head", "parent_pid", 56, 4}, {"event_head", "uid", 60, 4},
	{"event_head", "netns", 64, 4}, {"event_head", "lag", 68, 4}, {"event_head", "comm", 72, 16},
	{"event_exec", "device", 88, 8}, {"event_exec", "inode", 96, 8}, {"event_exec", "change", 104, 8},
	{"event_exec", "file_size", 112, 8}, {"event_exec", "nlink", 120, 4}, {"event_exec", "mount_ns", 124, 4},
	{"event_exec", "old_tid", 128, 4}, {"event_exec", "real_uid", 132, 4}, {"event_exec", "gid", 136, 4},
	{"event_exec", "login_uid", 140, 4}, {"event_exec", "session", 144, 4}, {"event_exec", "argv_bytes", 148, 4},
	{"event_exec", "cwd_inode", 152, 8}, {"event_exec", "cwd_device", 160, 4}, {"event_exec", "cwd_mount", 164, 4},
	{"event_exec", "argv_hash", 168, 8}, {"event_exec", "argv_len", 176, 2}, {"event_exec", "path_len", 178, 2},
	{"event_exec", "filename_len", 180, 2}, {"event_exec", "interp_len", 182, 2},
	{"event_fork", "child_start", 88, 8}, {"event_fork", "child_pid", 96, 4},
	{"event_exit", "status", 88, 4},
	{"event_process", "exec_key", 88, 8}, {"event_process", "exec_time", 96, 8},
	{"reader", "awake_until", 0, 8}, {"reader", "pid", 8, 4},
	{"known_count", "key", 0, 8}, {"known_count", "count", 8, 4}, {"known_count", "last", 12, 4},
	{"process_key", "start", 0, 8}, {"process_key", "pid", 8, 4},
	{"event_flow", "cookie", 88, 8}, {"event_flow", "opened", 96, 8}, {"event_flow", "bytes_in", 104, 8},
	{"event_flow", "bytes_out", 112, 8}, {"event_flow", "packets_in", 120, 8}, {"event_flow", "packets_out", 128, 8},
	{"event_flow", "family", 136, 2}, {"event_flow", "protocol", 138, 2}, {"event_flow", "local_port", 140, 2},
	{"event_flow", "remote_port", 142, 2}, {"event_flow", "local", 144, 16}, {"event_flow", "remote", 160, 16},
	{"event_dns", "family", 88, 2}, {"event_dns", "len", 90, 2}, {"event_dns", "local_port", 92, 2},
	{"event_dns", "remote_port", 94, 2}, {"event_dns", "local", 96, 16}, {"event_dns", "remote", 112, 16},
	{"event_segment", "cookie", 88, 8}, {"event_segment", "position", 96, 4}, {"event_segment", "family", 100, 2},
	{"event_segment", "len", 102, 2}, {"event_segment", "local_port", 104, 2}, {"event_segment", "remote_port", 106, 2},
	{"event_segment", "local", 112, 16}, {"event_segment", "remote", 128, 16},
	{"event_socket", "result", 88, 4}, {"event_socket", "protocol", 92, 4}, {"event_socket", "family", 96, 2}, {"event_socket", "type", 98, 2},
	{"event_file", "inode", 88, 8}, {"event_file", "directory", 96, 8}, {"event_file", "device", 104, 4},
	{"event_file", "watch", 108, 4}, {"event_file", "target_watch", 112, 4}, {"event_file", "mode", 116, 4},
	{"event_file", "open_flags", 120, 4}, {"event_file", "result", 124, 4}, {"event_file", "mount_ns", 128, 4},
	{"event_file", "pad2", 132, 4}, {"event_file", "owner", 136, 4}, {"event_file", "nlink", 140, 4},
	{"event_file", "op", 144, 2}, {"event_file", "class", 146, 2}, {"event_file", "path_len", 148, 2},
	{"event_file", "target_len", 150, 2},
	{"watch_key", "inode", 0, 8}, {"watch_key", "name", 8, 8}, {"watch_key", "device", 16, 4},
	{"watch", "id", 0, 4}, {"watch", "class", 4, 2}, {"watch", "flags", 6, 2}, {"watch", "ops", 8, 4}, {"watch", "critical", 12, 4},
	{"file_identity", "inode", 0, 8}, {"file_identity", "device", 8, 4}, {"file_identity", "mode", 12, 4},
	{"budget", "file_sample_shift", 0, 4},
	{"event_privilege", "target_start", 88, 8}, {"event_privilege", "arguments", 96, 8}, {"event_privilege", "object", 104, 8},
	{"event_privilege", "caps_before", 112, 8}, {"event_privilege", "caps", 120, 8}, {"event_privilege", "result", 128, 8},
	{"event_privilege", "op", 136, 4}, {"event_privilege", "number", 140, 4}, {"event_privilege", "command", 144, 4},
	{"event_privilege", "target_pid", 148, 4}, {"event_privilege", "uid_before", 152, 4}, {"event_privilege", "gid_before", 156, 4},
	{"event_privilege", "gid", 160, 4}, {"event_privilege", "real_uid", 164, 4}, {"event_privilege", "kind", 168, 4},
	{"event_privilege", "user_ns", 172, 4}, {"event_privilege", "name_len", 176, 2}, {"event_privilege", "claimed_len", 178, 2},
	{"udp_flow", "flow", 0, 176}, {"udp_flow", "last", 176, 8},
	{"task_record", "start", 0, 8}, {"task_record", "parent_start", 8, 8}, {"task_record", "cgroup", 16, 8},
	{"task_record", "pid", 24, 4}, {"task_record", "parent_pid", 28, 4}, {"task_record", "uid", 32, 4},
	{"task_record", "netns", 36, 4}, {"task_record", "in_scope", 40, 4}, {"task_record", "comm", 48, 16},
}

var sizes = map[string]uint32{
	"event_head": 88, "event_exec": 184, "event_fork": 104, "event_exit": 96, "event_process": 104,
	"event_flow": 176, "event_dns": 128, "event_privilege": 184, "udp_key": 32, "udp_flow": 184, "task_record": 64,
	"event_segment": 144, "event_socket": 104,
	"reader": 16, "known_count": 16, "known_set": 64, "process_key": 16,
	"event_file": 152, "watch_key": 24, "watch": 16, "file_identity": 16, "budget": 8,
}

// Those of the cut, which package kernel reads itself.
var cutMembers = []member{
	{"cut_state", "level", 0, 4}, {"cut_state", "sensor", 4, 4}, {"cut_state", "xdp_sockets", 8, 4},
	{"node", "address", 0, 16}, {"node", "port", 16, 2}, {"node", "family", 18, 2},
	{"prefix", "bits", 0, 4}, {"prefix", "address", 4, 16},
	{"dropped", "n", 0, 16},
	{"xdp_holder", "start", 0, 8}, {"xdp_holder", "inode", 8, 8}, {"xdp_holder", "pid", 16, 4}, {"xdp_holder", "device", 20, 4},
	{"xdp_holder", "queue", 24, 2}, {"xdp_holder", "flags", 26, 2}, {"xdp_holder", "comm", 32, 16},
}

var cutSizes = map[string]uint32{
	"cut_state": 16, "node": 24, "dropped": 16, "xdp_holder": 48,
	"prefix": 20, // bpf_lpm_trie_key has it so
}

func types(t *testing.T, load func() (*ebpf.CollectionSpec, error)) *btf.Spec {
	t.Helper()
	spec, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return spec.Types
}

// Ensure that what the programs write is where package decode reads it.
func TestLayout(t *testing.T) {
	checkLayout(t, types(t, bpf.LoadVedette), sizes, members)
	checkLayout(t, types(t, bpf.LoadCut), cutSizes, cutMembers)
}

func checkLayout(t *testing.T, spec *btf.Spec, sizes map[string]uint32, members []member) {
	t.Helper()
	seen := map[string]map[string]btf.Member{}
	for name, size := range sizes {
		var s *btf.Struct
		if err := spec.TypeByName(name, &s); err != nil {
			t.Fatalf("struct %s: %v", name, err)
		}
		if s.Size != size || s.Size%8 != 0 && name != "prefix" {
			t.Errorf("struct %s has %d bytes, want %d", name, s.Size, size)
		}
		seen[name] = map[string]btf.Member{}
		end := uint32(0)
		for _, m := range s.Members {
			if at := m.Offset.Bytes(); at != end {
				t.Errorf("%s.%s at %d: hidden padding after %d", name, m.Name, at, end)
			}
			n, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			end = m.Offset.Bytes() + uint32(n)
			seen[name][m.Name] = m
		}
		if end != size {
			t.Errorf("struct %s: hidden padding at its end", name)
		}
	}
	for _, want := range members {
		m, ok := seen[want.structure][want.field]
		if !ok {
			t.Errorf("%s has no %s", want.structure, want.field)
			continue
		}
		n, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if m.Offset.Bytes() != want.offset || uint32(n) != want.size {
			t.Errorf("%s.%s at %d of %d bytes, want %d, %d", want.structure, want.field, m.Offset.Bytes(), n, want.offset, want.size)
		}
	}
}

// Ensure that the numbers that both sides name do not move.
func TestEnums(t *testing.T) {
	checkEnums(t, types(t, bpf.LoadCut), map[string][]string{
		"cut_level":     {"CUT_NONE", "CUT_ALL", "CUT_EGRESS"},
		"way":           {"OUT", "IN", "WAYS"},
		"xdp_flags":     {1: "XDP_SENDS", 2: "XDP_ZEROCOPY", 4: "XDP_MAPPED"},
		"taken_feature": {1: "TAKEN_LRO", 2: "TAKEN_GRO_HW"},
	})
	checkEnums(t, types(t, bpf.LoadVedette), map[string][]string{
		"event_type": {1: "EVENT_EXEC", 2: "EVENT_FORK", 3: "EVENT_EXIT", 4: "EVENT_FLOW_OPEN", 5: "EVENT_FLOW_CLOSE", 6: "EVENT_DNS",
			7: "EVENT_PROCESS", 8: "EVENT_FILE", 9: "EVENT_PRIVILEGE", 10: "EVENT_DNS_SEGMENT", 11: "EVENT_SOCKET"},
		"loss": {"LOSS_EXEC_RING_FULL", "LOSS_FORK_RING_FULL", "LOSS_EXIT_RING_FULL", "LOSS_FLOW_RING_FULL", "LOSS_DNS_RING_FULL",
			"LOSS_ARGV_UNREADABLE", "LOSS_OWNER_STORAGE", "LOSS_UDP_TABLE_FULL", "LOSS_UDP_UNPARSED", "LOSS_DNS_UNREADABLE",
			"LOSS_PATH_UNREADABLE", "LOSS_PROCESS_RING_FULL", "LOSS_PROCESS_TABLE_FULL",
			"LOSS_SEGMENT_RING_FULL", "LOSS_SEGMENT_UNREADABLE", "LOSS_SOCKET_RING_FULL", "LOSS_ACCEPT_TABLE_FULL",
			"LOSS_FILE_RING_FULL", "LOSS_FILE_SAMPLED", "LOSS_FILE_UNMATCHED",
			"LOSS_PRIVILEGE_RING_FULL", "LOSS_PRIVILEGE_SHARE", "LOSS_PRIVILEGE_TEXT", "LOSS_COUNT"},
		"counter":       {"COUNTER_TOTAL", "COUNTER_SUPPRESSED", "COUNTER_UNATTRIBUTED", "COUNTER_COUNT"},
		"exec_flags":    {1: "EXEC_PATH_TRUNCATED", 2: "EXEC_ARGV_TRUNCATED", 4: "EXEC_MEMFD", 8: "EXEC_SETID"},
		"flow_flags":    {1: "FLOW_INBOUND", 2: "FLOW_FAILED", 4: "FLOW_SEEDED", 8: "FLOW_KNOWN", 16: "FLOW_TAINTED", 32: "FLOW_ACCEPTED"},
		"dns_flags":     {1: "DNS_INGRESS", 2: "DNS_CUT", 4: "DNS_KNOWN"},
		"segment_flags": {1: "SEGMENT_INGRESS", 2: "SEGMENT_LAST"},
		"socket_flags":  {1: "SOCKET_ASKED"},
		"file_op": {1: "FILE_WRITE", 2: "FILE_CREATE", 3: "FILE_TRUNCATE", 4: "FILE_RENAME", 5: "FILE_LINK", 6: "FILE_SYMLINK",
			7: "FILE_UNLINK", 8: "FILE_MKDIR", 9: "FILE_RMDIR", 10: "FILE_MKNOD", 11: "FILE_CHMOD", 12: "FILE_CHOWN", 13: "FILE_UTIMES",
			14: "FILE_SETXATTR", 15: "FILE_REMOVEXATTR", 16: "FILE_CHANGE", 17: "FILE_MAP_EXEC"},
		"file_flags": {1: "FILE_PATH_TRUNCATED", 2: "FILE_URING", 4: "FILE_DIRECTORY", 8: "FILE_MEMFD", 16: "FILE_OPEN_PLACE",
			32: "FILE_WHOLE", 64: "FILE_TEXT_TARGET"},
		"watch_flags": {1: "WATCH_TREE", 2: "WATCH_SELF", 4: "WATCH_NAMES", 8: "WATCH_STARS", 16: "WATCH_REFRESH"},
		"privilege_op": {1: "PRIVILEGE_SETUID", 2: "PRIVILEGE_CAPABILITY", 3: "PRIVILEGE_USERNS", 4: "PRIVILEGE_UNSHARE", 5: "PRIVILEGE_SETNS",
			6: "PRIVILEGE_PIVOT_ROOT", 7: "PRIVILEGE_MOUNT", 8: "PRIVILEGE_PTRACE", 9: "PRIVILEGE_VM_WRITE", 10: "PRIVILEGE_PROC_MEM",
			11: "PRIVILEGE_MEMFD", 12: "PRIVILEGE_EXEC_ANON", 13: "PRIVILEGE_MODULE", 14: "PRIVILEGE_BPF", 15: "PRIVILEGE_SIGNAL",
			16: "PRIVILEGE_CGROUP_MOVE", 17: "PRIVILEGE_CGROUP_FREEZE", 18: "PRIVILEGE_URING", 19: "PRIVILEGE_PIDFD_GETFD"},
		"privilege_flags": {1: "PRIVILEGE_COMPAT", 2: "PRIVILEGE_GAINED", 4: "PRIVILEGE_UNEXPLAINED", 8: "PRIVILEGE_OURS",
			16: "PRIVILEGE_CLAIMED_OBJECT", 32: "PRIVILEGE_WRITABLE", 64: "PRIVILEGE_MODIFIED", 128: "PRIVILEGE_MEMORY_FILE",
			256: "PRIVILEGE_FROM_KERNEL", 512: "PRIVILEGE_NAME_PATH", 1024: "PRIVILEGE_HOST_MOUNTS", 2048: "PRIVILEGE_TEXT_CUT",
			4096: "PRIVILEGE_NO_CALL", 8192: "PRIVILEGE_NO_BEFORE", 16384: "PRIVILEGE_NAME_CUT"},
		"bpf_object": {1: "BPF_OBJECT_MAP", 2: "BPF_OBJECT_PROGRAM", 3: "BPF_OBJECT_LINK", 4: "BPF_OBJECT_TYPES"},
	})
}

func checkEnums(t *testing.T, spec *btf.Spec, enums map[string][]string) {
	t.Helper()
	for name, want := range enums {
		var e *btf.Enum
		if err := spec.TypeByName(name, &e); err != nil {
			t.Fatalf("enum %s: %v", name, err)
		}
		for _, v := range e.Values {
			if v.Value >= uint64(len(want)) || want[v.Value] != v.Name {
				t.Errorf("enum %s: %s is %d", name, v.Name, v.Value)
			}
		}
	}
}

// objects are what the sources make, by source.
var objects = map[string]struct{ identifier, object string }{
	"src/vedette.bpf.c": {"Vedette", "vedette_bpfel.o"},
	"src/cut.bpf.c":     {"Cut", "cut_bpfel.o"},
}

// Ensure that the objects tell nothing of the machine that built them.
func TestObjectHasNoPaths(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		object, err := os.ReadFile(o.object)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{here, filepath.Dir(here), "/root", "/home", "/usr/", "/tmp"} {
			if strings.Contains(string(object), path) {
				t.Errorf("%s holds %q", o.object, path)
			}
		}
	}
}

// Ensure that the committed objects are what the sources make.
func TestObjectIsCurrent(t *testing.T) {
	clang, err := exec.LookPath("clang-19")
	if err != nil {
		t.Skip("SKIP: needs clang-19")
	}
	strip, err := exec.LookPath("llvm-strip-19")
	if err != nil {
		t.Skip("SKIP: needs llvm-strip-19")
	}
	for source, o := range objects {
		committed, err := os.ReadFile(o.object)
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		build := exec.Command("go", "run", "github.com/cilium/ebpf/cmd/bpf2go", "-cc", clang, "-strip", strip, "-target", "bpfel",
			"-go-package", "bpf", "-no-global-types", "-output-dir", out,
			"-cflags", "-O2 -g -mcpu=v3 -Wall -Wextra -Werror", o.identifier, source, "--", "-Iinclude")
		if text, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building: %v: %s", err, text)
		}
		fresh, err := os.ReadFile(filepath.Join(out, o.object))
		if err != nil {
			t.Fatal(err)
		}
		if string(fresh) != string(committed) {
			t.Errorf("%s is not what %s makes: run make generate", o.object, source)
		}
	}
}
