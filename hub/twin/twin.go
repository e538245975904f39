// Package twin holds device twins: tags, desired and reported properties with
// versions and metadata, and the rules by which patches change them (hub-service §3).
//
// Numbers and strings stay the text they arrived as and members keep their order, so
// that what a program wrote is what a device reads, to the last digit.
package twin

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Twin is one stored twin. The trees are JSON objects without $metadata and
// $version; the metadata trees mirror them (hub-service §3.4). Nil trees read as {}.
type Twin struct {
	ID               iot.ID
	ModelID          string
	Version          int64 // grows with tags and desired
	Tags             json.RawMessage
	Desired          json.RawMessage
	DesiredMetadata  json.RawMessage
	DesiredVersion   int64
	Reported         json.RawMessage
	ReportedMetadata json.RawMessage
	ReportedVersion  int64
	// Configurations are those that select the twin, with the status of each, as programs read them; nil: none.
	Configurations json.RawMessage
	// Configured is what the room that applies configurations remembers of this twin; nil: nothing.
	Configured json.RawMessage
	// Facts are what the log is told of a write: the store keeps them in the write's transaction. Reads leave them empty.
	Facts []iot.Message
}

// Store keeps twins. Every write is on disk when the call returns. Twins are made and
// removed with their identity (registry.Store).
type Store interface {
	// Twin returns one twin; fault.NotFound.
	Twin(ctx context.Context, id iot.ID) (Twin, error)
	// UpdateTwin reads, changes and writes in one transaction; fault.NotFound. change must be
	// pure: it may run more than once. An error of change is returned as it is and nothing is written.
	UpdateTwin(ctx context.Context, id iot.ID, change func(Twin) (Twin, error)) (Twin, error)
}

// firstVersion is the version of a twin nobody wrote to yet; its ETag counts from 1 (hub-service §3.2).
const firstVersion = 2

// New is the twin of an identity that was just made.
func New(id iot.ID) Twin {
	return Twin{ID: id, Version: firstVersion, DesiredVersion: 1, ReportedVersion: 1}
}

// ETag is the base64 of a counter in eight big-endian bytes that grows with Version.
func (t Twin) ETag() iot.ETag {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(max(t.Version-firstVersion+1, 0)))
	return iot.ETag(base64.StdEncoding.EncodeToString(b[:]))
}

// Apply merges p into tags and desired (hub-service §3.3). push is what a listening device is
// told, or nil when desired stays: the patch's members and $version. A section of p that
// holds nothing changes nothing. Failures are fault.Invalid.
func (t Twin) Apply(p Patch, now time.Time) (next Twin, push json.RawMessage, err error) {
	return t.change(p, now, func(old, patch *node) (*node, *node) {
		if patch.null() {
			patch = old.erased()
		}
		if len(patch.members) == 0 {
			return nil, nil
		}
		return old.merged(patch), patch
	})
}

// Replace puts p in the place of tags and desired; a section that p does not have becomes
// empty. push holds what differs, with null for what is gone.
func (t Twin) Replace(p Patch, now time.Time) (next Twin, push json.RawMessage, err error) {
	p.HasTags, p.HasDesired = true, true
	return t.change(p, now, func(old, patch *node) (*node, *node) {
		next := newObject().merged(patch) // drops nulls
		return next, old.difference(next)
	})
}

// change works out both sections by one rule. how returns a section's next tree and what a device
// must merge to get there, or nil when the section stays.
func (t Twin) change(p Patch, now time.Time, how func(old, patch *node) (next, push *node)) (Twin, json.RawMessage, error) {
	tags, desired, err := p.trees()
	if err != nil {
		return Twin{}, nil, err
	}
	changed := false
	if tags != nil {
		if next, _ := how(mustTree(t.Tags), tags); next != nil {
			if err := next.fits("tags", maxTags); err != nil {
				return Twin{}, nil, err
			}
			t.Tags, changed = next.text(), true
		}
	}
	var push json.RawMessage
	if desired != nil {
		next, delta := how(mustTree(t.Desired), desired)
		if next != nil {
			if err := next.fits("desired properties", maxProperties); err != nil {
				return Twin{}, nil, err
			}
			t.DesiredVersion++
			meta := mustTree(t.DesiredMetadata)
			stamp{at: now, version: t.DesiredVersion, by: p.By, digest: p.ByDigest}.mark(meta, delta, next)
			t.Desired, t.DesiredMetadata, changed = next.text(), meta.text(), true
			push = versioned(delta.text(), t.DesiredVersion)
		}
	}
	if changed {
		t.Version++
	}
	return t, push, nil
}

