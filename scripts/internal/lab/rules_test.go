package lab

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Ensure one rule that cannot be used is named with its file and line, and keeps
// neither the sensor nor the rules beside it from working.
func TestBadRuleIsNamed(t *testing.T) {
	r := newRig(t)
	r.stop(t)
	dir := t.TempDir()
	head := "title: Marked run\nstatus: test\nlevel: high\nlogsource:\n  category: process_creation\n  product: linux\n"
	for name, text := range map[string]string{
		"good.yml":      head + "detection:\n  selection:\n    CommandLine|contains: marked-by-a-rule\n  condition: selection\n",
		"condition.yml": head + "detection:\n  selection:\n    CommandLine|contains: x\n  condition: selektion\n",
		"tabs.yml":      "title: x\n\tdetection: [\n",
		"binary.yml":    string(noise(t, 300)),
		"empty.yml":     "",
		"field.yml":     head + "detection:\n  selection:\n    ComandLine|contains: x\n  condition: selection\n",
		"regexp.yml":    head + "detection:\n  selection:\n    CommandLine|re: '(((('\n  condition: selection\n",
	} {
		overwrite(t, filepath.Join(dir, name), []byte(text))
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "zero.yml")); err != nil {
		t.Fatal(err)
	}
	r.spec.More = "rules_dir: " + dir + "\n"
	r.again(t)
	for _, bad := range []string{"condition.yml:10", "tabs.yml:2", "binary.yml", "empty.yml", "regexp.yml:9", "field.yml:9"} {
		if n := r.logged(t, "level=WARN", "rule is ", bad); n != 1 {
			t.Errorf("%d lines of the log name %s, want 1", n, bad)
		}
	}
	if r.logged(t, "refused", "good.yml") > 0 {
		t.Error("the good rule is refused")
	}
	if t.Failed() {
		t.Log(r.log(t))
	}
	// Of a path that no built-in rule minds.
	r.run(t, "/bin/sh", "-c", "true", "marked-by-a-rule")
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	r.untilFound(t, 15*time.Second, shell, "marked-by-a-rule")
}
