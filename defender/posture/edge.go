package posture

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// deployment is the desired twin of $edgeAgent, as far as it is judged.
type deployment struct {
	Runtime struct {
		Settings struct {
			RegistryCredentials map[string]struct {
				Address  string `json:"address"`
				Username string `json:"username"`
			} `json:"registryCredentials"`
		} `json:"settings"`
	} `json:"runtime"`
	SystemModules map[string]json.RawMessage `json:"systemModules"`
	Modules       map[string]json.RawMessage `json:"modules"`
}

type edgeModule struct {
	Settings map[string]json.RawMessage `json:"settings"`
	Env      map[string]struct {
		Value json.RawMessage `json:"value"`
	} `json:"env"`
}

type createOptions struct {
	HostConfig struct {
		Privileged  bool
		CapAdd      []string
		NetworkMode string
		PidMode     string
		IpcMode     string //nolint:revive // as the engine spells it
		Binds       []string
		Mounts      []struct{ Source string }
		LogConfig   struct{ Type string }
	}
}

// options joins createOptions and its continuations createOptions01 to createOptions07 (edge §3).
func (m *edgeModule) options() (o createOptions, ok bool) {
	var text strings.Builder
	for i := range 8 {
		name := "createOptions"
		if i > 0 {
			name += "0" + strconv.Itoa(i)
		}
		raw, there := m.Settings[name]
		if !there {
			break
		}
		var part string
		if json.Unmarshal(raw, &part) != nil {
			part = string(raw) // an object, as some tools write it
		}
		text.WriteString(part)
	}
	return o, text.Len() > 0 && json.Unmarshal([]byte(text.String()), &o) == nil
}

// EdgeModule is a line of the additional data about deployments.
type EdgeModule struct {
	Module  string
	Options []string `json:",omitempty"`
}

// servicePrincipal is how Azure names those who are no administrator of a registry: by a GUID.
var servicePrincipal = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

const azureRegistry = ".azurecr.io"

// edges judges the deployment of an edge device. Of one that has none nothing is found.
func edges(device string, facts []Fact) (found []Finding) {
	at := slices.IndexFunc(facts, func(f Fact) bool { return f.ID.Module == registry.EdgeAgent })
	if at < 0 {
		return nil
	}
	var d deployment
	if json.Unmarshal(facts[at].Desired, &d) != nil {
		return nil
	}
	about := iot.ID{Device: device}
	add := func(kind string, data any) { found = append(found, Finding{Type: kind, About: about, Data: data}) }
	var privileged, silent []EdgeModule
	for _, modules := range []map[string]json.RawMessage{d.SystemModules, d.Modules} {
		for name, raw := range modules {
			var m edgeModule
			if json.Unmarshal(raw, &m) != nil {
				continue
			}
			o, ok := m.options()
			if !ok {
				continue
			}
			// The agent itself needs the engine's socket, and the platform gives it to it.
			if p := privileges(&o); len(p) > 0 {
				privileged = append(privileged, EdgeModule{clip(name), p})
			}
			if strings.EqualFold(o.HostConfig.LogConfig.Type, "none") {
				silent = append(silent, EdgeModule{Module: clip(name)})
			}
		}
	}
	listed := func(kind string, all []EdgeModule) {
		if len(all) == 0 {
			return
		}
		slices.SortFunc(all, func(a, b EdgeModule) int { return strings.Compare(a.Module, b.Module) })
		add(kind, fitting(all, func(some []EdgeModule, more int) any {
			return struct {
				Modules []EdgeModule
				More    int `json:",omitempty"`
			}{some, more}
		}))
	}
	listed(PrivilegedDockerOptions, privileged)
	listed(EdgeLoggingOptions, silent)

	var admins []string
	for _, c := range d.Runtime.Settings.RegistryCredentials {
		host, _, _ := strings.Cut(strings.ToLower(c.Address), "/")
		if strings.HasSuffix(host, azureRegistry) && !servicePrincipal.MatchString(c.Username) {
			admins = append(admins, clip(host))
		}
	}
	if len(admins) > 0 {
		slices.Sort(admins)
		add(ACRAuthentication, fitting(slices.Compact(admins), func(some []string, more int) any {
			return struct {
				Registries []string
				More       int `json:",omitempty"`
			}{some, more}
		}))
	}
	if raw, ok := d.SystemModules["edgeHub"]; ok {
		var m edgeModule
		if json.Unmarshal(raw, &m) == nil {
			var on []string
			for _, head := range []string{"amqpSettings__enabled", "httpSettings__enabled", "mqttSettings__enabled"} {
				if v := strings.Trim(string(m.Env[head].Value), `"`); !strings.EqualFold(v, "false") {
					on = append(on, head)
				}
			}
			if len(on) == 3 {
				add(EdgeHubMemOptimize, struct{ Enabled []string }{on})
			}
		}
	}
	return found
}

// privileges are what a module may do beyond a container's own matters.
func privileges(o *createOptions) (all []string) {
	h := &o.HostConfig
	if h.Privileged {
		all = append(all, "Privileged")
	}
	for _, c := range h.CapAdd[:min(len(h.CapAdd), 64)] {
		all = append(all, "CapAdd "+clip(c))
	}
	for _, m := range []struct{ name, mode string }{{"NetworkMode", h.NetworkMode}, {"PidMode", h.PidMode}, {"IpcMode", h.IpcMode}} {
		if strings.EqualFold(m.mode, "host") {
			all = append(all, m.name+" host")
		}
	}
	sources := slices.Clone(h.Binds)
	for _, m := range h.Mounts {
		sources = append(sources, m.Source)
	}
	for _, s := range sources {
		source, _, _ := strings.Cut(s, ":")
		if strings.HasSuffix(source, "docker.sock") || strings.HasSuffix(source, "containerd.sock") || strings.HasSuffix(source, "podman.sock") {
			all = append(all, "Binds "+clip(source))
		}
	}
	return all
}
