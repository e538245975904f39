package ui

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// devicesPerPage is how many devices the list holds.
const devicesPerPage = 1000

// fleet is what the list of devices is made of.
type fleet struct {
	statistics registry.Statistics
	devices    []registry.Identity
}

func (c *Console) loadFleet(ctx context.Context) (f fleet, err error) {
	if f.statistics, err = c.cfg.Devices.Statistics(ctx); err != nil {
		return f, err
	}
	f.devices, err = c.cfg.Devices.Devices(ctx, devicesPerPage)
	return f, err
}

// countsView are the numbers above the list.
type countsView struct{ Total, Connected, Disabled string }

// listNote is what there is to say about the list; the zero value: nothing.
type listNote struct {
	None    bool   // no device exists
	NoMatch string // the filter that fits none
	Partly  string // how many devices there are, when the list is not all of them
}

// devicesBody is the page of devices.
type devicesBody struct {
	Filter string
	screen
}

const maxFilter = 128 // the longest device id

func filterOf(r *http.Request) string {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	return q[:min(len(q), maxFilter)]
}

// devicesScreen lists the devices whose id contains the filter, in any case. Beyond the first
// devicesPerPage a device is found by its whole id.
func (c *Console) devicesScreen(filter string) load {
	return func(ctx context.Context) (screen, error) {
		f, err := c.fleet.get(ctx)
		if err != nil {
			return screen{}, err
		}
		s := screen{List: "device-row", Rows: make([]part, 0, len(f.devices))}
		wanted := strings.ToLower(filter)
		found := false
		for i := range f.devices {
			d := &f.devices[i]
			if strings.Contains(strings.ToLower(d.ID.Device), wanted) {
				s.Rows = append(s.Rows, newPart(d.ID.Device, newDeviceView(*d)))
				found = found || d.ID.Device == filter
			}
		}
		var note listNote
		if more := f.statistics.Total > len(f.devices); more {
			note.Partly = strconv.Itoa(f.statistics.Total)
			if !found && iot.ValidateID("device", filter) == nil {
				d, err := c.cfg.Devices.Device(ctx, iot.ID{Device: filter})
				if err == nil {
					s.Rows = append([]part{newPart(d.ID.Device, newDeviceView(d))}, s.Rows...)
				} else if !fault.Is(err, fault.NotFound) {
					return screen{}, err
				}
			}
		}
		switch {
		case len(s.Rows) > 0:
		case filter != "":
			note.NoMatch = filter
		default:
			note.None = true
		}
		s.Regions = map[string]part{
			"device-counts": newPart("", countsView{
				Total: strconv.Itoa(f.statistics.Total), Connected: strconv.Itoa(f.statistics.Connected), Disabled: strconv.Itoa(f.statistics.Disabled),
			}),
			"device-note": newPart("", note),
		}
		return s, nil
	}
}

func (c *Console) devicesPage(w http.ResponseWriter, r *http.Request, _ *session) error {
	filter := filterOf(r)
	s, err := c.devicesScreen(filter)(r.Context())
	if err != nil {
		return err
	}
	stream := devicesPath + "/stream"
	if filter != "" {
		stream += "?" + url.Values{"q": {filter}}.Encode()
	}
	c.render(w, r, http.StatusOK, "devices", frame{Title: "Devices", Section: "devices", Stream: stream}, devicesBody{filter, s})
	return nil
}

func (c *Console) devicesStream(w http.ResponseWriter, r *http.Request, s *session) error {
	return c.serve(w, r, s, c.devicesScreen(filterOf(r)), nil)
}

// deviceBody is the page of one device.
type deviceBody struct {
	ID string
	screen
}

const alertsOfDevice = 20

func (c *Console) deviceScreen(id string) load {
	posture := &cached[hygieneView]{fetch: func(ctx context.Context) (hygieneView, error) { return c.hygieneOf(ctx, id) }}
	return func(ctx context.Context) (screen, error) {
		d, t, err := c.cfg.Devices.Twin(ctx, iot.ID{Device: id})
		if err != nil {
			return screen{}, err
		}
		list, err := c.cfg.Alerts.Alerts(ctx, alertFilter(id))
		if err != nil {
			return screen{}, err
		}
		hygiene, err := posture.get(ctx)
		if err != nil {
			return screen{}, err
		}
		held := heldView{Device: id, Level: d.Containment.String(), Free: true}
		if d.Containment != registry.Free {
			h, err := c.cfg.Containment.Containment(ctx, id)
			if err != nil {
				return screen{}, err
			}
			held = newHeldView(id, h)
		}
		v := newDeviceView(d)
		return screen{
			Regions: map[string]part{
				"device-state":    newPart("", v),
				"device-identity": newPart("", identityView{v, d.Generation, t.ModelID}),
				"twin-desired":    newPart("", newTwinView(t.Desired, t.DesiredVersion)),
				"twin-reported":   newPart("", newTwinView(t.Reported, t.ReportedVersion)),
				"twin-tags":       newPart("", newTwinView(t.Tags, 0)),
				"alert-note":      newPart("", alertNote{None: len(list) == 0}),
				"device-held":     newPart("", held),
				"device-hygiene":  newPart("", hygiene),
			},
			List: "alert-row", Rows: alertRows(list, false),
		}, nil
	}
}

// identityView is what the registry knows of a device.
type identityView struct {
	deviceView
	Generation string
	Model      string
}

// deviceOf is the device a request is about.
func deviceOf(r *http.Request) (string, error) { return idOf(r.URL.Query().Get("id")) }

// idOf is a device's id; what cannot be one is that of no device.
func idOf(id string) (string, error) {
	if iot.ValidateID("device", id) != nil {
		return "", fault.New(fault.NotFound, "There is no such device.")
	}
	return id, nil
}

// absent words the failure of what was not found.
func absent(err error, words string) error {
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "%s", words)
	}
	return err
}

func (c *Console) devicePage(w http.ResponseWriter, r *http.Request, _ *session) error {
	id, err := deviceOf(r)
	if err != nil {
		return err
	}
	s, err := c.deviceScreen(id)(r.Context())
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "There is no device %s.", id)
	}
	if err != nil {
		return err
	}
	stream := devicePath + "/stream?" + url.Values{"id": {id}}.Encode()
	c.render(w, r, http.StatusOK, "device", frame{Title: id, Section: "devices", Stream: stream}, deviceBody{id, s})
	return nil
}

func (c *Console) deviceStream(w http.ResponseWriter, r *http.Request, s *session) error {
	id, err := deviceOf(r)
	if err != nil {
		return err
	}
	sub, err := c.cfg.Feed.Subscribe(r.Context(), id)
	if err != nil {
		return err
	}
	defer sub.Close()
	return c.serve(w, r, s, c.deviceScreen(id), sub)
}
