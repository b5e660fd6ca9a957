package kernel

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/instructions.json anew")

// BenchmarkExec prints the kernel's run time of the programs per exec.
func BenchmarkExec(b *testing.B) {
	needKernel(b)
	cost, err := MeasureExec(b.Context(), max(b.N, 200))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cost.Exec.Nanoseconds()), "kernel-ns/exec")
	b.ReportMetric(float64(cost.Whole.Nanoseconds()), "kernel-ns/fork+exec+exit")
}

func TestMeasureExec(t *testing.T) {
	needKernel(t)
	cost, err := MeasureExec(t.Context(), 50)
	if err != nil {
		t.Fatal(err)
	}
	if cost.Measured < 50 || cost.Exec <= 0 || cost.Whole < cost.Exec {
		t.Errorf("cost %+v", cost)
	}
	t.Logf("%+v", cost)
}

// golden is what the verifier of one kernel said.
type golden struct {
	Kernel       string            `json:"kernel"`
	Instructions map[string]uint32 `json:"verified_instructions"`
}

// Ensure that no program grows by more than 5 % unseen. Another kernel's verifier
// counts otherwise, so only the recorded one is compared.
func TestVerifiedInstructions(t *testing.T) {
	needKernel(t)
	const path = "testdata/instructions.json"
	s, err := Open(Config{Watch: DefaultWatch()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := golden{Kernel: s.features.Release, Instructions: map[string]uint32{}}
	for name, program := range s.collection.Programs {
		info, err := program.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("SKIP: needs a kernel that tells verified instructions (5.16)")
		}
		got.Instructions[name] = n
	}
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want golden
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if want.Kernel != got.Kernel {
		t.Skipf("SKIP: needs kernel %s, which the counts were recorded on; this is %s", want.Kernel, got.Kernel)
	}
	for name, n := range got.Instructions {
		if limit := want.Instructions[name] * 105 / 100; n > limit {
			t.Errorf("%s: %d verified instructions, recorded %d: explain the growth and run with -update", name, n, want.Instructions[name])
		}
	}
}
