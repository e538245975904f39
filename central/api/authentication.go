package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
)

// AuthenticationStore keeps which kinds of tokens the hub takes from nobody.
type AuthenticationStore interface {
	// Refused returns what is in force.
	Refused(ctx context.Context) (access.Refused, error)
	// PutRefused replaces it; it is on disk, and in force on this server, when the call returns.
	PutRefused(ctx context.Context, r access.Refused) error
}

// maxAuthentication bounds the body: three switches.
const maxAuthentication = 4 << 10

func (a *API) authentication(w http.ResponseWriter, r *http.Request) error {
	refused, err := a.cfg.Authentication.Refused(r.Context())
	if err != nil {
		return err
	}
	return writeRefused(w, refused)
}

func (a *API) putAuthentication(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAuthentication))
	if err != nil {
		return fault.Wrap(fault.TooLarge, err, "the switches may have %d bytes", maxAuthentication)
	}
	var refused access.Refused
	if err := json.Unmarshal(body, &refused); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not an object of disableLocalAuth, disableDeviceSAS and disableModuleSAS")
	}
	if err := a.cfg.Authentication.PutRefused(r.Context(), refused); err != nil {
		return err
	}
	rest.Note(r.Context(), "policies", refused.Policies, "devices", refused.DeviceSAS, "modules", refused.ModuleSAS)
	return writeRefused(w, refused)
}

func writeRefused(w http.ResponseWriter, refused access.Refused) error {
	text, err := json.Marshal(refused)
	if err != nil {
		return err
	}
	return writeRaw(w, text)
}
