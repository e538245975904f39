package digitaltwin

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/twin"
)

// Limits of a patch (hub-service §3.7).
const (
	maxOperations = 1000
	maxName       = 64
	maxDepth      = 5 // of a property's value
)

// Patch is a JSON Patch (RFC 6902) of a digital twin.
type Patch struct{ ops []operation }

type operation struct {
	remove    bool
	component string // empty: of the root
	name      string // of a property, or of a component as a whole
	whole     bool   // value holds all properties of component name
	value     any
}

// ParsePatch reads the body of a patch. Failures are fault.Malformed and Invalid.
func ParsePatch(body []byte) (Patch, error) {
	var rows []struct {
		Op    string          `json:"op"`
		Path  string          `json:"path"`
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(body, &rows); err != nil {
		return Patch{}, fault.Wrap(fault.Malformed, err, "the body is not a JSON Patch")
	}
	if len(rows) > maxOperations {
		return Patch{}, fault.New(fault.Invalid, "the patch has %d operations, %d are allowed", len(rows), maxOperations)
	}
	var p Patch
	for i, r := range rows {
		o, err := parseOperation(r.Op, r.Path, r.Value)
		if err != nil {
			return Patch{}, fault.Wrap(fault.KindOf(err), err, "operation %d: %s", i, fault.Public(err))
		}
		p.ops = append(p.ops, o)
	}
	return p, nil
}

func parseOperation(op, path string, value json.RawMessage) (operation, error) {
	var o operation
	switch op {
	case "add", "replace":
	case "remove":
		o.remove = true
	default:
		return o, fault.New(fault.Invalid, "op %q is none of add, replace and remove", op)
	}
	rest, rooted := strings.CutPrefix(path, "/")
	names := strings.Split(rest, "/")
	if !rooted || len(names) > 2 {
		return o, fault.New(fault.Invalid, "path %q is not /property, /component or /component/property", path)
	}
	for _, name := range names {
		if err := CheckName(name); err != nil {
			return o, err
		}
	}
	if o.name = names[0]; len(names) == 2 {
		o.component, o.name = names[0], names[1]
	}
	if o.remove {
		return o, nil
	}
	if len(value) == 0 {
		return o, fault.New(fault.Invalid, "%s needs a value", op)
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	if err := d.Decode(&o.value); err != nil {
		return o, fault.Wrap(fault.Malformed, err, "the value is not JSON")
	}
	if component, ok := o.value.(tree); ok && o.component == "" && component["$metadata"] != nil {
		o.whole = true
		if meta, ok := component["$metadata"].(tree); !ok || len(meta) > 0 {
			return o, fault.New(fault.Invalid, `the value of component '%s' needs an empty object as "$metadata"`, o.name)
		}
		delete(component, "$metadata")
		for name, v := range component {
			if err := CheckName(name); err != nil {
				return o, err
			}
			if err := checkValue(name, v, 1); err != nil {
				return o, err
			}
		}
		return o, nil
	}
	return o, checkValue(o.name, o.value, 1)
}

// CheckName checks the name of a property, component or command: a letter first, then letters, digits and
// underscores, none of them last, 64 at most.
func CheckName(name string) error {
	bad := fault.New(fault.Invalid, "%.80q is no name of a model: a letter, then letters, digits and _, at most %d, not ending in _", name, maxName)
	if name == "" || len(name) > maxName || name[len(name)-1] == '_' {
		return bad
	}
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return bad
		}
	}
	return nil
}

func checkValue(property string, v any, depth int) error {
	switch v := v.(type) {
	case nil:
		return fault.New(fault.Invalid, "property '%s' cannot be null; remove it instead", property)
	case []any:
		return fault.New(fault.Invalid, "property '%s' cannot hold an array", property)
	case tree:
		if depth > maxDepth {
			return fault.New(fault.Invalid, "property '%s' is deeper than %d levels", property, maxDepth)
		}
		for name, member := range v {
			if err := CheckName(name); err != nil {
				return err
			}
			if err := checkValue(property, member, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Of is the patch of t's desired properties that p means; fault.Invalid when t holds something else than a
// digital twin at one of p's places.
func (p Patch) Of(t twin.Twin) (twin.Patch, error) {
	desired, reported := parse(t.Desired), parse(t.Reported)
	next := parse(t.Desired)
	merge := tree{}
	for _, o := range p.ops {
		if err := o.conforms(desired, reported, next); err != nil {
			return twin.Patch{}, err
		}
		switch {
		case o.component != "":
			o.inComponent(desired, next, merge)
		case o.whole:
			component := maps.Clone(o.value.(tree))
			component[marker] = "c"
			next[o.name] = component
			merge[o.name] = exactly(desired[o.name], component)
		case o.remove:
			delete(next, o.name)
			merge[o.name] = nil
		default:
			next[o.name] = o.value
			merge[o.name] = exactly(desired[o.name], o.value)
		}
	}
	return twin.Patch{Desired: marshal(merge), HasDesired: true}, nil
}

func (o operation) inComponent(desired, next, merge tree) {
	component := sub(next, o.component)
	changes := sub(merge, o.component)
	if changes == nil {
		changes = tree{}
	}
	if o.remove {
		if component == nil {
			return
		}
		delete(component, o.name)
		changes[o.name] = nil
		merge[o.component] = changes
		return
	}
	if component == nil {
		component = tree{}
		next[o.component] = component
		changes, _ = exactly(desired[o.component], component).(tree) // one that was removed before may stand there
	}
	if component[marker] != "c" {
		component[marker] = "c"
		changes[marker] = "c"
	}
	component[o.name] = o.value
	changes[o.name] = exactly(sub(desired, o.component)[o.name], o.value)
	merge[o.component] = changes
}

// conforms judges what stands where o wants to write.
func (o operation) conforms(desired, reported, next tree) error {
	top := o.name
	if o.component != "" {
		top = o.component
	}
	wanted, isWanted := next[top]
	told, isTold := reported[top]
	if o.component != "" || o.whole {
		for _, at := range []struct {
			v  any
			is bool
		}{{wanted, isWanted}, {told, isTold}} {
			if at.is && !isComponent(at.v) {
				return nonconforming(top)
			}
		}
	} else if !o.remove && (isComponent(wanted) || isComponent(told)) {
		return fault.New(fault.Invalid, `'%s' is a component; its value needs "$metadata":{}`, top)
	}
	if !o.remove {
		return nil
	}
	// What nobody knows cannot be removed: the path is a mistake.
	if o.component != "" {
		_, isWanted = sub(next, top)[o.name]
		_, isTold = sub(reported, top)[o.name]
	}
	if !isWanted && !isTold {
		return fault.New(fault.Invalid, "'%s' does not exist", strings.Trim(o.component+"/"+o.name, "/"))
	}
	return nil
}

func nonconforming(name string) error {
	return fault.New(fault.Invalid, "'%s' exists within the device twin and is not digital twin conformant property", name)
}

// exactly is the merge patch that makes next of old: members that are not in next are removed.
func exactly(old, next any) any {
	n, ok := next.(tree)
	if !ok {
		return next
	}
	o, _ := old.(tree)
	merge := tree{}
	for name := range o {
		if _, ok := n[name]; !ok {
			merge[name] = nil
		}
	}
	for name, v := range n {
		merge[name] = exactly(o[name], v)
	}
	return merge
}

// Method is the direct method that carries a command (hub-service §3.7). component is empty for a command of the root.
func Method(component, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if component == "" {
		return name, nil
	}
	if err := CheckName(component); err != nil {
		return "", err
	}
	return component + "*" + name, nil
}
