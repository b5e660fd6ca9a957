package client_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link/linktest"
)

// FuzzLoadContext reads any file as contexts: it is refused, or each of them can be looked up, saved and read
// again as it was; and an error tells nothing of a key.
func FuzzLoadContext(f *testing.F) {
	const secret = "MC4CAQAwBQYDK2VwBCIEIKVERYSECRETKEYVERYSECRETKEYVERYSECRETKEYVE"
	one := "name: prod\nnodes: [\"n1:7444\"]\nca: |\n  -----BEGIN CERTIFICATE-----\n  MIIB\n  -----END CERTIFICATE-----\nkey: |\n  -----BEGIN PRIVATE KEY-----\n  " + secret + "\n  -----END PRIVATE KEY-----\ncluster_id: c-test\noperator: ann\nrole: admin\n"
	for _, seed := range []string{one, "current: prod\ncontexts:\n- " + strings.ReplaceAll(strings.TrimSpace(one), "\n", "\n  ") + "\n", "", "contexts: [null]\n", "contexts: 7\n", "current: x\n", "name: a\nname: b\n",
		"name: [" + secret + "\n", "key: {a: " + secret + "}\n", "a: &a [*a]\n", "<<: *x\n", "name: \"\\x1b[31m\"\n", "? key\n", "\xff\xfe\x00", "contexts: [{name: a}, {name: a}]\ncurrent: a\n"} {
		f.Add([]byte(seed))
	}
	f.Add([]byte("name: x\noperators: " + string(linktest.NewCA(f).Certificate.Raw)))
	dir := f.TempDir()
	path, again := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "again.yaml")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		config, err := client.LoadConfig(path)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error tells the key: %v", err)
			}
			return
		}
		for _, name := range config.Names() {
			c, err := client.LoadContext(path, name)
			if err != nil {
				t.Errorf("context %q: %v", name, err)
				continue
			}
			if api, err := client.New(c, client.Options{}); err == nil {
				api.Close()
			}
		}
		if err := config.Save(again); err != nil {
			t.Fatalf("what was read cannot be saved: %v", err)
		}
		second, err := client.LoadConfig(again)
		if err != nil {
			t.Fatalf("what was saved cannot be read: %v", err)
		}
		if !slices.Equal(second.Names(), config.Names()) || second.Current != config.Current {
			t.Errorf("saved %q of %q, read %q of %q", config.Current, config.Names(), second.Current, second.Names())
		}
	})
}
