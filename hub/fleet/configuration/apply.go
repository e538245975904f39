package configuration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// The words of a configuration's status in a twin.
const (
	targeted = "Targeted"
	applied  = "Applied"
)

// state is what is remembered in a twin: which configurations select it, and what was done for them.
type state struct {
	Targets map[string]string `json:"targets,omitempty"` // status by id, by conditions over this twin
	By      string            `json:"by,omitempty"`      // configuration whose settings were written here
	Digest  string            `json:"digest,omitempty"`
	Paths   [][]string        `json:"paths,omitempty"`   // that it set
	Edge    string            `json:"edge,omitempty"`    // digest of the deployments applied to this edge device
	Modules []string          `json:"modules,omitempty"` // that they wrote
	Layers  []string          `json:"layers,omitempty"`  // of a module: the deployments that apply to its device
}

func stateOf(t twin.Twin) state {
	var st state
	if len(t.Configured) > 0 {
		_ = json.Unmarshal(t.Configured, &st) // written by store; damaged, it is as none and made again
	}
	return st
}

// store writes st into t, for us and for programs.
func (st state) store(t *twin.Twin) {
	t.Configured, t.Configurations = nil, nil
	if b := marshal(st); string(b) != "{}" {
		t.Configured = b
	}
	type status struct {
		Status string `json:"status"`
	}
	seen := map[string]status{}
	for id, s := range st.Targets {
		seen[id] = status{s}
	}
	for _, id := range st.Layers {
		seen[id] = status{applied}
	}
	if len(seen) > 0 {
		t.Configurations = marshal(seen)
	}
}

