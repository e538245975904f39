package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/vauban-iot/vauban/agent/config"
	"github.com/vauban-iot/vauban/agent/queue"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sdk/device"
)

// twinFile keeps the desired part, so that an agent that starts without a network is configured as it was.
const twinFile = "twin.json"

// maxTwin is more than a twin holds (hub-device §7).
const maxTwin = 1 << 20

// restore applies what the twin said when it was last heard.
func (a *Agent) restore() {
	a.settings = config.Default()
	if a.v1 {
		applied, section, _ := config.EffectiveV1(nil, nil) // nothing is an object
		a.settings, a.section = applied.Settings, section
	}
	text, err := os.ReadFile(filepath.Join(a.cfg.Dir, twinFile))
	if err != nil || len(text) > maxTwin || json.Unmarshal(text, &a.desired) != nil {
		a.desired = nil
		return
	}
	applied, section := a.judge(text)
	a.settings, a.section = applied.Settings, section
	a.saved(applied)
}

// judge reads the desired part. What is no object is refused like any other bad value.
func (a *Agent) judge(desired []byte) (config.Applied, map[string]any) {
	if a.v1 {
		applied, section, err := config.EffectiveV1(desired, a.section)
		if err != nil {
			return config.Applied{Settings: a.settings, Invalid: []string{config.Section}}, a.section
		}
		return applied, section
	}
	applied, err := config.Flat(desired, a.settings)
	if err != nil {
		return config.Applied{Settings: a.settings, Invalid: []string{"desired"}}, nil
	}
	return applied, nil
}

// twin takes in what the hub says: on any change what was gathered is put into the queue, and the collectors start anew
// (defender §1.5).
func (a *Agent) twin(ctx context.Context, e device.TwinEvent) {
	was := a.desired
	if e.Twin != nil {
		a.desired = nil
		if json.Unmarshal(e.Twin.Desired, &a.desired) != nil || a.desired == nil {
			a.desired = map[string]json.RawMessage{}
		}
	} else {
		patch := map[string]json.RawMessage{}
		if json.Unmarshal(e.Patch, &patch) != nil {
			a.log.Warn("a change of the twin cannot be read")
			return
		}
		a.desired = mergePatch(a.desired, patch)
	}
	for _, name := range []string{"$version", "$metadata"} {
		delete(a.desired, name)
	}
	changed := was == nil || !sameMembers(was, a.desired)
	text, err := json.Marshal(a.desired)
	if err != nil {
		a.log.Error("the twin cannot be written", "err", err)
		return
	}
	applied, section := a.judge(text)
	if changed {
		if err := atomicfile.Write(filepath.Join(a.cfg.Dir, twinFile), text, 0o600); err != nil {
			a.log.Error("the twin cannot be kept for the next start", "err", err)
		}
		for _, name := range applied.Invalid {
			a.log.Warn("a property of the twin is invalid; what was in force stays", "property", name)
		}
		if a.v1 {
			a.configurationErrors(applied.Invalid, section)
		}
	}
	if !reflect.DeepEqual(applied.Settings, a.settings) {
		a.end()
		a.settings = applied.Settings
		a.saved(applied)
		a.begin(ctx)
	} else {
		a.saved(applied)
	}
	a.section = section
	report := config.FlatReport(applied)
	if a.v1 {
		report = map[string]any{config.Section: section}
	}
	// The reported part of a moment ago is not worth telling any more.
	select {
	case <-a.reports:
	default:
	}
	a.reports <- report
}

// saved shows what was made of the twin.
func (a *Agent) saved(applied config.Applied) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.InvalidProperties = applied.Invalid
	a.status.hubResource = applied.Settings.HubResourceID
}

// report says what is in force, in the reported part.
func (a *Agent) report(ctx context.Context) {
	for {
		var r any
		select {
		case r = <-a.reports:
		case <-ctx.Done():
			return
		}
		if _, err := a.client.Report(ctx, r); err != nil && ctx.Err() == nil {
			a.log.Warn("the twin's reported part is not up to date until the next connection", "err", err)
		}
	}
}

// mergePatch applies a patch of objects (hub-device §3.7): members that are null go.
func mergePatch(into, patch map[string]json.RawMessage) map[string]json.RawMessage {
	out := maps.Clone(into)
	if out == nil {
		out = map[string]json.RawMessage{}
	}
	for name, v := range patch {
		var deeper, old map[string]json.RawMessage
		switch {
		case string(v) == "null":
			delete(out, name)
		case json.Unmarshal(v, &deeper) == nil && deeper != nil:
			_ = json.Unmarshal(out[name], &old) // anything else than an object is replaced
			text, err := json.Marshal(mergePatch(old, deeper))
			if err == nil { // of raw JSON that was read, always
				out[name] = text
			}
		default:
			out[name] = v
		}
	}
	return out
}

func sameMembers(a, b map[string]json.RawMessage) bool {
	return maps.EqualFunc(a, b, func(x, y json.RawMessage) bool { return compact(x) == compact(y) })
}

func compact(v json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return string(v)
	}
	return b.String()
}

// configurationErrors tells of refused properties as the older agents do, in JSON 1.0 (defender §1.3).
func (a *Agent) configurationErrors(invalid []string, section map[string]any) {
	if p, _ := section["eventPriorityConfigurationError"].(map[string]any); len(invalid) == 0 || p["value"] == config.Off.String() {
		return
	}
	type payload struct{ ConfigurationName, ErrorType, UsedConfiguration, Message string }
	var all []payload
	for _, name := range invalid[:min(len(invalid), 64)] {
		used := "all of it stays as it was"
		if w, ok := section[name].(map[string]any); ok {
			if text, err := json.Marshal(w["value"]); err == nil {
				used = string(text)
			}
		}
		all = append(all, payload{name, "TypeMismatch", used, "the desired value is not one that " + name + " may have; what was in force stays"})
	}
	now := time.Now()
	id := newID()
	body, err := json.Marshal(map[string]any{
		"AgentVersion": a.cfg.Version, "AgentId": a.module(), "MessageSchemaVersion": "1.0",
		"Events": []any{map[string]any{
			"EventType": "Operational", "Category": "Triggered", "Name": "ConfigurationError", "IsEmpty": false, "PayloadSchemaVersion": "1.0",
			"Id": id, "TimestampLocal": now.Format(time.RFC3339), "TimestampUTC": now.UTC().Format(time.RFC3339), "Payload": all,
		}},
	})
	if err == nil { // of texts, always
		err = a.queue.Put(queue.Message{Time: now, Body: body})
	}
	if err != nil {
		a.log.Error("a message is lost", "err", err)
	}
}

// sourceIndex finds a collector's status. a.mu must be held.
func (a *Agent) sourceIndex(name string) int {
	return slices.IndexFunc(a.status.Sources, func(s SourceStatus) bool { return s.Name == name })
}
