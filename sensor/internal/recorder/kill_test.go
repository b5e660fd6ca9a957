package recorder

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const toBeKilled = "VEDETTE_TEST_RECORD_UNTIL_KILLED"

// Ensure a killed recorder loses no more than the last second, which the next one
// notes as an unclean stop.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(toBeKilled); dir != "" {
		recordUntilKilled(dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), toBeKilled+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// What the child says it has recorded, it has: a number each millisecond.
	said := bufio.NewScanner(out)
	last := 0
	for last < 2500 && said.Scan() {
		if last, err = strconv.Atoi(said.Text()); err != nil {
			t.Fatal(err)
		}
	}
	killed := boottime()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for said.Scan() { // what it said before it died
	}
	_ = cmd.Wait()

	if err := Open(dir, Config{}).Close(); err != nil {
		t.Fatal(err)
	}
	records, stats := all(t, dir)
	names := types(records)
	if !strings.HasPrefix(names, "sensor-start exit exit") || !strings.HasSuffix(names, "exit sensor-unclean-stop sensor-start sensor-stop") {
		t.Fatalf("got %.40q … %q", names, names[max(0, len(names)-80):])
	}
	exits := records[1 : len(records)-3]
	for i, r := range exits {
		if r.Type != "exit" || attr(r, "code").Uint != uint64(i) {
			t.Fatalf("record %d: %+v", i, r)
		}
	}
	newest := exits[len(exits)-1]
	if lost := time.Duration(killed - newest.BootNs); newest.BootNs < killed && lost > promised+slack {
		t.Errorf("the last %s are lost, want at most %s", lost, promised)
	}
	stop := records[len(records)-3]
	if attr(stop, "last_record").Text != newest.Time.Format(time.RFC3339Nano) || stats.Damaged != 0 {
		t.Errorf("unclean stop: %+v after %s, %+v", stop.Attrs, newest.Time, stats)
	}
}

// recordUntilKilled records an event a millisecond, and says which one.
func recordUntilKilled(dir string) {
	r := Open(dir, Config{})
	go r.Run(nil)
	c := newClocks()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := int32(0); ; i++ {
		<-tick.C
		c.boot = boottime()
		r.Record(exit(c, 1, i), nil, nil)
		_, _ = os.Stdout.WriteString(strconv.Itoa(int(i)) + "\n")
	}
}
