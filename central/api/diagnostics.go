package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"

	"github.com/vauban-iot/vauban/hub/routing"
)

// Diagnostic settings of Azure say where a hub's own log goes. What does so here are exports, event subscriptions, and routes of events of the
// hub. A change of one of them is what Defender calls a change of a diagnostic setting (defender §2.2).

func (a *API) diagnosticsChanged(r *http.Request, name string, deleted bool) {
	if a.cfg.DiagnosticsChanged != nil {
		a.cfg.DiagnosticsChanged(r.Context(), name, r.RemoteAddr, deleted)
	}
}

// routesChanged tells of each route of events that differs between two configurations.
func (a *API) routesChanged(r *http.Request, before, after []byte) {
	old, fresh := eventRoutes(before), eventRoutes(after)
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, stays := fresh[name]; !stays {
			a.diagnosticsChanged(r, "route "+name, true)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fresh)) {
		if was, stood := old[name]; !stood || !reflect.DeepEqual(was, fresh[name]) {
			a.diagnosticsChanged(r, "route "+name, false)
		}
	}
}

// eventRoutes are the routes of a configuration that take events of the hub.
func eventRoutes(text []byte) map[string]routing.Route {
	var c routing.Config
	if json.Unmarshal(text, &c) != nil {
		return nil // it was never in force
	}
	routes := make(map[string]routing.Route)
	for _, route := range c.Routes {
		if route.Source != routing.DeviceMessages {
			routes[route.Name] = route
		}
	}
	return routes
}
