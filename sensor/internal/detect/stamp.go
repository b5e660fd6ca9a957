package detect

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Stamp changes when something below RulesDir does: a rule's name, size, times or inode.
// Contents are not read. It is "" where there is no folder to read rules from.
func (e *Engine) Stamp() (string, error) {
	if e.cfg.RulesDir == "" {
		return "", nil
	}
	h := fnv.New128a()
	count := 0
	err := filepath.WalkDir(e.cfg.RulesDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !isRule(path, d) {
			return err
		}
		if count++; count > maxRules {
			return fmt.Errorf("more than %d rules", maxRules)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %d %d", path, info.Size(), info.ModTime().UnixNano())
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(h, " %d %d.%d", stat.Ino, stat.Ctim.Sec, stat.Ctim.Nsec)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("looking at rules_dir %s: %w", e.cfg.RulesDir, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func isRule(path string, d fs.DirEntry) bool {
	ext := filepath.Ext(path)
	return d.Type().IsRegular() && (ext == ".yml" || ext == ".yaml")
}
