package graph

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func fixed() Graph {
	return Graph{
		Title: `cmp-a: "web1" → db1 </text><script>`,
		Nodes: []Node{{ID: "h-1", Label: "web1", Sub: "A shell of a service", Severity: "high"}, {ID: "h-2", Label: `a"b\`, Sub: "x\x1b[31m", Depth: 1}, {ID: "h-3", Label: "db1", Depth: 1}},
		Edges: []Edge{{"h-1", "h-2", "flow", "tip & <b>"}, {"h-1", "h-3", "taint", ""}, {"h-3", "h-2", "hash", ""}, {"h-1", "h-9", "flow", "to nobody"}},
	}
}

// Ensure the picture is well-formed whatever its names hold, and every box stands by itself.
func TestSVG(t *testing.T) {
	svg := SVG(fixed())
	d := xml.NewDecoder(strings.NewReader(svg))
	count := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
	if count["script"] != 0 || count["g"] != 3 || count["path"] != 4 {
		t.Errorf("elements: %v", count)
	}
	at, width, height := layout(fixed())
	seen := map[point]bool{}
	for id, p := range at {
		if seen[p] || p.x+boxWidth > width || p.y+boxHeight > height {
			t.Errorf("%s at %v is covered or outside %d × %d", id, p, width, height)
		}
		seen[p] = true
	}
}

// Ensure no name ends its string.
func TestDOT(t *testing.T) {
	dot := DOT(fixed())
	for _, want := range []string{`"h-1" -> "h-2" [label="flow"`, `label="a\"b\\\nx?[31m"`} {
		if !strings.Contains(dot, want) {
			t.Errorf("lacks %q:\n%s", want, dot)
		}
	}
	for line := range strings.Lines(dot) {
		if strings.Count(strings.ReplaceAll(strings.ReplaceAll(line, `\\`, ""), `\"`, ""), `"`)%2 != 0 {
			t.Errorf("a string is open: %s", line)
		}
	}
}

// Ensure an empty graph is a picture too.
func TestEmpty(t *testing.T) {
	if svg := SVG(Graph{}); !strings.HasSuffix(svg, "</svg>\n") {
		t.Error(svg)
	}
}