// write sets and removes settings of one twin, and remembers st in it. by is who says so.
func (s *Service) write(ctx context.Context, id iot.ID, remember func(*state), by, digest string, change func(desired tree) (always []setting)) error {
	err := s.cfg.Hub.ChangeTwin(ctx, id, func(t twin.Twin) (twin.Twin, json.RawMessage, error) {
		before := t
		if remember != nil {
			st := stateOf(t)
			remember(&st)
			st.store(&t)
		}
		var push json.RawMessage
		if change != nil {
			old := parseTree(t.Desired)
			next := clone(old).(tree)
			always := change(next)
			patch := difference(old, next)
			for _, a := range always { // even what is equal already bears our name from now on
				if !within(patch, a.path) {
					set(patch, a.path, a.value)
				}
			}
			var err error
			if t, push, err = t.Apply(twin.Patch{Desired: marshal(patch), HasDesired: true, By: by, ByDigest: digest}, s.now()); err != nil {
				return t, nil, err
			}
		}
		if t.Version == before.Version && string(t.Configured) == string(before.Configured) && string(t.Configurations) == string(before.Configurations) {
			return t, nil, errUnchanged
		}
		return t, push, nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// within reports whether a patch changes something at a path already.
func within(patch tree, path []string) bool {
	for i, name := range path {
		v, ok := patch[name]
		if !ok {
			return false
		}
		if i == len(path)-1 {
			return true
		}
		if patch, ok = v.(tree); !ok {
			return true
		}
	}
	return false
}

// applyTwin makes winner, or nobody, the configuration of one twin.
func (s *Service) applyTwin(ctx context.Context, id iot.ID, had state, targets map[string]string, winner *rule) error {
	by, digest := "", ""
	var paths [][]string
	if winner != nil {
		by, digest = winner.ID, winner.content.digest
		for _, st := range winner.content.twin {
			paths = append(paths, st.path)
		}
	}
	remember := func(st *state) { st.Targets, st.By, st.Digest, st.Paths = targets, by, digest, paths }
	if had.By == by && had.Digest == digest {
		return s.write(ctx, id, remember, "", "", nil)
	}
	return s.write(ctx, id, remember, by, digest, func(desired tree) []setting {
		for _, p := range had.Paths {
			unset(desired, p)
		}
		if winner == nil {
			return nil
		}
		for _, st := range winner.content.twin {
			set(desired, st.path, clone(st.value))
		}
		return winner.content.twin
	})
}

// Reserved modules of the edge runtime; they are never made or removed here.
const (
	edgeAgent = "$edgeAgent"
	edgeHub   = "$edgeHub"
)

// modulePlan is what a module's desired properties become, and who has the last word on them. A module without a whole
// of its own keeps what it has, beside what is set.
type modulePlan struct {
	whole    bool
	desired  tree
	settings []setting
	by       string
	digest   string
}

// plan puts layers on each other, from the lowest up.
func plan(layers []*rule) map[string]*modulePlan {
	plans := map[string]*modulePlan{}
	for _, l := range layers {
		for module, settings := range l.content.modules {
			p := plans[module]
			if p == nil {
				p = &modulePlan{desired: tree{}}
				plans[module] = p
			}
			p.by, p.digest = l.ID, l.content.digest
			for _, st := range settings {
				if len(st.path) == 0 {
					p.whole, p.desired, p.settings = true, clone(st.value).(tree), nil
					continue
				}
				set(p.desired, st.path, clone(st.value))
				p.settings = append(p.settings, st)
			}
		}
	}
	return plans
}

// userModules are the modules that must exist: those with settings and those the agent is told to run.
func userModules(plans map[string]*modulePlan) []string {
	names := map[string]bool{}
	for module := range plans {
		names[module] = true
	}
	if agent := plans[edgeAgent]; agent != nil {
		told, _ := agent.desired["modules"].(tree)
		for module := range told {
			names[module] = true
		}
	}
	delete(names, edgeAgent)
	delete(names, edgeHub)
	return slices.Sorted(maps.Keys(names))
}

func digestOf(layers []*rule) string {
	if len(layers) == 0 {
		return ""
	}
	h := sha256.New()
	for _, l := range layers {
		h.Write([]byte(l.ID + "\x00" + l.content.digest + "\x00"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// applyEdge makes layers, from the base up, the deployment of an edge device.
func (s *Service) applyEdge(ctx context.Context, device string, had state, layers []*rule) error {
	digest := digestOf(layers)
	if had.Edge == digest {
		return nil
	}
	plans := plan(layers)
	var written []string
	if len(layers) > 0 {
		if err := s.deploy(ctx, device, plans, layers); err != nil {
			return err
		}
		written = slices.Sorted(maps.Keys(plans))
	}
	// Without any deployment the last set of modules stays; it only is nobody's any longer.
	for _, module := range had.Modules {
		if slices.Contains(written, module) {
			continue
		}
		if err := s.write(ctx, iot.ID{Device: device, Module: module}, func(st *state) { st.Layers = nil }, "", "", nil); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return s.write(ctx, iot.ID{Device: device}, func(st *state) { st.Edge, st.Modules = digest, written }, "", "", nil)
}

// deploy writes the desired properties of an edge device's modules, makes those that are missing and removes
// those of ours that are not told of any longer. layers may be nil: nobody is remembered then.
func (s *Service) deploy(ctx context.Context, device string, plans map[string]*modulePlan, layers []*rule) error {
	users := userModules(plans)
	have, err := s.cfg.Hub.Modules(ctx, device)
	if err != nil {
		return err
	}
	exists := map[string]bool{}
	for _, m := range have {
		name := m.ID.Module
		if m.ManagedBy == managedBy && !strings.HasPrefix(name, "$") && !slices.Contains(users, name) && plans[edgeAgent] != nil {
			if err := s.cfg.Hub.DeleteDevice(ctx, m.ID, nil); err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			continue
		}
		exists[name] = true
	}
	for _, name := range users {
		if exists[name] {
			continue
		}
		_, err := s.cfg.Hub.CreateDevice(ctx, registry.Identity{ID: iot.ID{Device: device, Module: name}, Status: registry.Enabled,
			Authentication: registry.Authentication{Type: registry.SAS}, ManagedBy: managedBy})
		if err != nil && !fault.Is(err, fault.AlreadyExists) {
			return err
		}
	}
	var ids []string
	for _, l := range layers {
		ids = append(ids, l.ID)
	}
	for _, module := range slices.Sorted(maps.Keys(plans)) {
		p := plans[module]
		var remember func(*state)
		if layers != nil {
			remember = func(st *state) { st.Layers = ids }
		}
		err := s.write(ctx, iot.ID{Device: device, Module: module}, remember, p.by, p.digest, func(desired tree) []setting {
			if p.whole {
				clear(desired)
				maps.Copy(desired, clone(p.desired).(tree))
				return nil
			}
			for _, st := range p.settings {
				set(desired, st.path, clone(st.value))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// managedBy marks module identities that deployments made.
const managedBy = "iotEdge"

// ApplyContent gives one device a content once (hub-service §5.5). Failures are fault.NotFound and Invalid.
func (s *Service) ApplyContent(ctx context.Context, device string, raw json.RawMessage) error {
	d, err := s.cfg.Hub.Device(ctx, iot.ID{Device: device})
	if err != nil {
		return err
	}
	r := &rule{Configuration: Configuration{Content: raw}}
	if r.content, err = parseContent(raw); err != nil {
		return err
	}
	switch r.content.kind {
	case ForDevices:
		return s.write(ctx, iot.ID{Device: device}, nil, "", "", func(desired tree) []setting {
			for _, st := range r.content.twin {
				set(desired, st.path, clone(st.value))
			}
			return r.content.twin
		})
	case ForEdge:
		if !d.Edge {
			return fault.New(fault.Invalid, "%s is no edge device; it takes deviceContent", device)
		}
		return s.deploy(ctx, device, plan([]*rule{r}), nil)
	}
	return fault.New(fault.Invalid, "a device takes deviceContent or modulesContent")
}
