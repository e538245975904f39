// Package service is a client for programs that manage a hub over its REST API, Vauban's
// or Azure's.
//
//	c, err := service.New(service.Config{ConnectionString: os.Getenv("HUB")})
//	device, err := c.CreateDevice(ctx, service.Device{ID: "lamp-1"})
//
// A Client is safe for concurrent use.
package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/sas"
)

// Config of a client. ConnectionString is required.
type Config struct {
	// ConnectionString is HostName=...;SharedAccessKeyName=...;SharedAccessKey=...
	ConnectionString string
	// TLS holds the trusted roots; nil uses the system's.
	TLS *tls.Config
	// Address overrides where to connect to (host:port); empty: port 443 of the host name.
	Address string
}

// Client calls one hub.
type Client struct {
	host   string
	policy string
	key    []byte
	http   *http.Client
}

// New returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	cs, err := connstr.Parse(cfg.ConnectionString)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(cs.SharedAccessKey)
	if err != nil || len(key) == 0 || cs.SharedAccessKeyName == "" {
		return nil, errors.New("the connection string names no policy with a base64 key")
	}
	t := &http.Transport{TLSClientConfig: cfg.TLS, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	if cfg.Address != "" {
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, cfg.Address)
		}
	}
	return &Client{host: cs.HostName, policy: cs.SharedAccessKeyName, key: key, http: &http.Client{Transport: t}}, nil
}

// Close ends idle connections. The client may be used again.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// apiVersion is what every request asks for.
const apiVersion = "2021-04-12"

// tokenLife of the token each request carries.
const tokenLife = time.Hour

