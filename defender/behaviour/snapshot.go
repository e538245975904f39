package behaviour

import (
	"bytes"
	"encoding/gob"
	"fmt"
)

// Shards is in how many parts the state of an engine is kept, so that none is large.
const Shards = 64

// kept is a shard as it is written. Another version is read as nothing.
type kept struct {
	Version int
	Devices []*device
	Groups  []*group
}

const version = 1

// Changed reports whether a shard has news since it was last written.
func (e *Engine) Changed(shard int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dirty[shard]
}

// Save writes a shard. What is in progress, such as a finding that waits for its group, is not in it.
func (e *Engine) Save(part int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := kept{Version: version}
	for id, d := range e.devices {
		if shard(id) == part {
			k.Devices = append(k.Devices, d)
		}
	}
	for name, g := range e.groups {
		if groupShard(name) == part {
			k.Groups = append(k.Groups, g)
		}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(k); err != nil {
		return nil, fmt.Errorf("behaviour: write part %d: %w", part, err)
	}
	e.dirty[part] = false
	return b.Bytes(), nil
}

// Load reads what Save wrote, beside what is known. Devices that are known already stay as they are.
func (e *Engine) Load(data []byte) error {
	var k kept
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&k); err != nil {
		return fmt.Errorf("behaviour: what is kept of devices is damaged: %w", err)
	}
	if k.Version != version {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range k.Groups {
		have := e.groups[g.Name]
		if have == nil {
			if len(e.groups) >= maxGroups {
				continue
			}
			have = &group{Name: g.Name, Known: make(map[uint64]*common, len(g.Known))}
			e.groups[g.Name] = have
		}
		for key, c := range g.Known {
			if len(have.Known) < maxKnown && have.Known[key] == nil {
				have.Known[key] = c
			}
		}
	}
	for _, d := range k.Devices {
		if e.devices[d.ID] != nil {
			continue
		}
		if len(d.Remotes) > maxRemotes || len(d.Services) > maxServices || len(d.Sweeps) > maxSweeps {
			return fmt.Errorf("behaviour: what is kept of device %s is damaged", d.ID)
		}
		e.devices[d.ID] = d
		e.bytes += d.size()
		if d.Group != "" {
			e.groupOf(d).Members++
		}
		e.makeRoom(d)
	}
	return nil
}
