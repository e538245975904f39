// Package digitaltwin shows a device twin as the digital twin of IoT Plug and Play, with components, desired
// values and what the device acknowledged, and turns JSON Patches of that view into patches of the
// twin's desired properties (hub-service §3.7). It does no I/O.
package digitaltwin

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/vauban-iot/vauban/hub/twin"
)

// tree is a JSON object. Numbers are kept as they were written.
type tree = map[string]any

// parse reads a tree that twin wrote; what is no object reads as an empty one.
func parse(text json.RawMessage) tree {
	t := tree{}
	if len(text) == 0 {
		return t
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&t) != nil || t == nil {
		return tree{}
	}
	return t
}

func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // trees that were parsed from JSON always marshal
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// marker is the member that makes an object of a device twin a component.
const marker = "__t"

func isComponent(v any) bool {
	t, ok := v.(tree)
	return ok && t[marker] == "c"
}

// sub is a member that is an object; nil when there is none.
func sub(t tree, name string) tree {
	s, _ := t[name].(tree)
	return s
}

// Document is the digital twin of a device.
func Document(t twin.Twin) json.RawMessage {
	v := view{parse(t.Desired), parse(t.DesiredMetadata), parse(t.Reported), parse(t.ReportedMetadata)}
	out := v.document(false)
	out["$dtId"] = t.ID.Device
	if t.ModelID != "" {
		out["$metadata"].(tree)["$model"] = t.ModelID
	}
	return marshal(out)
}

// view is a part of a twin: the root, or one component.
type view struct{ desired, desiredMeta, reported, reportedMeta tree }

func (v view) names() []string {
	names := maps.Clone(v.desired)
	if names == nil {
		names = tree{}
	}
	maps.Copy(names, v.reported)
	delete(names, marker)
	return slices.Sorted(maps.Keys(names))
}

// document shows a part. Components do not nest.
func (v view) document(inside bool) tree {
	out, meta := tree{}, tree{}
	for _, name := range v.names() {
		desired, isDesired := v.desired[name]
		reported, isReported := v.reported[name]
		if !inside && (isComponent(desired) || isComponent(reported)) {
			out[name] = view{sub(v.desired, name), sub(v.desiredMeta, name), sub(v.reported, name), sub(v.reportedMeta, name)}.document(true)
			continue
		}
		m := tree{}
		if isDesired {
			stamp := sub(v.desiredMeta, name)
			m["desiredValue"] = desired
			m["desiredVersion"] = stamp["$lastUpdatedVersion"]
			m["lastUpdateTime"] = stamp["$lastUpdated"]
		}
		if isReported {
			out[name] = reported
			if ack, ok := acknowledgement(reported); ok {
				out[name] = ack["value"]
				m["ackVersion"], m["ackCode"] = ack["av"], ack["ac"]
				if text, ok := ack["ad"]; ok {
					m["ackDescription"] = text
				}
			}
			m["lastUpdateTime"] = sub(v.reportedMeta, name)["$lastUpdated"]
		}
		meta[name] = m
	}
	out["$metadata"] = meta
	return out
}

// acknowledgement is a reported value in the form of a writable property: value, code, version and maybe a text.
func acknowledgement(v any) (tree, bool) {
	t, ok := v.(tree)
	if !ok {
		return nil, false
	}
	for name := range t {
		switch name {
		case "value", "ac", "av", "ad":
		default:
			return nil, false
		}
	}
	for _, name := range []string{"value", "ac", "av"} {
		if _, ok := t[name]; !ok {
			return nil, false
		}
	}
	return t, true
}
