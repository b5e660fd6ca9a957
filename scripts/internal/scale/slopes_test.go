package scale

import (
	"math"
	"testing"
)

func TestFit(t *testing.T) {
	cpu := func(p point) float64 { return p.cpu }
	line := []point{{hosts: 100, cpu: 7}, {hosts: 200, cpu: 9}, {hosts: 400, cpu: 13}}
	if slope, fixed, r2 := fit(line, cpu); math.Abs(slope-0.02) > 1e-9 || math.Abs(fixed-5) > 1e-9 || math.Abs(r2-1) > 1e-9 {
		t.Errorf("of a line: got %g, %g, %g", slope, fixed, r2)
	}
	square := []point{{hosts: 1, cpu: 1}, {hosts: 10, cpu: 100}, {hosts: 20, cpu: 400}}
	if _, _, r2 := fit(square, cpu); r2 > 0.96 {
		t.Errorf("of a square: r² is %g, and looks like a line", r2)
	}
	if slope, fixed, _ := fit([]point{{hosts: 5, cpu: 3}}, cpu); slope != 0 || fixed != 3 {
		t.Errorf("of one point: got %g, %g", slope, fixed)
	}
}
