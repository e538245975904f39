// Package webhook delivers routed messages by HTTP: a POST with a JSON array of records
// (routing.AppendRecord). A receiver answers 2xx when it has them safe.
package webhook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/iot"
)

const (
	timeout     = 30 * time.Second
	dialTimeout = 10 * time.Second
)

// Sink posts to one address. It is safe for concurrent use.
type Sink struct {
	url    string
	name   string // of the additional header
	value  string
	client *http.Client
}

var _ routing.Sink = (*Sink)(nil)

// New checks the endpoint's address and header; its error is fault.Invalid.
func New(e routing.Endpoint) (*Sink, error) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return nil, fault.New(fault.Invalid, "endpoint %q: url must be https://host/path or http://host/path, without a password", e.Name)
	}
	s := &Sink{url: e.URL, client: &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: outward.Dialer(dialTimeout).DialContext, TLSHandshakeTimeout: dialTimeout, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if e.Header != "" {
		name, value, ok := strings.Cut(e.Header, ":")
		s.name, s.value = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || s.name == "" || strings.ContainsAny(s.name, " \r\n\x00") || strings.ContainsAny(s.value, "\r\n\x00") {
			return nil, fault.New(fault.Invalid, "endpoint %q: header must be Name: value", e.Name)
		}
	}
	return s, nil
}

// Deliver implements routing.Sink. 400, 413 and 422 mean that the receiver will never take the messages; a batch that is
// refused so is tried message by message, so that one bad message does not take others along.
func (s *Sink) Deliver(ctx context.Context, ms []*iot.Message) error {
	err := s.post(ctx, ms)
	if !fault.Is(err, fault.Invalid) || len(ms) == 1 {
		return err
	}
	var refused routing.Refusal
	for _, m := range ms {
		switch err := s.post(ctx, []*iot.Message{m}); {
		case fault.Is(err, fault.Invalid):
			refused.Refuse(m, err)
		case err != nil:
			return err
		}
	}
	return refused.Err()
}

func (s *Sink) post(ctx context.Context, ms []*iot.Message) error {
	body := []byte{'['}
	for i, m := range ms {
		if i > 0 {
			body = append(body, ',')
		}
		body = routing.AppendRecord(body, m)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(append(body, ']')))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "vauban")
	if s.name != "" {
		req.Header.Set(s.name, s.value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusRequestEntityTooLarge, resp.StatusCode == http.StatusUnprocessableEntity:
		return fault.New(fault.Invalid, "the webhook answered %s", resp.Status)
	}
	return fmt.Errorf("the webhook answered %s", resp.Status)
}
