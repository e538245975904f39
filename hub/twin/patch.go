package twin

import (
	"encoding/json"

	"github.com/vauban-iot/vauban/fault"
)

// Patch is what a service writes: tags and desired properties. A section that is had may
// be null, which empties it. Nothing else of a twin can be written.
type Patch struct {
	Tags       json.RawMessage
	HasTags    bool
	Desired    json.RawMessage
	HasDesired bool
	By         string // the configuration that writes desired properties; empty: somebody else does
	ByDigest   string // of what that configuration says
}

// ParsePatch reads the body of a twin PATCH or PUT. Read-only and unknown members are left
// aside: programs send whole documents back (hub-service §3.1). Failures are
// fault.Malformed and Invalid; the sections themselves are judged when they are applied.
func ParsePatch(body []byte) (Patch, error) {
	var doc struct {
		Tags       optional `json:"tags"`
		Properties optional `json:"properties"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return Patch{}, fault.Wrap(fault.Malformed, err, "the body is not a twin document")
	}
	p := Patch{Tags: doc.Tags.raw, HasTags: doc.Tags.raw != nil}
	if doc.Properties.raw == nil || string(doc.Properties.raw) == "null" {
		return p, nil
	}
	var properties struct {
		Desired optional `json:"desired"`
	}
	if err := json.Unmarshal(doc.Properties.raw, &properties); err != nil {
		return Patch{}, fault.Wrap(fault.Invalid, err, "properties must be a JSON object")
	}
	p.Desired, p.HasDesired = properties.Desired.raw, properties.Desired.raw != nil
	return p, nil
}

// optional tells an absent member (nil) from null.
type optional struct{ raw json.RawMessage }

func (o *optional) UnmarshalJSON(b []byte) error {
	o.raw = append(json.RawMessage(nil), b...)
	return nil
}

// trees parses the sections that p has. A section that is had without text is null.
func (p Patch) trees() (tags, desired *node, err error) {
	if p.HasTags {
		if tags, err = p.section("tags", p.Tags); err != nil {
			return nil, nil, err
		}
	}
	if p.HasDesired {
		if desired, err = p.section("desired properties", p.Desired); err != nil {
			return nil, nil, err
		}
	}
	return tags, desired, nil
}

func (Patch) section(what string, text json.RawMessage) (*node, error) {
	if len(text) == 0 {
		return nullNode, nil
	}
	return parseSection(what, text)
}
