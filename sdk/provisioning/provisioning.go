// Package provisioning is a client for programs that manage enrollments of a provisioning service over its REST API, Vauban's or
// Azure's.
//
//	c, err := provisioning.New(provisioning.Config{ConnectionString: os.Getenv("DPS")})
//	e, err := c.Do(ctx, http.MethodGet, "/enrollments/lamp-1", "", nil)
//
// A Client is safe for concurrent use.
package provisioning

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
	"strconv"
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

// Client calls one provisioning service.
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
	t := &http.Transport{TLSClientConfig: cfg.TLS, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
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

// What every request asks for, and how long the token is good for that it carries.
const (
	apiVersion = "2021-10-01"
	tokenLife  = time.Hour
)

// Error is a refusal of the service.
type Error struct {
	Status  int // HTTP
	Code    int // six digits; 0: none
	Message string
}

func (e *Error) Error() string {
	if e.Code == 0 {
		return fmt.Sprintf("the provisioning service answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%s (%d)", e.Message, e.Code)
}

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// Paths of individual enrollments, groups, and records of registrations.
func EnrollmentPath(id string) string   { return "/enrollments/" + url.PathEscape(id) }
func GroupPath(id string) string        { return "/enrollmentGroups/" + url.PathEscape(id) }
func RegistrationPath(id string) string { return "/registrations/" + url.PathEscape(id) }

// Do sends one request and returns the body of a successful answer. path starts with a slash and is escaped already; body nil
// sends none, []byte as it is, and anything else as JSON.
func (c *Client) Do(ctx context.Context, method, path, ifMatch string, body any) ([]byte, error) {
	header := http.Header{}
	if ifMatch != "" {
		header.Set("If-Match", ifMatch)
	}
	data, _, err := c.do(ctx, method, path, header, body)
	return data, err
}

func (c *Client) do(ctx context.Context, method, path string, header http.Header, body any) ([]byte, http.Header, error) {
	var r io.Reader
	if body != nil {
		data, ok := body.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(body); err != nil {
				return nil, nil, err
			}
		}
		r = bytes.NewReader(data)
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.host+path+"?api-version="+apiVersion, r)
	if err != nil {
		return nil, nil, err
	}
	req.Header = header
	req.Header.Set("Authorization", sas.Sign(c.host, c.key, time.Now().Add(tokenLife), c.policy))
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("the provisioning service cannot be reached: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("the provisioning service's answer broke off: %w", err)
	}
	if res.StatusCode >= 300 {
		return nil, nil, refusal(res.StatusCode, data)
	}
	return data, res.Header, nil
}

func refusal(status int, body []byte) error {
	e := &Error{Status: status, Message: strings.TrimSpace(string(body))}
	var doc struct {
		Code    int    `json:"errorCode"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &doc) == nil && doc.Message != "" {
		e.Code, e.Message = doc.Code, doc.Message
	}
	return e
}

// Query calls each for every item of a list: /enrollments, /enrollmentGroups, or RegistrationPath of a group. It reads
// page by page and ends with the first error.
func (c *Client) Query(ctx context.Context, path string, each func(json.RawMessage) error) error {
	const page = 500
	for next := ""; ; {
		header := http.Header{"X-Ms-Max-Item-Count": {strconv.Itoa(page)}}
		if next != "" {
			header.Set("X-Ms-Continuation", next)
		}
		data, answered, err := c.do(ctx, http.MethodPost, path+"/query", header, map[string]string{"query": "SELECT *"})
		if err != nil {
			return err
		}
		var items []json.RawMessage
		if err := json.Unmarshal(data, &items); err != nil {
			return fmt.Errorf("the provisioning service's answer is no list: %w", err)
		}
		for _, item := range items {
			if err := each(item); err != nil {
				return err
			}
		}
		if next = answered.Get("X-Ms-Continuation"); next == "" {
			return nil
		}
	}
}
