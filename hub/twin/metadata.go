package twin

import (
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/iot"
)

// stamp marks what one write touched (hub-service §3.4).
type stamp struct {
	at      time.Time
	version int64  // of the desired properties; 0 in reported, whose metadata has none
	by      string // the configuration that writes; empty: none
	digest  string
}

const (
	lastUpdated        = "$lastUpdated"
	lastUpdatedVersion = "$lastUpdatedVersion"
	lastUpdatedBy      = "$lastUpdatedBy"
	lastUpdatedDigest  = "$lastUpdatedByDigest"
)

// mark updates meta, which mirrors a section, for a patch that made the section into next: every
// touched member and every object on the way to it carries the stamp; a removed
// member's metadata goes.
func (s stamp) mark(meta, patch, next *node) {
	s.touch(meta)
	for _, m := range patch.members {
		left := next.get(m.name)
		if left == nil {
			meta.remove(m.name)
			continue
		}
		child := meta.get(m.name)
		if child == nil || !m.node.object && hasChildren(child) {
			child = newObject() // a value took the place of an object, or is new
		}
		if m.node.object {
			s.mark(child, m.node, left)
		} else {
			s.touch(child)
		}
		meta.set(m.name, child)
	}
}

// hasChildren reports whether a metadata node mirrors an object with members.
func hasChildren(meta *node) bool {
	for _, m := range meta.members {
		switch m.name {
		case lastUpdated, lastUpdatedVersion, lastUpdatedBy, lastUpdatedDigest:
		default:
			return true
		}
	}
	return false
}

// touch puts the stamp in front of a metadata node.
func (s stamp) touch(meta *node) {
	at := &node{value: `"` + iot.FormatTime(s.at) + `"`}
	if len(meta.members) == 0 || meta.members[0].name != lastUpdated {
		meta.members = append([]member{{lastUpdated, at}}, meta.members...)
	} else {
		meta.members[0].node = at
	}
	if s.version != 0 {
		meta.set(lastUpdatedVersion, &node{value: strconv.FormatInt(s.version, 10)})
	}
	meta.remove(lastUpdatedBy)
	meta.remove(lastUpdatedDigest)
	if s.by != "" {
		meta.set(lastUpdatedBy, &node{value: string(appendQuoted(nil, s.by))})
		meta.set(lastUpdatedDigest, &node{value: string(appendQuoted(nil, s.digest))})
	}
}
