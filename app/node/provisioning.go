package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/sdk/service"
)

// newProvisioning makes the provisioning service in front of the installation's own hub and those that are linked to it.
func (n *Node) newProvisioning(ctx context.Context, issuer *pki.DeviceAuthority) (*dps.Service, error) {
	key, err := loadSecret(ctx, n.State, "dps/challenges")
	if err != nil {
		return nil, err
	}
	return dps.New(dps.Config{
		IDScope: n.settings.idScope, Store: n.State, Hub: ownHub{n.hub, issuer}, Dial: dialHub, Webhooks: newAsker(), Secret: key, Vouch: n.vouch, Limits: n.cfg.Registrations, Logger: n.log,
		Rejected: n.security.notProvisioned, Held: n.held,
		// Nobody is served before the detector is there.
		Connected: func(device string, from netip.Addr) { n.detector.Provisioned(iot.ID{Device: device}, from) },
	})
}

// held is dps.Config.Held: whoever may not do all that it could elsewhere does not go there.
func (n *Node) held(ctx context.Context, device string) (bool, error) {
	c, err := n.hub.Containment(ctx, device)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return c.Level >= registry.TelemetryOnly, err
}

// ownHub is the installation's hub as provisioning knows it.
type ownHub struct {
	hub    *hub.Hub
	issuer *pki.DeviceAuthority
}

var (
	_ dps.Hub    = ownHub{}
	_ dps.Issuer = ownHub{}
	_ dps.Hub    = (*remoteHub)(nil)
)

func (l ownHub) Host() string { return l.hub.Host() }

func (l ownHub) Assign(ctx context.Context, a dps.Assignment) (created bool, err error) {
	return l.hub.Assign(ctx, hub.Assignment{
		ID: iot.ID{Device: a.DeviceID},
		Authentication: registry.Authentication{
			Type: registry.AuthType(a.AuthType), PrimaryKey: a.PrimaryKey, SecondaryKey: a.SecondaryKey,
			PrimaryThumbprint: a.PrimaryThumbprint, SecondaryThumbprint: a.SecondaryThumbprint,
		},
		Edge: a.Edge, Tags: a.Tags, Desired: a.Desired, ResetTwin: a.ResetTwin,
	})
}

func (l ownHub) Twin(ctx context.Context, deviceID string) (tags, desired json.RawMessage, err error) {
	_, t, err := l.hub.Twin(ctx, iot.ID{Device: deviceID})
	return t.Tags, t.Desired, err
}

func (l ownHub) Remove(ctx context.Context, deviceID string) error {
	err := l.hub.DeleteDevice(ctx, iot.ID{Device: deviceID}, nil)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// Issue implements dps.Issuer: for this very device, not one that gets its id later.
func (l ownHub) Issue(ctx context.Context, r *x509.CertificateRequest, deviceID string) ([][]byte, error) {
	id := iot.ID{Device: deviceID}
	d, err := l.hub.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	return l.issuer.Issue(r, id.String(), d.Generation)
}

// remoteHub is a hub that is linked by connection string, Vauban's or Azure's, over its service REST API.
type remoteHub struct {
	host   string
	client *service.Client
}

// dialHub is dps.Config.Dial.
func dialHub(h dps.LinkedHub) (dps.Hub, error) {
	cfg := service.Config{ConnectionString: string(h.ConnectionString.Reveal()), Address: h.Address}
	if h.Authority != "" {
		cas, err := pki.ParseCertificates([]byte(h.Authority))
		if err != nil {
			return nil, err
		}
		cfg.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		for _, c := range cas {
			cfg.TLS.RootCAs.AddCert(c)
		}
	}
	client, err := service.New(cfg)
	if err != nil {
		return nil, err
	}
	return &remoteHub{h.Host, client}, nil
}

func (h *remoteHub) Host() string { return h.host }

// Close ends idle connections.
func (h *remoteHub) Close() error { return h.client.Close() }

// identity is a device in the service REST API (hub-service §3).
type identity struct {
	DeviceID       string         `json:"deviceId"`
	Status         string         `json:"status"`
	Authentication authentication `json:"authentication"`
	Capabilities   struct {
		Edge bool `json:"iotEdge"`
	} `json:"capabilities"`
}

type authentication struct {
	Type         string `json:"type"`
	SymmetricKey *struct {
		Primary   string `json:"primaryKey"`
		Secondary string `json:"secondaryKey"`
	} `json:"symmetricKey,omitempty"`
	X509 *struct {
		Primary   string `json:"primaryThumbprint,omitempty"`
		Secondary string `json:"secondaryThumbprint,omitempty"`
	} `json:"x509Thumbprint,omitempty"`
}

// twinDocument is a twin there; of what it holds, provisioning knows these.
type twinDocument struct {
	Tags       json.RawMessage `json:"tags,omitempty"`
	Properties struct {
		Desired json.RawMessage `json:"desired,omitempty"`
	} `json:"properties"`
}

func (h *remoteHub) Assign(ctx context.Context, a dps.Assignment) (created bool, err error) {
	d := identity{DeviceID: a.DeviceID, Status: string(registry.Enabled), Authentication: authentication{Type: a.AuthType}}
	d.Capabilities.Edge = a.Edge
	switch a.AuthType {
	case dps.AuthSAS:
		d.Authentication.SymmetricKey = &struct {
			Primary   string `json:"primaryKey"`
			Secondary string `json:"secondaryKey"`
		}{a.PrimaryKey.Base64(), a.SecondaryKey.Base64()}
	case dps.AuthSelfSigned:
		d.Authentication.X509 = &struct {
			Primary   string `json:"primaryThumbprint,omitempty"`
			Secondary string `json:"secondaryThumbprint,omitempty"`
		}{a.PrimaryThumbprint, a.SecondaryThumbprint}
	}
	path := service.DevicePath(a.DeviceID)
	_, err = h.client.Do(ctx, http.MethodPut, path, "", nil, d)
	created = err == nil
	if e, ok := errors.AsType[*service.Error](err); ok && e.Status == http.StatusConflict {
		_, err = h.client.Do(ctx, http.MethodPut, path, "*", nil, d)
	}
	if err != nil {
		return false, h.fault(err)
	}
	if !created && !a.ResetTwin || created && a.Tags == nil && a.Desired == nil {
		return created, nil
	}
	doc := twinDocument{Tags: a.Tags}
	doc.Properties.Desired = a.Desired
	method := http.MethodPatch
	if !created {
		method = http.MethodPut
		if doc.Tags == nil {
			doc.Tags = json.RawMessage("{}")
		}
		if doc.Properties.Desired == nil {
			doc.Properties.Desired = json.RawMessage("{}")
		}
	}
	if _, err = h.client.Do(ctx, method, service.TwinPath(a.DeviceID), "*", nil, doc); err == nil {
		return created, nil
	}
	if created { // with its initial twin, or not at all
		if err := h.Remove(context.WithoutCancel(ctx), a.DeviceID); err != nil {
			return false, fmt.Errorf("a device without its initial twin is left: %w", err)
		}
	}
	return false, h.fault(err)
}

func (h *remoteHub) Twin(ctx context.Context, deviceID string) (tags, desired json.RawMessage, err error) {
	body, err := h.client.Do(ctx, http.MethodGet, service.TwinPath(deviceID), "", nil, nil)
	if err != nil {
		return nil, nil, h.fault(err)
	}
	var doc twinDocument
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, nil, fault.Wrap(fault.Unavailable, err, "hub %s answered with no twin", h.host)
	}
	if desired, err = bare(doc.Properties.Desired); err != nil {
		return nil, nil, fault.Wrap(fault.Unavailable, err, "hub %s answered with no twin", h.host)
	}
	return doc.Tags, desired, nil
}

