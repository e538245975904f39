package twin

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Written is what one write put into a twin: the patches as they were merged, nil for sections it left alone.
type Written struct {
	Replaced                bool // tags and desired properties were put, not merged
	Tags, Desired, Reported json.RawMessage
}

// Nothing reports that no section was written.
func (w Written) Nothing() bool { return w.Tags == nil && w.Desired == nil && w.Reported == nil }

// WrittenTags is the patch of tags that p is to a twin: a section that p empties is spelled out. nil: p leaves them alone.
func (p Patch) WrittenTags(before Twin) json.RawMessage {
	if !p.HasTags {
		return nil
	}
	n, err := p.section("tags", p.Tags)
	if err != nil {
		return nil // such a patch is not applied
	}
	if n.null() {
		n = mustTree(before.Tags).erased()
	}
	if len(n.members) == 0 {
		return nil
	}
	return n.text()
}

// Difference is the patch that makes the stored tree old into next: null for what is gone.
func Difference(old, next json.RawMessage) json.RawMessage {
	return mustTree(old).difference(mustTree(next)).text()
}

// Notification is the body of an event about a write that made t (hub-service §7.4): what was written with its
// metadata, null for what was removed, and after a replacement the whole twin.
func (t Twin) Notification(w Written) json.RawMessage {
	if w.Replaced {
		return t.Document(true)
	}
	b := append(make(json.RawMessage, 0, 256), `{"version":`...)
	b = strconv.AppendInt(b, t.Version, 10)
	if w.Tags != nil {
		b = append(append(b, `,"tags":`...), w.Tags...)
	}
	if w.Desired != nil || w.Reported != nil {
		b = append(b, `,"properties":{`...)
		if w.Desired != nil {
			b = append(b, `"desired":`...)
			b = append(b, part(w.Desired, t.DesiredMetadata, t.DesiredVersion)...)
		}
		if w.Reported != nil {
			if w.Desired != nil {
				b = append(b, ',')
			}
			b = append(b, `"reported":`...)
			b = append(b, part(w.Reported, t.ReportedMetadata, t.ReportedVersion)...)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// part is a patch with the metadata of what it touched and the section's version.
func part(patch, metadata json.RawMessage, version int64) json.RawMessage {
	p, err := parseSection("patch", patch) // without its $version, if it has one
	if err != nil || !p.object {
		p = newObject() // such a patch is not merged
	}
	return documented(p.text(), mustTree(metadata).touched(p).text(), version)
}

// touched is the metadata n without the members that patch does not name.
func (n *node) touched(patch *node) *node {
	out := newObject()
	for _, m := range n.members {
		switch m.name {
		case lastUpdated, lastUpdatedVersion, lastUpdatedBy, lastUpdatedDigest:
			out.members = append(out.members, m)
		}
	}
	for _, m := range patch.members {
		meta := n.get(m.name)
		switch {
		case meta == nil: // removed
		case m.node.object:
			out.members = append(out.members, member{m.name, meta.touched(m.node)})
		default:
			out.members = append(out.members, member{m.name, meta})
		}
	}
	return out
}

// Document is the twin alone, without its identity: ids, etag, version, tags and properties. Tags that are empty are
// left out unless they are asked for.
func (t Twin) Document(emptyTags bool) json.RawMessage {
	doc := struct {
		DeviceID   string          `json:"deviceId"`
		ModuleID   string          `json:"moduleId,omitempty"`
		ETag       string          `json:"etag"`
		Version    int64           `json:"version"`
		Tags       json.RawMessage `json:"tags,omitempty"`
		Properties json.RawMessage `json:"properties"`
	}{t.ID.Device, t.ID.Module, string(t.ETag()), t.Version, t.Tags, t.Properties()}
	if isEmpty(t.Tags) {
		doc.Tags = nil
		if emptyTags {
			doc.Tags = json.RawMessage("{}")
		}
	}
	return encode(doc)
}

// encode leaves <, > and & alone: what was written is read as it was.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers and trees of ours always marshal
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
