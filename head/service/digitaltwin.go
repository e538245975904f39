package service

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/head/rest"
	"github.com/vauban-iot/vauban/hub/command"
	"github.com/vauban-iot/vauban/hub/digitaltwin"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// digitalTwins is what the digital twin routes need of the hub.
type digitalTwins interface {
	DigitalTwin(ctx context.Context, id iot.ID) (json.RawMessage, iot.ETag, error)
	PatchDigitalTwin(ctx context.Context, id iot.ID, match *iot.Match, p digitaltwin.Patch) (iot.ETag, error)
}

var digitalTwinRoutes = []route{
	{method: "GET", path: []string{"digitaltwins", "*"}, rights: access.ServiceConnect, serve: (*Head).getDigitalTwin},
	{method: "PATCH", path: []string{"digitaltwins", "*"}, rights: access.ServiceConnect, limit: maxTwin, serve: (*Head).patchDigitalTwin},
	{method: "POST", path: []string{"digitaltwins", "*", "commands", "*"}, rights: access.ServiceConnect, limit: maxMethod, serve: (*Head).rootCommand, formB: true},
	{method: "POST", path: []string{"digitaltwins", "*", "components", "*", "commands", "*"}, rights: access.ServiceConnect, limit: maxMethod, serve: (*Head).componentCommand, formB: true},
}

func (h *Head) getDigitalTwin(q *request) error {
	doc, etag, err := h.core.DigitalTwin(q.Context(), q.id())
	if err != nil {
		return err
	}
	rest.JSON(q.w, http.StatusOK, string(etag), doc)
	return nil
}

func (h *Head) patchDigitalTwin(q *request) error {
	p, err := digitaltwin.ParsePatch(q.body)
	if err != nil {
		return err
	}
	etag, err := h.core.PatchDigitalTwin(q.Context(), q.id(), q.match(), p)
	if err != nil {
		return err
	}
	header := q.w.Header()
	header["ETag"] = []string{`"` + string(etag) + `"`}
	header["Location"] = []string{"https://" + q.Host + "/digitaltwins/" + url.PathEscape(q.segments[1])}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (h *Head) rootCommand(q *request) error { return h.command(q, "", q.segments[3]) }

func (h *Head) componentCommand(q *request) error { return h.command(q, q.segments[3], q.segments[5]) }

// command is a direct method in the words of a model: what the device says is the body, its status a header.
func (h *Head) command(q *request, component, name string) error {
	method, err := digitaltwin.Method(component, name)
	if err != nil {
		return err
	}
	m := command.Method{Name: method, ResponseTimeout: 30 * time.Second}
	if len(q.body) > 0 {
		if !json.Valid(q.body) {
			return fault.New(fault.Malformed, "the body is not JSON")
		}
		if string(q.body) != "null" {
			m.Payload = q.body
		}
	}
	params := q.URL.Query()
	for name, to := range map[string]*time.Duration{"responseTimeoutInSeconds": &m.ResponseTimeout, "connectTimeoutInSeconds": &m.ConnectTimeout} {
		s := params.Get(name)
		if s == "" {
			continue
		}
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || n != n {
			return fault.New(fault.Invalid, "%s is not a number", name)
		}
		*to = seconds(n)
	}
	res, err := h.core.Invoke(q.Context(), q.id(), m)
	if err != nil {
		return err
	}
	if res.Payload == nil {
		res.Payload = json.RawMessage("null")
	}
	header := q.w.Header()
	header["x-ms-command-statuscode"] = []string{strconv.Itoa(res.Status)}
	header["x-ms-request-id"] = []string{nonce.New()}
	rest.JSON(q.w, http.StatusOK, "", res.Payload)
	return nil
}