// Error is a refusal of the hub.
type Error struct {
	Status  int    // HTTP
	Code    string // such as DeviceNotFound
	Message string
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the hub answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// Do sends one request and returns the body of a successful answer. path starts with a
// slash and is escaped already; body nil sends none.
func (c *Client) Do(ctx context.Context, method, path, ifMatch string, query url.Values, body any) ([]byte, error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("api-version", apiVersion)
	var r io.Reader
	if body != nil {
		data, ok := body.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(body); err != nil {
				return nil, err
			}
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.host+path+"?"+query.Encode(), r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", sas.Sign(c.host, c.key, time.Now().Add(tokenLife), c.policy))
	if body != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if ifMatch != "" {
		req.Header.Set("If-Match", ifMatch)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the hub cannot be reached: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the hub's answer broke off: %w", err)
	}
	if res.StatusCode >= 300 {
		return nil, refusal(res.StatusCode, res.Header.Get("iothub-errorcode"), data)
	}
	return data, nil
}

// refusal reads both forms of error bodies (hub-service §2.9).
func refusal(status int, code string, body []byte) error {
	e := &Error{Status: status, Code: code, Message: strings.TrimSpace(string(body))}
	var outer struct{ Message string }
	if json.Unmarshal(body, &outer) != nil || outer.Message == "" {
		return e
	}
	e.Message = outer.Message
	var inner struct {
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(outer.Message), &inner) == nil && inner.Message != "" {
		e.Message = inner.Message
	} else if _, text, ok := strings.Cut(outer.Message, ";"); ok {
		e.Message = text
	}
	return e
}

// Device is what a new device is made from.
type Device struct {
	ID                  string
	PrimaryKey          string // base64; empty keys are generated
	SecondaryKey        string
	PrimaryThumbprint   string
	SecondaryThumbprint string
	CertificateSigned   bool // proves itself by a certificate of a trusted CA
	Edge                bool
	Disabled            bool
}

// Identity is the hub's record of a device (hub-service §2.3).
type Identity struct {
	DeviceID         string `json:"deviceId"`
	GenerationID     string `json:"generationId"`
	ETag             string `json:"etag"`
	Status           string `json:"status"`
	StatusReason     string `json:"statusReason"`
	ConnectionState  string `json:"connectionState"`
	LastActivityTime string `json:"lastActivityTime"`
	Pending          int    `json:"cloudToDeviceMessageCount"`
	Authentication   struct {
		Type         string `json:"type"`
		SymmetricKey struct {
			PrimaryKey   string `json:"primaryKey"`
			SecondaryKey string `json:"secondaryKey"`
		} `json:"symmetricKey"`
		X509Thumbprint struct {
			PrimaryThumbprint   string `json:"primaryThumbprint"`
			SecondaryThumbprint string `json:"secondaryThumbprint"`
		} `json:"x509Thumbprint"`
	} `json:"authentication"`
	Raw json.RawMessage `json:"-"` // the whole document
}

func identity(data []byte, err error) (Identity, error) {
	var d Identity
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("the hub's answer is no identity: %w", err)
	}
	d.Raw = data
	return d, nil
}

// DevicePath is the path of a device, with its id escaped.
func DevicePath(id string) string { return "/devices/" + url.PathEscape(id) }

// TwinPath is the path of a device's twin.
func TwinPath(id string) string { return "/twins/" + url.PathEscape(id) }

// CreateDevice adds a device; an Error with code DeviceAlreadyExists when the id is taken.
func (c *Client) CreateDevice(ctx context.Context, d Device) (Identity, error) {
	auth := map[string]any{}
	switch {
	case d.CertificateSigned:
		auth["type"] = "certificateAuthority"
	case d.PrimaryThumbprint != "" || d.SecondaryThumbprint != "":
		auth["type"] = "selfSigned"
		auth["x509Thumbprint"] = map[string]string{"primaryThumbprint": d.PrimaryThumbprint, "secondaryThumbprint": d.SecondaryThumbprint}
	default:
		auth["type"] = "sas"
		auth["symmetricKey"] = map[string]string{"primaryKey": d.PrimaryKey, "secondaryKey": d.SecondaryKey}
	}
	status := "enabled"
	if d.Disabled {
		status = "disabled"
	}
	return identity(c.Do(ctx, http.MethodPut, DevicePath(d.ID), "", nil, map[string]any{
		"deviceId": d.ID, "status": status, "authentication": auth, "capabilities": map[string]bool{"iotEdge": d.Edge},
	}))
}

// Device returns one device.
func (c *Client) Device(ctx context.Context, id string) (Identity, error) {
	return identity(c.Do(ctx, http.MethodGet, DevicePath(id), "", nil, nil))
}

// Devices returns at most top devices (1 to 1000).
func (c *Client) Devices(ctx context.Context, top int) ([]Identity, error) {
	data, err := c.Do(ctx, http.MethodGet, "/devices", "", url.Values{"top": {fmt.Sprint(top)}}, nil)
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(data, &raws); err != nil {
		return nil, fmt.Errorf("the hub's answer is no list: %w", err)
	}
	ds := make([]Identity, len(raws))
	for i, raw := range raws {
		if ds[i], err = identity(raw, nil); err != nil {
			return nil, err
		}
	}
	return ds, nil
}

// DeleteDevice removes a device whatever its state.
func (c *Client) DeleteDevice(ctx context.Context, id string) error {
	_, err := c.Do(ctx, http.MethodDelete, DevicePath(id), "*", nil, nil)
	return err
}

// Twin returns the whole twin document.
func (c *Client) Twin(ctx context.Context, id string) (json.RawMessage, error) {
	return c.Do(ctx, http.MethodGet, TwinPath(id), "", nil, nil)
}

// PatchTwin merges a document with tags and properties.desired, and returns the new twin. ifMatch empty is unconditional.
func (c *Client) PatchTwin(ctx context.Context, id string, patch []byte, ifMatch string) (json.RawMessage, error) {
	return c.Do(ctx, http.MethodPatch, TwinPath(id), ifMatch, nil, patch)
}

// MethodResult is a device's answer.
type MethodResult struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// InvokeMethod calls a direct method; payload nil is null. Times are rounded up to whole seconds.
func (c *Client) InvokeMethod(ctx context.Context, id, name string, payload json.RawMessage, response, connect time.Duration) (MethodResult, error) {
	if payload == nil {
		payload = json.RawMessage("null")
	}
	data, err := c.Do(ctx, http.MethodPost, TwinPath(id)+"/methods", "", nil, map[string]any{
		"methodName": name, "payload": payload,
		"responseTimeoutInSeconds": int((response + time.Second - 1) / time.Second),
		"connectTimeoutInSeconds":  int((connect + time.Second - 1) / time.Second),
	})
	var r MethodResult
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}
