package outcome

// PlanFile is where the guest finds its Plan.
const PlanFile = "/vmtest.json"

// ReportPort is the guest's second serial port, which the host reads: the kernel writes to
// the first whenever it likes, also into the middle of a line.
const ReportPort = "/dev/ttyS1"

// Plan is what the host wants of the guest.
type Plan struct {
	Modules []string `json:"modules"` // paths of kernel modules in the order of loading
	Slow    int      `json:"slow"`    // the emulation's slowness, for the tests' deadlines
	Suites  []Suite  `json:"suites"`
	// Worker, where there is one, is all that the guest does: it has the report's port.
	Worker *Worker `json:"worker,omitempty"`
}

// Worker is a program that has the booted guest for itself.
type Worker struct {
	Program string   `json:"program"`
	Env     []string `json:"env"`    // NAME=value, beside the guest's own
	Disk    string   `json:"disk"`   // device with an ext4 file system that outlives the guest
	Folder  string   `json:"folder"` // where it is mounted
}

// Suite is a test program.
type Suite struct {
	Package string   `json:"package"` // relative to the module, for example sensor/internal/kernel
	Program string   `json:"program"`
	Dir     string   `json:"dir"` // its working directory, where testdata is
	Flags   []string `json:"flags"`
	Env     []string `json:"env"`     // NAME=value, beside the guest's own
	Seconds int      `json:"seconds"` // the longest that it may take
}
