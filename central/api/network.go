package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// NetworkStore keeps from where the hub may be reached. The operator's API and the console are not its matter: whoever may
// use them can always change it.
type NetworkStore interface {
	Network(ctx context.Context) (*ipfilter.Filter, error)
	// PutNetwork replaces it: new connections and requests are judged by it at once, and devices that it refuses are
	// disconnected.
	PutNetwork(ctx context.Context, f *ipfilter.Filter) error
}

// Network is the filter with what the operator should know of it.
type Network struct {
	ipfilter.Config
	Warnings []string `json:"warnings,omitempty"`
}

func (a *API) network(w http.ResponseWriter, r *http.Request) error {
	f, err := a.cfg.Network.Network(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, Network{f.Config, lockouts(f, r.RemoteAddr)})
}

func (a *API) putNetwork(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	f, err := ipfilter.Parse(body)
	if err != nil {
		return err
	}
	warnings := lockouts(f, r.RemoteAddr)
	if len(warnings) > 0 && r.URL.Query().Get("lockout") != "accept" {
		return fault.New(fault.Invalid, "nothing was changed: with these rules %s; add a rule for it, or send lockout=accept", strings.Join(warnings, ", and "))
	}
	if err := a.cfg.Network.PutNetwork(r.Context(), f); err != nil {
		return err
	}
	rules, err := json.Marshal(f.Config)
	if err != nil {
		return err
	}
	rest.Note(r.Context(), "rules", string(rules))
	return writeJSON(w, http.StatusOK, Network{f.Config, warnings})
}

// lockouts tells what a filter takes from the operator: the commands that call the service API from this machine, and the
// address that asks.
func lockouts(f *ipfilter.Filter, remote string) (warnings []string) {
	here := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if ap, err := netip.ParseAddrPort(remote); err == nil && !ap.Addr().Unmap().IsLoopback() {
		here = append(here, ap.Addr().Unmap().WithZone(""))
	}
	for _, a := range here {
		if _, ok := f.Admits(a, ipfilter.ServiceAPI); !ok {
			warnings = append(warnings, fmt.Sprintf("%s may not call the service API any longer, which commands such as `vauban device` do from there", a))
		}
	}
	return warnings
}
