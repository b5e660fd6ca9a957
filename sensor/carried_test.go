package sensor

import (
	"testing"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure only a connection of today between two hosts is looked for.
func TestSearchOf(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good := func() *sensorv1.CarriedTaint {
		return &sensorv1.CarriedTaint{Protocol: 6, Client: []byte{10, 0, 0, 1}, ClientPort: 40000, Server: []byte{10, 0, 0, 2}, ServerPort: 22,
			Opened: now.Add(-time.Second).UnixNano(), Storyline: "h-a/7.1"}
	}
	s, err := searchOf(good(), now)
	if err != nil || s.client.String() != "10.0.0.1:40000" || s.server.String() != "10.0.0.2:22" || s.from != "h-a/7.1" || !s.until.After(now) {
		t.Fatalf("got %+v, %v", s, err)
	}
	for name, change := range map[string]func(*sensorv1.CarriedTaint){
		"no client":          func(c *sensorv1.CarriedTaint) { c.Client = nil },
		"a short address":    func(c *sensorv1.CarriedTaint) { c.Server = []byte{1, 2} },
		"no port":            func(c *sensorv1.CarriedTaint) { c.ClientPort = 0 },
		"a port beyond all":  func(c *sensorv1.CarriedTaint) { c.ServerPort = 1 << 20 },
		"udp":                func(c *sensorv1.CarriedTaint) { c.Protocol = 17 },
		"loopback":           func(c *sensorv1.CarriedTaint) { c.Client = []byte{127, 0, 0, 1} },
		"long ago":           func(c *sensorv1.CarriedTaint) { c.Opened = now.Add(-time.Hour).UnixNano() },
		"in the future":      func(c *sensorv1.CarriedTaint) { c.Opened = now.Add(time.Hour).UnixNano() },
		"never":              func(c *sensorv1.CarriedTaint) { c.Opened = 0 },
		"nobody":             func(c *sensorv1.CarriedTaint) { c.Storyline = "" },
		"no storyline":       func(c *sensorv1.CarriedTaint) { c.Storyline = "h-a" },
		"a name beyond all":  func(c *sensorv1.CarriedTaint) { c.Storyline = "h-a/" + string(make([]byte, 1000)) },
		"nothing whatsoever": func(c *sensorv1.CarriedTaint) { c.Reset() },
	} {
		c := good()
		change(c)
		if s, err := searchOf(c, now); err == nil {
			t.Errorf("%s: looked for %+v", name, s)
		}
	}
}

// Ensure a flood of marks waits for nobody and is bounded.
func TestCarrierTakes(t *testing.T) {
	c := newCarrier()
	for range 10 * carriedWait {
		c.take(&sensorv1.CarriedTaint{})
	}
	if len(c.waiting) != carriedWait {
		t.Errorf("%d wait, the bound is %d", len(c.waiting), carriedWait)
	}
}
