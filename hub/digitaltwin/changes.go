package digitaltwin

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/hub/twin"
)

// step is one operation of a change event.
type step struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Changes is the JSON Patch of the digital twin document that tells of a write (hub-service §7.4); nil when there is
// nothing to tell. before is the twin as it was, after as the write left it.
func Changes(before, after twin.Twin, w twin.Written) json.RawMessage {
	c := changes{
		was:   view{parse(before.Desired), nil, parse(before.Reported), nil},
		is:    view{parse(after.Desired), parse(after.DesiredMetadata), parse(after.Reported), parse(after.ReportedMetadata)},
		steps: []step{},
	}
	if w.Desired != nil {
		c.section(parse(w.Desired), c.was.desired, c.is.desired, view.wanted)
	}
	if w.Reported != nil {
		c.section(parse(w.Reported), c.was.reported, c.is.reported, view.told)
	}
	if len(c.steps) == 0 {
		return nil
	}
	return marshal(c.steps)
}

type changes struct {
	was, is view
	steps   []step
}

// section goes through the members of a patch, those of components one by one.
func (c *changes) section(patch, was, is tree, tell func(v view, name, at string, null bool) []step) {
	for _, name := range slices.Sorted(maps.Keys(patch)) {
		if strings.HasPrefix(name, "$") || name == marker {
			continue
		}
		value := patch[name]
		if !isComponent(is[name]) && !isComponent(was[name]) {
			c.steps = append(c.steps, tell(c.is, name, "", value == nil)...)
			continue
		}
		part := view{sub(c.is.desired, name), sub(c.is.desiredMeta, name), sub(c.is.reported, name), sub(c.is.reportedMeta, name)}
		members, _ := value.(tree)
		if value == nil { // the whole component: what it held
			members = tree{}
			for member := range sub(was, name) {
				members[member] = nil
			}
		}
		for _, member := range slices.Sorted(maps.Keys(members)) {
			if member != marker {
				c.steps = append(c.steps, tell(part, member, "/"+escape(name), members[member] == nil)...)
			}
		}
	}
}

// wanted tells of a desired value. at is the path of the component.
func (v view) wanted(name, at string, null bool) []step {
	path := at + "/$metadata/" + escape(name)
	if null {
		if _, told := v.reported[name]; told {
			return []step{{Op: "remove", Path: path + "/desiredValue"}, {Op: "remove", Path: path + "/desiredVersion"}}
		}
		return []step{{Op: "remove", Path: path}}
	}
	return []step{{Op: "add", Path: path, Value: tree{
		"desiredValue": v.desired[name], "desiredVersion": sub(v.desiredMeta, name)["$lastUpdatedVersion"],
	}}}
}

// told tells of a reported value: an acknowledgement, or one that only the device writes.
func (v view) told(name, at string, null bool) []step {
	path := at + "/$metadata/" + escape(name)
	if null {
		steps := []step{{Op: "remove", Path: at + "/" + escape(name)}}
		if _, wanted := v.desired[name]; !wanted {
			steps = append(steps, step{Op: "remove", Path: path})
		}
		return steps
	}
	value := v.reported[name]
	var steps []step
	if ack, ok := acknowledgement(value); ok {
		value = ack["value"]
		steps = append(steps, step{"add", path + "/ackCode", ack["ac"]})
		if text, ok := ack["ad"]; ok {
			steps = append(steps, step{"add", path + "/ackDescription", text})
		}
		steps = append(steps, step{"add", path + "/ackVersion", ack["av"]})
	}
	return append(steps, step{"add", path + "/lastUpdateTime", sub(v.reportedMeta, name)["$lastUpdated"]}, step{"add", at + "/" + escape(name), value})
}

// escape writes a name as one token of a JSON Pointer (RFC 6901 §3).
func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }
