package https

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/iot"
)

// callerHeader names the module that calls a method of a neighbour: {device}/{module}
// (hub-device §4.5). Services call the same paths without it.
const callerHeader = "x-ms-edge-moduleId"

// OwnsCall reports whether r is a module's call of a direct method.
func OwnsCall(r *http.Request, segments []string) bool {
	return r.Header.Get(callerHeader) != "" && (rest.Is(segments, "twins", "*", "methods") || rest.Is(segments, "twins", "*", "modules", "*", "methods"))
}

// maxMethod is more than a payload of the largest size takes.
const maxMethod = 256 << 10

// invoke serves a module's call of a direct method of a device or of another module.
func (h *Head) invoke(q *request, segments []string) error {
	device, module, ok := strings.Cut(q.Header.Get(callerHeader), "/")
	if !ok || device == "" || module == "" {
		return fault.New(fault.Invalid, "%s must be {device}/{module}", callerHeader)
	}
	q.id = iot.ID{Device: device, Module: module}
	if q.Method != http.MethodPost {
		return errMethod
	}
	target := iot.ID{Device: segments[1]}
	if len(segments) == 5 {
		target.Module = segments[3]
	}
	if _, err := h.core.Visit(q.Context(), credentials(q)); err != nil {
		return err
	}
	done := q.patience(bodyTime)
	data, err := rest.Body(q.w, q.Request, maxMethod)
	done()
	if err != nil {
		return err
	}
	var in struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response *float64        `json:"responseTimeoutInSeconds"`
		Connect  *float64        `json:"connectTimeoutInSeconds"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not a method request")
	}
	m := command.Method{Name: in.Name, Payload: in.Payload, ResponseTimeout: 30 * time.Second}
	if string(m.Payload) == "null" {
		m.Payload = nil
	}
	if in.Response != nil {
		m.ResponseTimeout = seconds(*in.Response)
	}
	if in.Connect != nil {
		m.ConnectTimeout = seconds(*in.Connect)
	}
	res, err := h.core.InvokeFrom(q.Context(), q.id, target, m)
	if err != nil {
		return err
	}
	if res.Payload == nil {
		res.Payload = json.RawMessage("null")
	}
	body, err := marshal(struct {
		Status  int             `json:"status"`
		Payload json.RawMessage `json:"payload"`
	}{res.Status, res.Payload})
	if err != nil {
		return fault.Wrap(fault.BadDeviceResponse, err, "the answer cannot be rendered")
	}
	rest.JSON(q.w, http.StatusOK, "", body)
	return nil
}

// seconds converts without overflow; what is out of range stays out of range.
func seconds(s float64) time.Duration {
	if s > 1e6 || s < -1e6 {
		s = 1e6
	}
	return time.Duration(s * float64(time.Second))
}
