package intent_test

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

var testTime = time.Unix(1_800_000_000, 0)

// FuzzParseFile: no file ends the program, and what is read is written back as the same.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("groups: [{name: a, labels: {b: c}}]\npolicy: \"x\\n\"\n"))
	f.Add([]byte("policy: |+\n  a\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := intent.ParseFile(raw)
		if err != nil {
			return
		}
		out := intent.Format(in)
		if again, err := intent.ParseFile(out); err != nil || !proto.Equal(in, again) {
			t.Fatalf("got %v, %v\nwant %v\nfrom %q", again, err, in, out)
		}
	})
}

// FuzzCompile: no policy ends the program, and what compiles decides.
func FuzzCompile(f *testing.F) {
	f.Add(ladder, "web")
	for _, text := range conditions {
		f.Add("permit (principal, action, resource) when {"+text+"};", "web")
		f.Add("@id(\"a\")forbid (principal, action, resource) unless {!("+text+")};", "edge")
	}
	f.Fuzz(func(t *testing.T, policy, label string) {
		in := &sensorv1.Intent{Policy: policy, Groups: testGroups}
		p, err := intent.Compile(in)
		if err != nil {
			return
		}
		r := intent.Request{Action: sensorv1.Action_ACTION_ISOLATE, Host: intent.Host{ID: "h", Labels: map[string]string{"role": label, "protected": "true"}}, Confidence: 1}
		if v := p.Decide(r); v.Level > 1 {
			t.Fatalf("a protected host: got %+v", v)
		}
		delete(r.Host.Labels, "protected")
		if a, b := p.Decide(r), p.Decide(r); !reflect.DeepEqual(a, b) {
			t.Fatalf("got %+v and %+v", a, b)
		}
	})
}

// FuzzDecide: nothing that a host says ends the program or raises a protected host.
func FuzzDecide(f *testing.F) {
	p := compile(f, &sensorv1.Intent{Policy: ladder, Groups: testGroups, Governor: &sensorv1.Governor{ProtectedHosts: []string{"h-dns"}}})
	f.Add("h-1", "role", "web", 0.95, int32(1), "critical", "/tmp/x")
	f.Add("h-dns", "role", "web", 0.95, int32(3), "critical", "/tmp/x")
	f.Fuzz(func(t *testing.T, id, key, value string, confidence float64, action int32, severity, image string) {
		r := intent.Request{
			Action: sensorv1.Action(action), Host: intent.Host{ID: id, Name: image, Labels: map[string]string{key: value}}, Confidence: confidence,
			Severity: severity, Kind: image, Rule: value, Techniques: []string{image, value}, Image: image, Traits: []string{value}, User: key, Unit: value, Account: id,
		}
		v := p.Decide(r)
		if v.Level > 1 && (p.Protected(r.Host) != "" || !(confidence >= 0 && confidence <= 1) && action == 1) {
			t.Fatalf("got %+v of %+v", v, r)
		}
	})
}

// FuzzDecode: no payload ends the program, and only one encoding is an intent.
func FuzzDecode(f *testing.F) {
	payload, _ := intent.Encode(first(testTime))
	f.Add(payload)
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := intent.Decode(raw)
		if err != nil {
			return
		}
		if again, err := intent.Encode(in); err != nil || string(again) != string(raw) {
			t.Fatalf("got %x, %v", again, err)
		}
	})
}
