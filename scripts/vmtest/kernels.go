package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// series is a line of Debian kernels.
type series struct {
	name    string
	pattern *regexp.Regexp
	suites  []string
	// lacks are the hooks that Debian builds these kernels without, and why: their
	// absence is known and no failure.
	lacks map[string]string
}

var allSeries = []series{
	{
		name:    "6.1",
		pattern: regexp.MustCompile(`^linux-image-(6\.1\.0-[0-9]+-cloud-amd64)$`),
		suites:  []string{"bookworm"},
		lacks:   map[string]string{"kprobe.multi": "CONFIG_FPROBE is not set"},
	},
	{
		name:    "6.12",
		pattern: regexp.MustCompile(`^linux-image-(6\.12\.[0-9]+\+deb[0-9.]+-cloud-amd64)$`),
		suites:  []string{"trixie", "bookworm-backports"},
	},
}

// fresh is how long a kernel is used before a newer one is looked for: a point
// release is worth having, the archive's index is not worth its time in each run.
const fresh = 7 * 24 * time.Hour

func seriesNames() (names []string) {
	for _, s := range allSeries {
		names = append(names, s.name)
	}
	return names
}

func findSeries(name string) (series, bool) {
	i := slices.IndexFunc(allSeries, func(s series) bool { return s.name == name })
	if i < 0 {
		return series{}, false
	}
	return allSeries[i], true
}

// kernel is an unpacked kernel package.
type kernel struct{ release, image, moduleDir string }

// fetch returns the newest kernel of the series, from the cache or the archive.
func fetch(ctx context.Context, cache string, s series) (kernel, error) {
	dir := filepath.Join(cache, s.name)
	kept, age, keptErr := open(dir)
	if keptErr == nil && age < fresh {
		return kept, nil
	}
	got, err := download(ctx, dir, s)
	if err != nil && keptErr == nil {
		fmt.Printf("vmtest: no newer kernel to be had, using %s: %v\n", kept.release, err)
		return kept, nil
	}
	return got, err
}

// open finds the kernel below a folder, and how long it has been there.
func open(dir string) (k kernel, age time.Duration, err error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return k, 0, fmt.Errorf("%d kernels below %s", len(images), dir)
	}
	k.image = images[0]
	k.release = strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-")
	info, err := os.Stat(dir)
	if err != nil {
		return k, 0, fmt.Errorf("reading the kernel's folder: %w", err)
	}
	for _, above := range []string{"lib", "usr/lib"} { // bookworm and later
		k.moduleDir = filepath.Join(dir, above, "modules", k.release)
		if _, err := os.Stat(k.moduleDir); err == nil {
			return k, time.Since(info.ModTime()), nil
		}
	}
	return k, 0, fmt.Errorf("no modules below %s", dir)
}

// download unpacks the newest kernel of the series into dir. Nothing is installed
// and the machine's own apt is left as it is: sources, index and cache are private.
func download(ctx context.Context, dir string, s series) (kernel, error) {
	source, err := debianSource()
	if err != nil {
		return kernel{}, err
	}
	work := dir + ".new"
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(work, 0o755)); err != nil {
		return kernel{}, fmt.Errorf("making %s: %w", work, err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	a, err := newApt(work, source, s.suites)
	if err != nil {
		return kernel{}, err
	}
	// One of the suites may be gone from the archive; what counts is whether the
	// kernel is found.
	updateErr := a.update(ctx)
	name, ok := newest(a.names(ctx), s.pattern)
	if !ok {
		return kernel{}, errors.Join(&missingError{fmt.Sprintf("a Debian kernel %s from the package archive", s.name)}, updateErr)
	}
	fmt.Printf("vmtest: fetching %s\n", name)
	unpacked := filepath.Join(work, "kernel")
	if err := a.unpack(ctx, name, unpacked); err != nil {
		return kernel{}, errors.Join(&missingError{name + " from the package archive"}, err)
	}
	if _, _, err := open(unpacked); err != nil {
		return kernel{}, fmt.Errorf("unpacking %s: %w", name, err)
	}
	now := time.Now() // the package's own time says when it was built
	if err := errors.Join(os.Chtimes(unpacked, now, now), os.RemoveAll(dir), os.Rename(unpacked, dir)); err != nil {
		return kernel{}, fmt.Errorf("keeping %s: %w", name, err)
	}
	k, _, err := open(dir)
	return k, err
}

// newest picks by the order of versions in names.
func newest(names []string, pattern *regexp.Regexp) (string, bool) {
	var found []string
	for _, name := range names {
		if pattern.MatchString(name) {
			found = append(found, name)
		}
	}
	slices.SortFunc(found, compareVersions)
	if len(found) == 0 {
		return "", false
	}
	return found[len(found)-1], true
}

// compareVersions compares runs of digits as numbers and the rest as text.
func compareVersions(a, b string) int {
	parts := regexp.MustCompile(`[0-9]+|[^0-9]+`)
	as, bs := parts.FindAllString(a, -1), parts.FindAllString(b, -1)
	return slices.CompareFunc(as, bs, func(x, y string) int {
		if digits(x) && digits(y) && len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

func digits(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// apt is an apt with a state of its own.
type apt struct{ dir, config string }

func newApt(dir string, source aptSource, suites []string) (*apt, error) {
	a := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making apt's folders: %w", err)
		}
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n", source.uri, strings.Join(suites, " "))
	if source.signedBy != "" {
		fmt.Fprintf(&text, "Signed-By: %s\n", source.signedBy)
	}
	// Given with -c, it is read last and can clear what the machine's own set.
	config := fmt.Sprintf(`Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "%[1]s/parts";
Acquire::Languages "none";
#clear Acquire::IndexTargets::deb::DEP-11;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke;
`, dir)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "parts", "debian.sources"), text.Bytes(), 0o644),
		os.WriteFile(a.config, []byte(config), 0o644)); err != nil {
		return nil, fmt.Errorf("configuring apt: %w", err)
	}
	return a, nil
}

func (a *apt) command(ctx context.Context, name string, arguments ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, append([]string{"-qq", "-c", a.config}, arguments...)...)
	cmd.Dir = a.dir
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("running %s %s: %w: %s", name, arguments[0], err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out, nil
}

func (a *apt) update(ctx context.Context) error {
	_, err := a.command(ctx, "apt-get", "update")
	return err
}

func (a *apt) names(ctx context.Context) (names []string) {
	out, err := a.command(ctx, "apt-cache", "pkgnames", "linux-image-")
	if err != nil {
		return nil
	}
	scanner := bufio.NewScanner(bytes.NewReader(out))
	for scanner.Scan() {
		names = append(names, scanner.Text())
	}
	return names
}

// unpack downloads a package, which apt checks against the signed index.
func (a *apt) unpack(ctx context.Context, name, dir string) error {
	if _, err := a.command(ctx, "apt-get", "download", name); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("downloading %s: %d packages came", name, len(packages))
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", packages[0], dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unpacking %s: %w: %s", name, err, out)
	}
	return nil
}
