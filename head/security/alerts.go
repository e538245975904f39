package security

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// iotAlert is an alert of the preview (defender §2.5). It has no name of a resource: its properties are all there is.
type iotAlert struct {
	Properties alertProperties `json:"properties"`
}

type alertProperties struct {
	ID       string           `json:"systemAlertId"`
	Entity   string           `json:"compromisedEntity"`
	Type     string           `json:"alertType"`
	Start    time.Time        `json:"startTimeUtc"`
	End      time.Time        `json:"endTimeUtc"`
	Entities []map[string]any `json:"entities"`
	Extended map[string]any   `json:"extendedProperties"`
}

// iotAlert shows a. Those of lists have no evidence, and so no processes and users among their entities.
func (h *Head) iotAlert(a *alert.Alert) iotAlert {
	p := alertProperties{ID: a.ID, Entity: a.Device, Type: a.Type, Start: a.FirstSeen.UTC(), End: a.LastSeen.UTC(), Entities: []map[string]any{}, Extended: map[string]any{}}
	entity := func(kind string, members map[string]any) {
		members["$id"], members["Type"] = strconv.Itoa(len(p.Entities)+1), kind
		p.Entities = append(p.Entities, members)
	}
	if a.Device == "" {
		p.Entity = h.hubName()
	} else {
		entity("iotdevice", map[string]any{"DeviceId": a.Device})
	}
	for _, address := range []string{a.Remote, a.Local} {
		if address != "" {
			entity("ip", map[string]any{"Address": address})
		}
	}
	for _, e := range a.Evidence {
		details := scalars(e.Details)
		if line, ok := first(details, "CommandLine", "commandline"); ok {
			entity("process", map[string]any{"CommandLine": line})
		}
		if user, ok := first(details, "UserName", "user_name"); ok {
			entity("account", map[string]any{"Name": user})
		}
		for name, v := range details {
			if _, taken := p.Extended[name]; !taken {
				p.Extended[name] = v
			}
		}
	}
	// What Vauban says itself stands, whatever a device calls its own.
	p.Extended["Count"], p.Extended["Status"], p.Extended["Severity"], p.Extended["Description"] = a.Count, string(a.Status), string(a.Severity), a.Description
	for name, v := range map[string]string{
		"DeviceId": a.Device, "ModuleId": a.Module, "SecurityGroup": a.Group, "Indicator": a.Indicator, "Source": a.Source,
		"Remote Address": a.Remote, "Local Address": a.Local, "Protocol": a.Protocol, "Direction": a.Direction,
	} {
		if v != "" {
			p.Extended[name] = v
		}
	}
	return iotAlert{p}
}

// maxScalars bounds how many members of evidence an alert shows.
const maxScalars = 50

// scalars are the members of an object that are texts, numbers and truth values.
func scalars(object json.RawMessage) map[string]any {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	var all map[string]any
	if d.Decode(&all) != nil {
		return nil
	}
	for name, v := range all {
		switch v.(type) {
		case string, json.Number, bool:
		default:
			delete(all, name)
		}
	}
	if len(all) > maxScalars {
		return nil
	}
	return all
}

func first(of map[string]any, names ...string) (string, bool) {
	for _, name := range names {
		if s, ok := of[name].(string); ok && s != "" {
			return s, true
		}
	}
	return "", false
}

func (h *Head) alerts(q *request) error {
	f := alert.Filter{Type: q.option("alertType")}
	var err error
	for name, into := range map[string]*time.Time{"startTimeUtc>": &f.From, "startTimeUtc<": &f.To} {
		if s := q.option(name); s != "" {
			if *into, err = time.Parse(time.RFC3339, s); err != nil {
				return fault.New(fault.Invalid, "%s is a time such as 2026-01-31T15:04:05Z", name)
			}
		}
	}
	switch entity := q.option("compromisedEntity"); {
	case entity == "":
	case h.isHub(entity):
		f.OfHub = true
	default:
		if err := iot.ValidateID("compromisedEntity", entity); err != nil {
			return err
		}
		f.Device = entity
	}
	managed := true
	switch s := q.option("deviceManagementType"); {
	case s == "", strings.EqualFold(s, "Managed"):
	case strings.EqualFold(s, "Unmanaged"): // of devices without an identity, of which a hub does not know
		managed = false
	default:
		return fault.New(fault.Invalid, "deviceManagementType is Managed or Unmanaged")
	}
	size, given, err := q.count("$limit")
	if err != nil {
		return err
	}
	if !given {
		size = pageSize
	}
	if t := q.option(skipToken); t != "" {
		if f.Before, err = strconv.ParseUint(t, 10, 63); err != nil || f.Before == 0 {
			return fault.New(fault.Invalid, "the %s is not one that this list gave", skipToken)
		}
	}
	l, values := list{}, []iotAlert{}
	if managed {
		f.Limit = size
		all, err := h.cfg.Alerts.Alerts(q.Context(), f)
		if err != nil {
			return err
		}
		for i := range all {
			values = append(values, h.iotAlert(&all[i]))
		}
		if len(all) == size {
			f.Before, f.Limit = all[size-1].Sequence, 1
			more, err := h.cfg.Alerts.Alerts(q.Context(), f)
			if err != nil {
				return err
			}
			if len(more) > 0 {
				l.NextLink = q.next(strconv.FormatUint(f.Before, 10))
			}
		}
	}
	l.Value = values
	return q.reply(http.StatusOK, l)
}

func (h *Head) alert(q *request) error {
	a, err := h.cfg.Alerts.Alert(q.Context(), q.args["alert"])
	if err != nil {
		return err
	}
	return q.reply(http.StatusOK, h.iotAlert(&a))
}
