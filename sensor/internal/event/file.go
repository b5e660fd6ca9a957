package event

// FileOp is what was done to a file; the numbers are enum file_op's of the programs.
type FileOp uint8

// File operations.
const (
	FileWrite       FileOp = 1 // opened for writing, or written through a descriptor that was never told
	FileCreate      FileOp = 2 // made by an open
	FileTruncate    FileOp = 3
	FileRename      FileOp = 4
	FileLink        FileOp = 5
	FileSymlink     FileOp = 6
	FileUnlink      FileOp = 7
	FileMkdir       FileOp = 8
	FileRmdir       FileOp = 9
	FileMknod       FileOp = 10
	FileChmod       FileOp = 11
	FileChown       FileOp = 12
	FileUtimes      FileOp = 13
	FileSetxattr    FileOp = 14
	FileRemovexattr FileOp = 15
	// FileChange is a change that no system call of its own says the kind of.
	FileChange FileOp = 16
	// FileMapExec is a file mapped to be executed: a library, or what ld.so runs.
	FileMapExec FileOp = 17
)

var fileOps = [...]string{
	FileWrite: "write", FileCreate: "create", FileTruncate: "truncate", FileRename: "rename", FileLink: "link",
	FileSymlink: "symlink", FileUnlink: "unlink", FileMkdir: "mkdir", FileRmdir: "rmdir", FileMknod: "mknod",
	FileChmod: "chmod", FileChown: "chown", FileUtimes: "utimes", FileSetxattr: "setxattr", FileRemovexattr: "removexattr",
	FileChange: "change", FileMapExec: "map-exec",
}

// String is the operation's name in rules and records.
func (op FileOp) String() string {
	if int(op) < len(fileOps) && fileOps[op] != "" {
		return fileOps[op]
	}
	return "unknown"
}

// FileClass is why a file is watched.
type FileClass uint8

// File classes.
const (
	FileOther       FileClass = 0 // an operator's own path, or none
	FileCredential  FileClass = 1 // accounts, passwords, PAM, sudoers, ssh
	FilePersistence FileClass = 2 // what is started by itself: cron, units, init, the loader's lists, profiles
	FileBinary      FileClass = 3 // what packages install
	FileModule      FileClass = 4 // kernel modules
	FileWeb         FileClass = 5 // what a web server hands out
	FileHistory     FileClass = 6 // what a shell remembers
	FileLog         FileClass = 7
)

var fileClasses = [...]string{"other", "credential", "persistence", "binary", "module", "web", "history", "log"}

// String is the class's name in rules and records.
func (c FileClass) String() string {
	if int(c) < len(fileClasses) {
		return fileClasses[c]
	}
	return "other"
}

// File is something done to a file: on the watched set, or mapped to be executed.
// Which file it was is the kernel's word, never the caller's.
type File struct {
	Header
	Op    FileOp
	Class FileClass
	// Path names the file as the watched set does, whatever alias led to it; before a
	// rename, the old name. Without a leading slash its beginning is not known.
	Path []byte
	// Target is the new name of a rename or a link, or what a symbolic link says.
	Target    []byte
	Truncated bool   // Path's beginning is not known
	Device    uint32 // kernel dev_t
	Inode     uint64
	Directory uint64 // inode of the directory that it is in
	Mode      uint32 // i_mode, after it was done
	Owner     uint32
	NLink     uint32
	OpenFlags uint32 // of the open file
	Result    int32
	MountNS   uint32
	URing     bool // by io_uring
	Whole     bool // Path is what the process itself would call it
	MemoryFD  bool // FileMapExec: in memory only
	OpenPlace bool // FileMapExec: from a directory that everybody may write to
	InPath    bool // Path is the directory in which something changed
	// Watch and TargetWatch are the watched paths that Path and Target begin with, by
	// the Source's own numbers; 0: none.
	Watch, TargetWatch uint32
}
