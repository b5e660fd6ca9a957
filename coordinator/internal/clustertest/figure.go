package clustertest

import (
	"encoding/json"
	"os"
	"testing"
)

// Figure prints one measured figure and appends it to the file VEDETTE_OUT, as
// scripts/internal/figure reads it. The test fails when it is not ok.
func Figure(t testing.TB, name string, value float64, unit, target string, ok bool, note string) {
	t.Helper()
	t.Logf("%-36s %12.3f %-8s target %-10s ok=%v %s", name, value, unit, target, ok, note)
	if !ok {
		t.Errorf("%s = %g %s, target %s", name, value, unit, target)
	}
	path := os.Getenv("VEDETTE_OUT")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("opening VEDETTE_OUT: %v", err)
	}
	defer func() { _ = f.Close() }()
	row := struct {
		Name   string  `json:"name"`
		Value  float64 `json:"value"`
		Unit   string  `json:"unit"`
		Target string  `json:"target"`
		OK     bool    `json:"ok"`
		Note   string  `json:"note"`
	}{name, value, unit, target, ok, note}
	if err := json.NewEncoder(f).Encode(row); err != nil {
		t.Fatalf("writing VEDETTE_OUT: %v", err)
	}
}
