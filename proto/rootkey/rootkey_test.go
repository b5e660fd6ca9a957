package rootkey_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/rootkey"
	"github.com/vedette-edr/vedette/proto/seal"
)

var update = flag.Bool("update", false, "write the files of this release to testdata")

// identity opens the files in testdata; it is nobody's.
const (
	identity   = "AGE-SECRET-KEY-1KAJNCS4Q9HE0V2RK50RH928QXGJ7028DE846NFDUWFJ06DCXV66SK835PX"
	passphrase = "nobody's, for a test"
)

func content(t testing.TB) *rootkey.Content {
	t.Helper()
	root, err := operator.New("c-test")
	if err != nil {
		t.Fatal(err)
	}
	return &rootkey.Content{ClusterID: "c-test", Certificate: root.Root(), Key: root.Key().(ed25519.PrivateKey),
		Made: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), By: "admin", CA: "CA", Trust: "TRUST", Nodes: []string{"n1:7444"}}
}

func recipient(t testing.TB) string {
	t.Helper()
	id, err := age.ParseX25519Identity(identity)
	if err != nil {
		t.Fatal(err)
	}
	return id.Recipient().String()
}

func sealed(t testing.TB, c *rootkey.Content) []byte {
	t.Helper()
	raw, err := rootkey.Seal(c, []string{recipient(t)}, "")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func open(raw []byte, keys seal.Keys) (*rootkey.Content, error) {
	f, err := rootkey.Parse(raw)
	if err != nil {
		return nil, err
	}
	return f.Open(keys)
}

// Ensure the key comes back as it was, by what it was encrypted for and by nothing else,
// that it is nowhere in the clear, and that the head says what can be known without it.
func TestRoundTrip(t *testing.T) {
	c := content(t)
	raw := sealed(t, c)
	mine := seal.Keys{Identities: "# made by a tool\n" + identity + "\n"}
	f, err := rootkey.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if f.ClusterID != "c-test" || f.Root != rootkey.Name(c.Certificate) || !f.Ends.Equal(c.Certificate.NotAfter) || !f.Made.Equal(c.Made) || f.OpenedBy != recipient(t) {
		t.Errorf("the head: got %+v", f)
	}
	got, err := f.Open(mine)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Fatalf("opened: got %+v, %v", got, err)
	}
	for _, secret := range [][]byte{c.Key.Seed(), []byte("PRIVATE KEY"), []byte("TRUST")} {
		if block, _ := pem.Decode(raw); bytes.Contains(raw, secret) || bytes.Contains(block.Bytes, secret) {
			t.Errorf("%q is in it in the clear", secret)
		}
	}
	// What a mail makes of it is the same file.
	if _, err := open(append(bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")), "\r\n\n"...), mine); err != nil {
		t.Errorf("with other line ends: %v", err)
	}
	phrase, err := rootkey.Seal(c, nil, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		file []byte
		keys seal.Keys
		want error
	}{
		"its passphrase":         {phrase, seal.Keys{Passphrase: "correct horse"}, nil},
		"another passphrase":     {phrase, seal.Keys{Passphrase: "wrong horse"}, seal.ErrKey},
		"a key for a phrase":     {phrase, mine, seal.ErrKey},
		"another key":            {raw, seal.Keys{Identities: other.String()}, seal.ErrKey},
		"a phrase for a key":     {raw, seal.Keys{Passphrase: "correct horse"}, seal.ErrKey},
		"nothing":                {raw, seal.Keys{}, seal.ErrEncrypted},
		"nothing for a phrase":   {phrase, seal.Keys{}, seal.ErrEncrypted},
		"another file's content": {graft(t, raw, sealed(t, content(t))), mine, rootkey.ErrChanged},
	} {
		if _, err := open(tt.file, tt.keys); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	for name, bad := range map[string]func() ([]byte, error){
		"nobody":          func() ([]byte, error) { return rootkey.Seal(c, nil, "") },
		"a wrong one":     func() ([]byte, error) { return rootkey.Seal(c, []string{"age1nonsense"}, "") },
		"both":            func() ([]byte, error) { return rootkey.Seal(c, []string{recipient(t)}, "x") },
		"too many":        func() ([]byte, error) { return rootkey.Seal(c, slicesOf(recipient(t), seal.MaxRecipients+1), "") },
		"another's key":   func() ([]byte, error) { d := *c; d.Key = content(t).Key; return rootkey.Seal(&d, nil, "x") },
		"another cluster": func() ([]byte, error) { d := *c; d.ClusterID = "c-other"; return rootkey.Seal(&d, nil, "x") },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}

func slicesOf(s string, n int) []string { return strings.Split(strings.Repeat(s+" ", n-1)+s, " ") }

// graft gives a file the encrypted part of another one, with a right sum, as whoever can
// write to where it lies could.
func graft(t *testing.T, head, body []byte) []byte {
	t.Helper()
	h, _ := pem.Decode(head)
	b, _ := pem.Decode(body)
	h.Bytes = b.Bytes
	return summed(h)
}

// Ensure no torn and no changed file is taken for a whole one, wherever it happened, that
// the two are told apart, and from what is no such file and what is newer.
func TestDamaged(t *testing.T) {
	raw := sealed(t, content(t))
	first := bytes.IndexByte(raw, '\n') + 1
	for at := range raw {
		want := rootkey.ErrTorn
		if at < first-1 {
			want = rootkey.ErrNot
		}
		// A file without its last line end is whole.
		if _, err := rootkey.Parse(raw[:at]); at < len(raw)-1 && !errors.Is(err, want) {
			t.Fatalf("cut off at %d of %d: got %v, want %v", at, len(raw), err, want)
		}
		for bit := range 8 {
			changed := bytes.Clone(raw)
			changed[at] ^= 1 << bit
			if at == len(raw)-1 && changed[at] == ' ' {
				continue
			}
			if _, err := rootkey.Parse(changed); err == nil {
				t.Fatalf("changed at %d of %d it is taken for whole", at, len(raw))
			}
		}
	}
	newer, _ := pem.Decode(raw)
	newer.Headers["Format"] = "2"
	ended := bytes.Index(raw, []byte("\n\n")) + 2
	for name, tt := range map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":        {nil, rootkey.ErrNot},
		"a text":         {[]byte("hello, world"), rootkey.ErrNot},
		"a key":          {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), rootkey.ErrNot},
		"a large file":   {append(bytes.Clone(raw), make([]byte, rootkey.MaxFile)...), rootkey.ErrNot},
		"twice":          {append(bytes.Clone(raw), raw...), rootkey.ErrChanged},
		"a letter":       {bytes.Replace(raw, []byte("Cluster: c-test"), []byte("Cluster: c-tesu"), 1), rootkey.ErrChanged},
		"the end":        {bytes.Replace(raw, []byte("Ends: 20"), []byte("Ends: 21"), 1), rootkey.ErrChanged},
		"a line is gone": {append(bytes.Clone(raw[:ended]), raw[ended+65:]...), rootkey.ErrChanged},
		"newer":          {summed(newer), rootkey.ErrNewer},
	} {
		if _, err := rootkey.Parse(tt.raw); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// Ensure the files of every earlier release are read; -update adds nothing to them that
// this release would not write.
func TestReadsEarlierReleases(t *testing.T) {
	files := map[string]seal.Keys{"v1-recipient.root": {Identities: identity}, "v1-passphrase.root": {Passphrase: passphrase}}
	if *update {
		c := content(t)
		phrase, err := rootkey.Seal(c, nil, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		for name, raw := range map[string][]byte{"v1-recipient.root": sealed(t, c), "v1-passphrase.root": phrase} {
			if err := os.WriteFile("testdata/"+name, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, keys := range files {
		raw, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := open(raw, keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.ClusterID != "c-test" || c.By != "admin" || c.CA != "CA" || c.Trust != "TRUST" || len(c.Nodes) != 1 || c.Made.Year() != 2026 {
			t.Errorf("%s: got %+v", name, c)
		}
		if authority, err := c.Authority(nil); err != nil || !authority.Root().Equal(c.Certificate) {
			t.Errorf("%s: its authority: %v", name, err)
		}
	}
}

// Ensure the root signs by the later end of the two certificates that it has, and by no
// other's.
func TestRenewedRoot(t *testing.T) {
	c := content(t)
	authority, err := c.Authority(nil)
	if err != nil {
		t.Fatal(err)
	}
	later, err := authority.Renew()
	if err != nil {
		t.Fatal(err)
	}
	later.NotAfter = later.NotAfter.Add(time.Hour) // it was made within the same second
	if got, err := c.Authority(later); err != nil || got.Root() != later {
		t.Errorf("renewed: %v", err)
	}
	if got, err := c.Authority(content(t).Certificate); err != nil || got.Root() != c.Certificate {
		t.Errorf("another's: %v", err)
	}
}

// What is encrypted may be anybody's: everybody knows a recipient. It must be refused, or
// be a root that the head names.
func FuzzOpen(f *testing.F) {
	raw := sealed(f, content(f))
	block, _ := pem.Decode(raw)
	id, err := age.ParseX25519Identity(identity)
	if err != nil {
		f.Fatal(err)
	}
	plain, err := age.Decrypt(bytes.NewReader(block.Bytes), id)
	if err != nil {
		f.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"certificate":"AA==","key":"AA=="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var out bytes.Buffer
		w, err := seal.Encrypt(&out, []string{id.Recipient().String()}, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		whole := &pem.Block{Type: block.Type, Headers: maps.Clone(block.Headers), Bytes: out.Bytes()}
		file, err := rootkey.Parse(summed(whole))
		if err != nil {
			if len(text) > rootkey.MaxFile/2 {
				return
			}
			t.Fatal(err)
		}
		if c, err := file.Open(seal.Keys{Identities: identity}); err == nil && (c.ClusterID != file.ClusterID || rootkey.Name(c.Certificate) != file.Root) {
			t.Errorf("opened %+v of %+v", c, file)
		} else if err != nil && !errors.Is(err, rootkey.ErrChanged) && !errors.Is(err, rootkey.ErrNewer) {
			t.Errorf("got %v", err)
		}
	})
}

// A file from anywhere must be refused or be exactly what this program writes.
func FuzzParse(f *testing.F) {
	raw := sealed(f, content(f))
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte("-----BEGIN VEDETTE ROOT-----\nFormat: 1\n\nAAAA\n-----END VEDETTE ROOT-----\n"))
	if block, _ := pem.Decode(raw); block != nil {
		block.Bytes = []byte("age-encryption.org/v1\n-> X25519 AAAA\n")
		f.Add(summed(block))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := rootkey.Parse(raw)
		if err != nil {
			return
		}
		if file.Format != 1 {
			t.Errorf("format %d was taken", file.Format)
		}
		if c, err := file.Open(seal.Keys{Identities: identity}); err == nil && (c.ClusterID != file.ClusterID || rootkey.Name(c.Certificate) != file.Root) {
			t.Errorf("opened %+v of %+v", c, file)
		}
	})
}
