package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// investigatorTable is how the investigator ended what real sensors told: of drills, which do
// what attacks do, and of ordinary work. Made-up histories have no recorder to be asked, so it
// is read from the last runs of those two; their time stands beside it.
func investigatorTable(_ context.Context, _ io.Writer, cfg config) (rows []figure.Row, err error) {
	for _, run := range []string{"drill", "quiet"} {
		of, err := lastRun(cfg.out, run)
		if err != nil {
			return nil, err
		}
		if len(of) == 0 {
			of = []figure.Row{figure.Skipped("investigator, "+run, "", "a run of make "+run+" before")}
		}
		rows = append(rows, of...)
	}
	return rows, nil
}

// lastRun are the figures of a run that are the investigator's.
func lastRun(out, run string) (rows []figure.Row, err error) {
	path := filepath.Join(out, run+".jsonl")
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a run's figures: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a run's figures: %w", err)
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r figure.Row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		if strings.HasPrefix(r.Name, "investigator: ") {
			r.Name = run + ", " + r.Name
			r.Note = strings.TrimSpace(r.Note + " (run of " + info.ModTime().UTC().Format(time.DateTime) + ")")
			rows = append(rows, r)
		}
	}
	return rows, lines.Err()
}
