package posture

import (
	"cmp"
	"slices"
)

// TypeState is a type with what stands of it.
type TypeState struct {
	Type
	Enabled bool `json:"enabled"`
	Devices int  `json:"devices"` // that it is active for
	Hub     bool `json:"hub"`     // it is active for the hub
}

// States lists the types and families there are, and single checks of a family that are disabled, by name. t are the fleet's.
func States(disabled Disabled, t Totals) []TypeState {
	list := Types()
	for name := range disabled {
		if Family(name) != name {
			list = append(list, Lookup(name))
		}
	}
	slices.SortFunc(list, func(a, b Type) int { return cmp.Compare(a.Name, b.Name) })
	all := make([]TypeState, len(list))
	for i, one := range list {
		all[i] = TypeState{Type: one, Enabled: !disabled.Has(one.Name)}
		for _, y := range t.Tallies {
			if y.Type == one.Name {
				all[i].Devices, all[i].Hub = y.Devices, y.HubTakes > 0
			}
		}
	}
	return all
}
