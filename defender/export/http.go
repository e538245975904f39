package export

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/defender/table"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/outward"
)

// Headers of a webhook's requests.
const (
	// signatureHeader holds t=SECONDS,v1=HEX: the HMAC-SHA256 of the seconds since 1970, a dot and the body.
	signatureHeader = "Vauban-Signature"
	idHeader        = "Vauban-Delivery" // tells a delivery from others; the same when it is repeated
)

const requestTimeout = 30 * time.Second

type poster struct {
	client *http.Client
	now    func() time.Time
}

func newPoster(c *Config, now func() time.Time) poster {
	return poster{now: now, client: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: outward.Dialer(dialTimeout).DialContext, TLSClientConfig: trust(c.CA), ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: dialTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p poster) close() { p.client.CloseIdleConnections() }

// maxRetryAfter bounds how long a receiver may ask for.
const maxRetryAfter = 15 * time.Minute

// post sends a request. fault.Invalid: the receiver will never take this body.
func (p poster) post(req *http.Request) error {
	req.Header.Set("User-Agent", "vauban")
	res, err := p.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // it names the whole URL, whose path may hold a secret
			err = fmt.Errorf("%s: %w", req.URL.Host, e.Err)
		}
		return err
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, 512))         // why, in its own words
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is used again
	answer := fmt.Sprintf("the receiver answered %s: %q", res.Status, said)
	switch {
	case res.StatusCode/100 == 2:
		return nil
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusRequestEntityTooLarge, res.StatusCode == http.StatusUnprocessableEntity:
		return fault.New(fault.Invalid, "%s", answer)
	}
	e := &fault.Error{Kind: fault.Unavailable, Public: answer}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = min(time.Duration(min(s, 1<<20))*time.Second, maxRetryAfter)
	}
	return e
}

// body joins items as a JSON array or as lines.
func body(items []item, lines bool) []byte {
	var b bytes.Buffer
	for i := range items {
		switch {
		case lines:
		case i == 0:
			b.WriteByte('[')
		default:
			b.WriteByte(',')
		}
		b.Write(items[i].text)
		if lines {
			b.WriteByte('\n')
		}
	}
	if !lines {
		b.WriteByte(']')
	}
	return b.Bytes()
}

// webhook posts items together.
type webhook struct {
	poster
	cfg *Config
}

func (s *webhook) send(ctx context.Context, items []item) error {
	lines := s.cfg.Body == Lines
	text := body(items, lines)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(text))
	if err != nil {
		return err
	}
	for name, value := range s.cfg.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	if lines {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	sum := sha256.Sum256(text)
	req.Header.Set(idHeader, hex.EncodeToString(sum[:16]))
	if s.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.cfg.Token)
	}
	if s.cfg.SigningKey != "" {
		at := strconv.FormatInt(s.now().Unix(), 10)
		mac := hmac.New(sha256.New, []byte(s.cfg.SigningKey))
		mac.Write([]byte(at + "."))
		mac.Write(text)
		req.Header.Set(signatureHeader, "t="+at+",v1="+hex.EncodeToString(mac.Sum(nil)))
	}
	return s.post(req)
}

// logAnalytics posts rows as the HTTP data collector API of Azure Monitor takes them: those of one table together. There it
// becomes the table SecurityAlert_CL and so on.
type logAnalytics struct {
	poster
	cfg *Config
	key []byte
}

func newLogAnalytics(c *Config, now func() time.Time) *logAnalytics {
	key, _ := base64.StdEncoding.DecodeString(c.SharedKey) // Check looked at it
	return &logAnalytics{newPoster(c, now), c, key}
}

func (s *logAnalytics) send(ctx context.Context, items []item) error {
	for len(items) > 0 {
		n := 1
		for n < len(items) && items[n].table == items[0].table {
			n++
		}
		if err := s.sendTable(ctx, items[0].table, body(items[:n], false)); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (s *logAnalytics) sendTable(ctx context.Context, name table.Name, text []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(text))
	if err != nil {
		return err
	}
	const contentType = "application/json"
	date := s.now().UTC().Format(http.TimeFormat)
	mac := hmac.New(sha256.New, s.key)
	fmt.Fprintf(mac, "POST\n%d\n%s\nx-ms-date:%s\n/api/logs", len(text), contentType, date)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Log-Type", string(name))
	req.Header.Set("x-ms-date", date)
	req.Header.Set("time-generated-field", "TimeGenerated")
	req.Header.Set("Authorization", "SharedKey "+s.cfg.Workspace+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return s.post(req)
}
