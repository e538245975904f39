package service

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/iot"
)

// keys is what the key routes need of the hub.
type keys interface {
	RotateKeys(ctx context.Context, id iot.ID, primary, secondary bool) (registry.Identity, error)
}

var keyRoutes = []route{
	{method: "POST", path: []string{"devices", "keys", "regenerate"}, rights: access.RegistryWrite, limit: maxIdentity, serve: (*Head).regenerate},
}

type keyOwner struct {
	ID       string `json:"id"`
	ModuleID string `json:"moduleId,omitempty"`
}

type rotatedKeys struct {
	keyOwner
	Primary   string `json:"primaryKey"`
	Secondary string `json:"secondaryKey"`
}

type rotationError struct {
	keyOwner
	Code   string `json:"errorCode"`
	Status string `json:"errorStatus"`
}

// regenerate makes new keys for many identities (hub-service §2.8): 200 when all have them, 207 when some, 400 when none.
func (h *Head) regenerate(q *request) error {
	var body struct {
		Key     string     `json:"policyKey"`
		Devices []keyOwner `json:"devices"`
	}
	if err := json.Unmarshal(q.body, &body); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not a list of devices")
	}
	key, err := oneOf("policyKey", body.Key, []string{"primaryKey", "secondaryKey", "both"})
	if err != nil {
		return err
	}
	if key == "" || len(body.Devices) == 0 || len(body.Devices) > registry.MaxBulk {
		return fault.New(fault.Invalid, "the body needs policyKey and 1 to %d devices", registry.MaxBulk)
	}
	if err := h.takeMore(q, throttle.Registry, len(body.Devices)-1); err != nil {
		return err
	}
	var changed []string
	rotated, failed := []rotatedKeys{}, []rotationError{}
	for _, o := range body.Devices {
		d, err := h.core.RotateKeys(q.Context(), iot.ID{Device: o.ID, Module: o.ModuleID}, key != "secondaryKey", key != "primaryKey")
		changed = append(changed, iot.ID{Device: o.ID, Module: o.ModuleID}.String())
		if err == nil {
			rotated = append(rotated, rotatedKeys{o, d.Authentication.PrimaryKey.Base64(), d.Authentication.SecondaryKey.Base64()})
			continue
		}
		name := codeOf(fault.KindOf(err)).name
		if o.ModuleID != "" && fault.Is(err, fault.NotFound) {
			name = strings.Replace(name, "Device", "Module", 1)
		}
		changed[len(changed)-1] += ": " + name
		failed = append(failed, rotationError{o, name, fault.Public(err)})
		h.log.Log(q.Context(), levelOf(err), "keys not regenerated", "head", "service", "device", o.ID, "module", o.ModuleID, "remote", q.RemoteAddr, "err", err)
	}
	rest.Note(q.Context(), "key", key, "rows", changed)
	status := http.StatusOK
	switch {
	case len(rotated) == 0:
		status = http.StatusBadRequest
		q.w.Header()["iothub-errorcode"] = []string{failed[0].Code}
	case len(failed) > 0:
		status = http.StatusMultiStatus
	}
	return writeJSON(q.w, status, struct {
		Key     string          `json:"policyKey"`
		Rotated []rotatedKeys   `json:"rotatedKeys"`
		Errors  []rotationError `json:"errors"`
	}{key, rotated, failed})
}
