package event

// Operation is what a Privilege event is about; the names are part of the rules'
// vocabulary and only grow in number.
type Operation string

// Operations.
const (
	OpSetUID       Operation = "setuid"            // effective ids changed, or would have
	OpCapability   Operation = "capability"        // capset(2) that added
	OpUserNS       Operation = "userns"            // a new user namespace, whatever else is new
	OpUnshare      Operation = "unshare"           // other new namespaces
	OpSetNS        Operation = "setns"             // a namespace joined
	OpPivotRoot    Operation = "pivot-root"        //
	OpMount        Operation = "mount"             // Call tells mount, move_mount, fsmount, umount2
	OpPtrace       Operation = "ptrace"            // Command: the request, none that only looks
	OpVMWrite      Operation = "process-vm-writev" // into another process
	OpProcMem      Operation = "proc-mem"          // another's memory opened for writing
	OpMemFD        Operation = "memfd"             //
	OpExecAnon     Operation = "exec-anon"         // executable memory that is no file's; the first time in an image
	OpModule       Operation = "module-load"       // init_module, finit_module, delete_module
	OpBPF          Operation = "bpf"               // Command: bpf(2)'s
	OpSignal       Operation = "signal"            // to the sensor; Command: the signal
	OpCgroupMove   Operation = "cgroup-move"       // of the sensor
	OpCgroupFreeze Operation = "cgroup-freeze"     // of the sensor's cgroup
	OpURing        Operation = "io-uring-setup"    // io_uring_setup, io_uring_register
	OpPidFDGetFD   Operation = "pidfd-getfd"       // of one of the sensor's descriptors
)

// ObjectKind is a sort of thing that bpf(2) makes.
type ObjectKind uint32

// Kinds of object.
const (
	ObjectNone ObjectKind = iota
	ObjectMap
	ObjectProgram
	ObjectLink
	ObjectTypes
)

// Privilege is one thing that changes what somebody may do, or reaches into somebody
// else: told after the kernel decided, refusals included.
type Privilege struct {
	Header
	Operation Operation
	// Call is the system call's name; empty when it was seen otherwise.
	Call   string
	Compat bool // the call came by int 0x80
	// Result is the call's: negative, an errno.
	Result int64
	// Target is the process that it was done to; zero: none, or not to be found.
	Target ProcessKey
	// Arguments are the call's flags: mount's, clone's, the protection of memory.
	Arguments uint64
	// Command is the operation's own: the ptrace request, bpf(2)'s command, the signal,
	// memfd_create's flags, io_uring_register's operation.
	Command uint32
	// Object is the id of Kind; a namespace's inode, a cgroup's id, a ring's flags.
	Object uint64
	Kind   ObjectKind
	// UIDBefore, GIDBefore and CapsBefore are the effective ones that the process had
	// when its credentials were last looked at; UID of Header, GID and Caps are now's.
	UIDBefore, RealUID uint32
	GIDBefore, GID     uint32
	CapsBefore, Caps   uint64
	UserNS             uint32
	// Name is the kernel's: a memfd's, a module's or its file's, a cgroup's path, the
	// path that was mounted on.
	Name []byte
	// Claimed is what the caller's memory said after the call. It may have said
	// something else when the kernel read it: evidence for people, no fact.
	Claimed [][]byte

	Gained        bool // became root, or has more effective capabilities
	Unexplained   bool // gained without having had anything that allows it
	Ours          bool // done to one of the sensor's own objects, or to itself
	ClaimedObject bool // Object is from the caller's memory
	Writable      bool // executable memory that can be written to
	Modified      bool // executable memory of a file that was written to
	MemoryFile    bool // executable memory of a memfd
	FromKernel    bool // a signal of the kernel's own
	HostMounts    bool // in the mount namespace of the machine's first process
	TextCut       bool // a text is longer, or could not be read
	NoBefore      bool // what it was before is not known
}
