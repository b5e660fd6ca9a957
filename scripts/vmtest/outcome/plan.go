package outcome

// PlanFile is where the guest finds its Plan.
const PlanFile = "/vmtest.json"

// Plan is what the host wants of the guest.
type Plan struct {
	Modules []string `json:"modules"` // paths of kernel modules in the order of loading
	Slow    int      `json:"slow"`    // the emulation's slowness, for the tests' deadlines
	Suites  []Suite  `json:"suites"`
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
