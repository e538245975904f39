package dps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vauban-iot/vauban/fault"
)

// verdict ends a registration as failed, with the six digits and the text that its device reads.
type verdict struct {
	code int
	text string
	err  error // for the log; may be nil
}

func (v *verdict) Error() string {
	if v.err == nil {
		return v.text
	}
	return v.text + ": " + v.err.Error()
}

func (v *verdict) Unwrap() error { return v.err }

// Codes of failed registrations (dps §7.3).
const (
	codeWebhook = 400207
	codeNoHub   = 400208
	codeRefuses = 400209
)

// ErrHubRefuses is in the errors of a [Hub] that does not take our credentials.
var ErrHubRefuses = errors.New("the hub does not accept the connection string it was linked with")

// Asker asks webhooks.
type Asker interface {
	// Ask posts JSON and returns the HTTP status and the body of the answer. An answer larger than limit is an error.
	Ask(ctx context.Context, url string, body []byte, limit int64) (status int, answer []byte, err error)
}

// allocation is where a device goes.
type allocation struct {
	*linked
	twin    *InitialTwin    // of a webhook, in place of the enrollment's
	payload json.RawMessage // of a webhook; nil: none
}

// candidates are the hubs an enrollment may use: those it names, or else those that take part in allocation. A name of a hub that is
// not linked any more counts for nothing.
func candidates(all []*linked, e *Enrollment) []*linked {
	names := e.Hubs
	if e.HubName != "" {
		names = append([]string{e.HubName}, names...)
	}
	var list []*linked
	if len(names) == 0 {
		for _, h := range all {
			if !h.Excluded {
				list = append(list, h)
			}
		}
		return list
	}
	for _, name := range names {
		for _, h := range all {
			if same(h.Host, name) && !slices.Contains(list, h) {
				list = append(list, h)
			}
		}
	}
	return list
}

// allocate finds the hub of a device (dps §9.1). prev is the record of its last registration.
func (s *Service) allocate(ctx context.Context, c *Caller, req deviceRequest, prev *Registration) (allocation, error) {
	e := &c.enrollment
	all, err := s.linkedHubs(ctx)
	if err != nil {
		return allocation{}, err
	}
	if prev.Hub != "" && !e.Reprovision.UpdateHubAssignment {
		if i := slices.IndexFunc(all, func(h *linked) bool { return same(h.Host, prev.Hub) }); i >= 0 {
			return allocation{linked: all[i]}, nil
		}
	}
	list := candidates(all, e)
	if len(list) == 0 {
		return allocation{}, &verdict{code: codeNoHub, text: "no hub is linked that the enrollment may use"}
	}
	switch e.Allocation {
	case static:
		if len(list) > 1 && e.HubName == "" && len(e.Hubs) == 0 {
			return allocation{}, &verdict{code: codeNoHub, text: "static allocation needs an enrollment that names its hub"}
		}
		return allocation{linked: list[0]}, nil
	case geoLatency:
		return allocation{linked: nearest(c, list)}, nil
	case custom:
		return s.ask(ctx, c, req, prev, list)
	}
	return allocation{linked: weighed(fold(c.RegistrationID()), list)}, nil
}

// weighed spreads devices over hubs by their weights. Every device keeps its hub as long as that is among them, whatever comes and
// goes beside it (rendezvous hashing).
func weighed(id string, list []*linked) *linked {
	best, score := list[0], math.Inf(-1)
	for _, h := range list {
		sum := sha256.Sum256([]byte(id + "\n" + fold(h.Host)))
		x := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53) // between 0 and 1, neither of them
		if v := -float64(h.Weight) / math.Log(x); v > score {
			best, score = h, v
		}
	}
	return best
}

// nearest is the hub with the narrowest network that the device calls from: what the operator wrote down stands for a measure
// of latency. Among equals, and when there is none, hashing decides.
func nearest(c *Caller, list []*linked) *linked {
	var near []*linked
	bits := -1
	address := c.creds.Address.Unmap()
	for _, h := range list {
		mine := -1
		for _, p := range h.networks {
			if p.Contains(address) {
				mine = max(mine, p.Bits())
			}
		}
		switch {
		case mine < 0 || mine < bits:
		case mine > bits:
			near, bits = []*linked{h}, mine
		default:
			near = append(near, h)
		}
	}
	if near == nil {
		near = list
	}
	return weighed(fold(c.RegistrationID()), near)
}

