package fleet

import "github.com/vauban-iot/vauban/sim/traffic"

// attackNames are those that boards know.
func attackNames() []string {
	names := make([]string, len(traffic.Attacks))
	for i, a := range traffic.Attacks {
		names[i] = string(a)
	}
	return names
}
