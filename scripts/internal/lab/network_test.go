package lab

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// drop installs what the namespace loses of the sensors' traffic; "" heals it.
func (r *rig) drop(t *testing.T, rule string) {
	t.Helper()
	text := "table inet vlab\ndelete table inet vlab\n"
	if rule != "" {
		text += "table inet vlab { chain in { type filter hook input priority 0; " + rule + " drop; }; }\n"
	}
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if _, err := r.lab.Run(r.ns, cmd); err != nil {
		t.Fatal(err)
	}
}

// Ensure a network that loses packets, all of them, or all answers, delays what is
// found and neither loses nor repeats it.
func TestBadNetwork(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: needs nft (nftables)")
	}
	r := newRig(t)
	shell := copied(t)
	_, port, _ := strings.Cut(r.cluster.Nodes[0].Listen, ":")
	var all []string
	for _, c := range []struct{ name, rule string }{
		{"every fourth", "meta l4proto udp numgen random mod 4 == 0"},
		{"everything", "meta l4proto udp th dport " + port},
		{"answers", "meta l4proto udp th sport " + port},
		{"none", ""},
	} {
		r.drop(t, c.rule)
		began := time.Now()
		for i := range 20 {
			marker := fmt.Sprintf("%s-%02d", strings.ReplaceAll(c.name, " ", "-"), i)
			r.run(t, shell, "-c", "true", marker)
			all = append(all, marker)
			<-time.After(200 * time.Millisecond)
		}
		if c.rule == "" || strings.Contains(c.rule, "random") {
			r.untilFound(t, 30*time.Second, shell, all...)
		}
		t.Logf("%s lost: %s", c.name, time.Since(began).Round(10*time.Millisecond))
	}
	began := time.Now()
	times := r.untilFound(t, 30*time.Second, shell, all...)
	t.Logf("all there %s after the network was well", time.Since(began).Round(10*time.Millisecond))
	for _, marker := range all {
		if times[marker] != 1 {
			t.Errorf("%s is told %d times", marker, times[marker])
		}
	}
	d, err := r.detail(t.Context())
	if err != nil || len(d.Losses) > 0 {
		t.Errorf("losses %+v (%v)", d.Losses, err)
	}
}