// bare is a section of a twin without what the hub adds.
func bare(section json.RawMessage) (json.RawMessage, error) {
	if len(section) == 0 {
		return nil, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(section, &m); err != nil {
		return nil, err
	}
	delete(m, "$metadata")
	delete(m, "$version")
	return json.Marshal(m)
}

func (h *remoteHub) Remove(ctx context.Context, deviceID string) error {
	_, err := h.client.Do(ctx, http.MethodDelete, service.DevicePath(deviceID), "*", nil, nil)
	if e, ok := errors.AsType[*service.Error](err); ok && e.Status == http.StatusNotFound {
		return nil
	}
	return h.fault(err)
}

// fault classifies what a hub answered.
func (h *remoteHub) fault(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*service.Error](err)
	if !ok {
		return fault.Wrap(fault.Unavailable, err, "the hub cannot be reached")
	}
	switch e.Status {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", dps.ErrHubRefuses, err)
	case http.StatusForbidden:
		// 403 is a right that the policy lacks, or a quota, such as that of devices (hub-service §2.9).
		if strings.Contains(e.Code, "Quota") || strings.Contains(e.Code, "TooMany") {
			return fault.Wrap(fault.QuotaExceeded, err, "the hub takes no more devices")
		}
		return fmt.Errorf("%w: %w", dps.ErrHubRefuses, err)
	case http.StatusNotFound:
		return fault.Wrap(fault.NotFound, err, "the hub does not know the device")
	case http.StatusTooManyRequests:
		return fault.Wrap(fault.Throttled, err, "the hub is busy")
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return fault.Wrap(fault.Invalid, err, "the hub refuses the device: %s", e.Message)
	}
	return fault.Wrap(fault.Unavailable, err, "the hub answered %d", e.Status)
}

// webhookTimeout bounds one question to a webhook. A device polls meanwhile, for up to 30 s (dps §3).
const webhookTimeout = 5 * time.Second

// asker asks webhooks. Whoever may write enrollments names them, so it goes where no enrollment should lead by mistake only over
// HTTPS, and never to the addresses that machines keep for their own services.
type asker struct{ client *http.Client }

func newAsker() *asker {
	return &asker{&http.Client{
		Timeout:       webhookTimeout,
		Transport:     &http.Transport{DialContext: outward.Dialer(webhookTimeout).DialContext, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends idle connections.
func (a *asker) Close() error {
	a.client.CloseIdleConnections()
	return nil
}

// Ask implements dps.Asker.
func (a *asker) Ask(ctx context.Context, address string, body []byte, limit int64) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "vauban")
	res, err := a.client.Do(req)
	if err != nil {
		// The address may hold a token; logs should not.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("ask the webhook: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return 0, nil, fmt.Errorf("read the webhook's answer: %w", err)
	}
	if int64(len(answer)) > limit {
		return 0, nil, fmt.Errorf("the webhook's answer has more than %d bytes", limit)
	}
	return res.StatusCode, answer, nil
}