// ApplyReported merges a device's patch into the reported properties. base, when not 0, must be the
// version that stands, or it is fault.PreconditionFailed; other failures are fault.Malformed and Invalid.
func (t Twin) ApplyReported(patch []byte, base int64, now time.Time) (Twin, error) {
	p, err := parseSection("reported properties", patch)
	if err != nil {
		return Twin{}, err
	}
	if p.null() {
		return Twin{}, fault.New(fault.Invalid, "reported properties must be a JSON object")
	}
	if base != 0 && base != t.ReportedVersion {
		return Twin{}, fault.New(fault.PreconditionFailed, "the reported properties have version %d, not %d", t.ReportedVersion, base)
	}
	next := mustTree(t.Reported).merged(p)
	if err := next.fits("reported properties", maxProperties); err != nil {
		return Twin{}, err
	}
	t.ReportedVersion++
	meta := mustTree(t.ReportedMetadata)
	stamp{at: now}.mark(meta, p, next)
	t.Reported, t.ReportedMetadata = next.text(), meta.text()
	return t, nil
}

// DeviceView is what a device reads: both sections with their versions, and nothing
// else (hub-device §3.7).
func (t Twin) DeviceView() []byte {
	b := make([]byte, 0, len(t.Desired)+len(t.Reported)+80)
	b = append(b, `{"desired":`...)
	b = append(b, versioned(t.Desired, t.DesiredVersion)...)
	b = append(b, `,"reported":`...)
	b = append(b, versioned(t.Reported, t.ReportedVersion)...)
	return append(b, '}')
}

// Properties is the "properties" member of a twin document: both sections with metadata
// and versions (hub-service §3.2).
func (t Twin) Properties() json.RawMessage {
	var b []byte
	b = append(b, `{"desired":`...)
	b = append(b, documented(t.Desired, t.DesiredMetadata, t.DesiredVersion)...)
	b = append(b, `,"reported":`...)
	b = append(b, documented(t.Reported, t.ReportedMetadata, t.ReportedVersion)...)
	return append(b, '}')
}

// Scalars calls each for every value of a stored tree that is neither object nor array, with its names joined by
// dots (which no name holds) and its JSON text.
func Scalars(tree json.RawMessage, each func(path, value string)) {
	mustTree(tree).scalars("", each)
}

// versioned adds $version behind the members of an object's text.
func versioned(object json.RawMessage, version int64) json.RawMessage {
	b := open(object)
	b = append(b, `"$version":`...)
	b = strconv.AppendInt(b, version, 10)
	return append(b, '}')
}

// documented is versioned with $metadata.
func documented(object, metadata json.RawMessage, version int64) json.RawMessage {
	if isEmpty(metadata) {
		metadata = json.RawMessage(`{"$lastUpdated":"` + iot.FormatTime(time.Time{}) + `"}`)
	}
	b := open(object)
	b = append(b, `"$metadata":`...)
	b = append(b, metadata...)
	b = append(b, `,"$version":`...)
	b = strconv.AppendInt(b, version, 10)
	return append(b, '}')
}

// open is an object's text without its closing brace, ready for one more member.
func open(object json.RawMessage) json.RawMessage {
	if isEmpty(object) {
		return append(make(json.RawMessage, 0, 128), '{')
	}
	b := append(make(json.RawMessage, 0, len(object)+128), object[:len(object)-1]...)
	return append(b, ',')
}

func isEmpty(object json.RawMessage) bool { return len(object) <= len("{}") }
