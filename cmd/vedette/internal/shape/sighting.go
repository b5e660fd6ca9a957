package shape

import (
	"encoding/hex"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Sighting is a row of `hunt`: something that a host's flight recorder has.
type Sighting struct {
	Host      string `json:"host"`
	HostName  string `json:"host_name"`
	Time      Time   `json:"time"`
	Kind      string `json:"kind"`
	Type      string `json:"type"`
	Storyline string `json:"storyline"`
	// Process is null when no process acted; a process of which only its number is known has
	// no image.
	Process *Actor `json:"process"`
	Flow    *Flow  `json:"flow"`
	// Details are what else the record says, by name.
	Details map[string]any `json:"details"`
}

// Actor is the process that acted, as known at the time.
type Actor struct {
	Ancestor
	UID           uint32    `json:"uid"`
	Cwd           string    `json:"cwd"`
	Unit          string    `json:"unit"`
	Container     string    `json:"container"`
	Script        string    `json:"script"`
	SHA256        *string   `json:"sha256"`
	ImageTraits   []string  `json:"image_traits"`
	ArgvTruncated bool      `json:"argv_truncated"`
	Parent        *Ancestor `json:"parent"`
}

// FromSighting shapes a row of a hunt.
func FromSighting(row *operatorv1.HuntRow) Sighting {
	in := row.GetSighting()
	out := Sighting{Host: row.GetHost(), HostName: row.GetHostName(), Time: Time(in.GetTime()), Kind: in.GetKind(), Type: in.GetType(),
		Storyline: in.GetStoryline(), Details: map[string]any{}}
	if p := in.GetProcess(); p != nil {
		out.Process = &Actor{Ancestor: ancestor(p), UID: p.GetUid(), Cwd: output.Lossless(p.GetCwd()), Unit: p.GetUnit(), Container: p.GetContainer(),
			Script: output.Lossless(p.GetScript()), SHA256: text(hex.EncodeToString(p.GetSha256())), ImageTraits: list(p.GetImageTraits()),
			ArgvTruncated: p.GetArgvTruncated()}
		if in.GetParentPid() != 0 {
			parent := ancestor(&sensorv1.Process{Pid: in.GetParentPid(), Start: in.GetParentStart(), Image: in.GetParentImage(), Argv: in.GetParentArgv()})
			parent.User = ""
			out.Process.Parent = &parent
		}
	}
	if f := in.GetFlow(); f != nil {
		flow := FromFlow(f)
		out.Flow = &flow
	}
	for _, d := range in.GetDetails() {
		out.Details[d.GetName()] = detail(d)
	}
	return out
}

func detail(d *sensorv1.Detail) any {
	switch v := d.GetValue().(type) {
	case *sensorv1.Detail_Number:
		return v.Number
	case *sensorv1.Detail_Flag:
		return v.Flag
	case *sensorv1.Detail_Texts:
		texts := []string{}
		for _, t := range v.Texts.GetTexts() {
			texts = append(texts, output.Lossless(t))
		}
		return texts
	}
	return output.Lossless(d.GetText())
}
