// Package sphere is a client for programs that use the Security Service: its public API below /v2 and its sign-in.
//
//	signIn, err := sphere.NewSignIn(sphere.Config{URL: "https://hub.example"})
//	tokens, err := signIn.DeviceCode(ctx, func(d sphere.DeviceCode) error { ... })
//	c, err := sphere.New(sphere.Config{URL: "https://hub.example", Tokens: sphere.Token(tokens.Access)})
//	devices, err := c.Devices(ctx, tenant, sphere.DeviceFilter{})
//
// What the service refuses is an [*Error]. Clients and sign-ins are safe for concurrent use.
package sphere

import (
	"bytes"
	"context"
	"crypto/tls"
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
)

// Config of a client and of a sign-in. URL is required.
type Config struct {
	// URL of the installation: https://host[:port].
	URL string
	// TLS holds the trusted roots; nil uses the system's.
	TLS *tls.Config
	// Address overrides where to connect to (host:port); empty: what URL says.
	Address string
	// Tokens gives the bearer token of each request; nil: requests carry none. A SignIn does not use it.
	Tokens TokenSource
}

// TokenSource gives bearer tokens.
type TokenSource interface {
	// Token returns one that is good now. stale is one that the service has just refused, or empty: the answer should be another.
	Token(ctx context.Context, stale string) (string, error)
}

// Token is a TokenSource of one token, such as the installation's administrator token.
type Token string

// Token implements TokenSource.
func (t Token) Token(context.Context, string) (string, error) { return string(t), nil }

// String keeps tokens out of logs.
func (t Token) String() string { return "[redacted]" }

// GoString keeps tokens out of logs.
func (t Token) GoString() string { return "[redacted]" }

// Client calls the public API of one installation.
type Client struct {
	caller
	tokens TokenSource
}

// New returns a client. It does not connect yet.
func New(cfg Config) (*Client, error) {
	c, err := newCaller(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{c, cfg.Tokens}, nil
}

// Close ends idle connections. The client may be used again.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// caller sends requests to one installation.
type caller struct {
	base string // https://host[:port]
	http *http.Client
}

func newCaller(cfg Config) (caller, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return caller{}, fmt.Errorf("the URL of the Security Service must be https://host[:port], not %q", cfg.URL)
	}
	t := &http.Transport{TLSClientConfig: cfg.TLS, Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
	if cfg.Address != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, cfg.Address)
		}
	}
	// A redirect would carry the token to wherever it leads.
	h := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return caller{"https://" + u.Host, h}, nil
}

// Error is a refusal of the service.
type Error struct {
	Status     int    // HTTP
	Code       string // such as NotFound, or an OAuth code of sign-in such as invalid_grant
	Message    string
	RetryAfter time.Duration // zero: no hint
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the Security Service answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// Temporary reports whether the same request may succeed later.
func (e *Error) Temporary() bool {
	return e.Status == http.StatusTooManyRequests || e.Status >= http.StatusInternalServerError
}

// IsStatus reports whether err is a refusal with this HTTP status.
func IsStatus(err error, status int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == status
}

// Bounds of what is read, and of attempts.
const (
	maxAnswer = 64 << 20
	attempts  = 4
	firstWait = 500 * time.Millisecond
	longWait  = 30 * time.Second
)

// send sends one request once and reads its answer.
func (c caller) send(ctx context.Context, method, target string, header http.Header, body []byte) ([]byte, http.Header, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+target, r)
	if err != nil {
		return nil, nil, err
	}
	req.Header = header
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("the Security Service cannot be reached: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, fmt.Errorf("the Security Service's answer broke off: %w", err)
	}
	if len(data) > maxAnswer {
		return nil, nil, fmt.Errorf("the Security Service's answer is over %d bytes", maxAnswer)
	}
	if res.StatusCode >= 300 {
		return nil, nil, refusal(res, data)
	}
	return data, res.Header, nil
}

// refusal reads an error of the public API, of sign-in, or of something between.
func refusal(res *http.Response, body []byte) error {
	e := &Error{Status: res.StatusCode, Message: strings.TrimSpace(string(body))}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	var list []struct {
		ErrorCode string
		Title     string
		Details   string
	}
	var oauth struct {
		Code string `json:"error"`
		Text string `json:"error_description"`
	}
	if json.Unmarshal(body, &list) == nil && len(list) > 0 {
		e.Code, e.Message = list[0].ErrorCode, list[0].Title
		if list[0].Details != "" {
			e.Message = list[0].Details
		}
	} else if json.Unmarshal(body, &oauth) == nil && oauth.Code != "" {
		e.Code, e.Message = oauth.Code, oauth.Text
	}
	if e.Message == "" {
		e.Message = http.StatusText(res.StatusCode)
	}
	return e
}

// Do sends one request with a bearer token and returns the body of a successful answer. path begins with a slash and is escaped already; body nil
// sends none, []byte as it is, and anything else as JSON. What the service is too busy for is sent again, three times; of what failed inside the service
// only a GET is, because nobody knows whether anything else was done.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body any) ([]byte, error) {
	header := http.Header{}
	var data []byte
	if body != nil {
		var ok bool
		if data, ok = body.([]byte); !ok {
			var err error
			if data, err = json.Marshal(body); err != nil {
				return nil, err
			}
		}
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	stale, wait := "", firstWait
	for attempt := 1; ; attempt++ {
		token := ""
		if c.tokens != nil {
			var err error
			if token, err = c.tokens.Token(ctx, stale); err != nil {
				return nil, err
			}
			header.Set("Authorization", "Bearer "+token)
		}
		answer, _, err := c.send(ctx, method, path, header, data)
		e, refused := errors.AsType[*Error](err)
		switch {
		case err == nil:
			return answer, nil
		case !refused || attempt == attempts:
			return nil, err
		case e.Status == http.StatusUnauthorized && stale == "" && token != "":
			stale = token // revoked, or the clocks differ: one other token is tried
			next, terr := c.tokens.Token(ctx, stale)
			if terr != nil {
				return nil, terr
			}
			if next == token {
				return nil, err
			}
			continue
		case e.Status == http.StatusTooManyRequests, e.Status >= http.StatusInternalServerError && method == http.MethodGet:
		default:
			return nil, err
		}
		if e.RetryAfter > wait {
			wait = e.RetryAfter
		}
		if wait > longWait {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// call is Do for answers in JSON.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var v T
	data, err := c.Do(ctx, method, path, query, body)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("the Security Service's answer cannot be read: %w", err)
	}
	return v, nil
}

// each reads a list page by page and ends with the first error.
func each[T any](ctx context.Context, c *Client, path string, query url.Values, do func(T) error) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("maxItems", "1000")
	for {
		p, err := call[struct {
			Items             []T
			ContinuationToken string
		}](ctx, c, http.MethodGet, path, query, nil)
		if err != nil {
			return err
		}
		for _, v := range p.Items {
			if err := do(v); err != nil {
				return err
			}
		}
		if p.ContinuationToken == "" {
			return nil
		}
		query.Set("continuationToken", p.ContinuationToken)
	}
}

// all reads a whole list.
func all[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	items := []T{}
	err := each(ctx, c, path, query, func(v T) error {
		items = append(items, v)
		return nil
	})
	return items, err
}