// maxAnswer bounds a webhook's answer.
const maxAnswer = 128 << 10

// webhookRequest is what a webhook is asked (dps §9.2).
type webhookRequest struct {
	Individual *enrollmentJSON `json:"individualEnrollment,omitempty"`
	Group      *enrollmentJSON `json:"enrollmentGroup,omitempty"`
	Context    runtimeContext  `json:"deviceRuntimeContext"`
	Hubs       []string        `json:"linkedHubs"`
}

type runtimeContext struct {
	RegistrationID string          `json:"registrationId"`
	CurrentHub     string          `json:"currentIotHubHostName,omitempty"`
	CurrentDevice  string          `json:"currentDeviceId,omitempty"`
	X509           *contextX509    `json:"x509,omitempty"`
	SymmetricKey   *struct{}       `json:"symmetricKey,omitempty"`
	TPM            *tpmJSON        `json:"tpm,omitempty"`
	Payload        json.RawMessage `json:"payload,omitempty"`
}

type contextX509 struct {
	Certificate *certificateJSON `json:"clientCertificate,omitempty"`
}

func (s *Service) ask(ctx context.Context, c *Caller, req deviceRequest, prev *Registration, list []*linked) (allocation, error) {
	e := &c.enrollment
	if s.cfg.Webhooks == nil {
		return allocation{}, &verdict{code: codeWebhook, text: "this service asks no webhooks"}
	}
	doc, err := render(*e, nil)
	if err != nil {
		return allocation{}, err
	}
	q := webhookRequest{Context: runtimeContext{
		RegistrationID: c.RegistrationID(), CurrentHub: prev.Hub, CurrentDevice: prev.DeviceID, Payload: req.payload,
	}}
	if prev.Hub == "" {
		q.Context.CurrentDevice = ""
	}
	if e.Group {
		q.Group = doc
	} else {
		q.Individual = doc
	}
	switch e.Attestation.Type {
	case X509:
		leaf := c.creds.Certificates[0]
		q.Context.X509 = &contextX509{&certificateJSON{infoOf(leaf)}}
	case TPM:
		q.Context.TPM = doc.Attestation.TPM
	default:
		q.Context.SymmetricKey = &struct{}{}
	}
	for _, h := range list {
		q.Hubs = append(q.Hubs, h.Host)
	}
	status, answer, err := s.cfg.Webhooks.Ask(ctx, e.Webhook.URL, marshal(q), maxAnswer)
	switch {
	case err != nil:
		return allocation{}, &verdict{codeWebhook, "custom allocation failed: the webhook did not answer", err}
	case status/100 != 2:
		return allocation{}, &verdict{codeWebhook, fmt.Sprintf("Custom allocation failed with status code: %d", status), nil}
	}
	return chosen(answer, list)
}

// chosen reads a webhook's answer.
func chosen(answer []byte, list []*linked) (allocation, error) {
	bad := func(format string, args ...any) (allocation, error) {
		return allocation{}, &verdict{code: codeWebhook, text: "custom allocation failed: " + fmt.Sprintf(format, args...)}
	}
	var a struct {
		Host    string          `json:"iotHubHostName"`
		Payload json.RawMessage `json:"payload"`
		Twin    json.RawMessage `json:"initialTwin"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return bad("the webhook's answer is not the JSON of an allocation")
	}
	i := slices.IndexFunc(list, func(h *linked) bool { return same(h.Host, a.Host) })
	switch {
	case a.Host == "":
		return bad("the webhook named no hub")
	case i < 0:
		return bad("the webhook named a hub that is not linked or not the enrollment's")
	}
	where := allocation{linked: list[i]}
	if !absent(a.Payload) {
		p := bytes.TrimSpace(a.Payload)
		if p[0] != '{' { // Azure's C client reads no other payload (dps §7.2)
			return bad("the webhook's payload is no object")
		}
		where.payload = p
	}
	if !absent(a.Twin) {
		var d draft
		doc := enrollmentDoc{}
		if err := json.Unmarshal([]byte(`{"initialTwin":`+string(a.Twin)+`}`), &doc); err != nil {
			return bad("the webhook's initialTwin cannot be read")
		}
		if err := doc.checkTwin(&d); err != nil {
			return bad("the webhook's %s", fault.Public(err))
		}
		where.twin = &d.Twin
	}
	return where, nil
}
