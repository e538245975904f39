// Package feed brings published threat intelligence into an [intel.Engine]: it fetches the feeds that an operator configured, keeps what they gave
// in the store, and follows the store, so that every server has it and a restart needs no Internet. Nothing is fetched that is not configured.
//
// [Manager.Fetch] runs on one server of a cluster, [Manager.Follow] on each.
package feed

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/intel"
	"github.com/vauban-iot/vauban/defender/intel/format"
	"github.com/vauban-iot/vauban/fault"
)

// Config is a feed as an operator sets it.
type Config struct {
	Name   string      `json:"name"`
	Format format.Kind `json:"format"`
	// URL is where it is; of TAXII the collection, of MISP the folder of manifest.json.
	URL string `json:"url,omitempty"`
	// File is in place of URL: a file, or with MISP a folder, below the folder of lists.
	File string `json:"file,omitempty"`
	// Use is match, or allow: then its values are exempt from other feeds, as warning lists are.
	Use           string `json:"use,omitempty"`
	Interval      string `json:"interval,omitempty"`      // from one look to the next; default 1h, at least 1m
	Confidence    int    `json:"confidence,omitempty"`    // of what says none; default 75
	MinConfidence int    `json:"minConfidence,omitempty"` // less sure indicators are left out
	MaxBytes      int64  `json:"maxBytes,omitempty"`      // of the whole, unpacked; default 1 GiB
	Disabled      bool   `json:"disabled,omitempty"`      // it is neither fetched nor matched

	Headers  map[string]string `json:"headers,omitempty"` // such as Auth-Key
	User     string            `json:"user,omitempty"`
	Password string            `json:"password,omitempty"`
	Token    string            `json:"token,omitempty"` // sent as a bearer token
	CA       string            `json:"ca,omitempty"`    // PEM of what the server's certificate is trusted by, in place of the system's
}

// The uses of a feed.
const (
	Match = "match"
	Allow = "allow"
)

const (
	defaultInterval = time.Hour
	minInterval     = time.Minute
	defaultBytes    = 1 << 30
	maxBytes        = 8 << 30
	maxFeeds        = 200
)

// Check completes a configuration, or says what is wrong with it (fault.Invalid).
func (c *Config) Check() error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "feed %s: "+format, append([]any{c.Name}, args...)...)
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if !slices.Contains(format.Kinds, c.Format) {
		return bad("its format must be one of %v, not %q", format.Kinds, c.Format)
	}
	if (c.URL == "") == (c.File == "") {
		return bad("say either url or file")
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return bad("its url must be an absolute http or https URL without user and password")
		}
	}
	if c.File != "" && (!filepath.IsLocal(c.File) || c.Format == format.TAXII) {
		return bad("its file must be a path below the folder of lists, and TAXII has no files")
	}
	switch c.Use {
	case "":
		c.Use = Match
		if c.Format == format.WarningList {
			c.Use = Allow
		}
	case Match, Allow:
	default:
		return bad("its use must be match or allow")
	}
	if c.Interval != "" {
		if d, err := time.ParseDuration(c.Interval); err != nil || d < minInterval || d > 365*24*time.Hour {
			return bad("its interval must be a duration such as 30m, at least %v", minInterval)
		}
	}
	if c.Confidence < 0 || c.Confidence > 100 || c.MinConfidence < 0 || c.MinConfidence > 100 {
		return bad("confidences are numbers up to 100")
	}
	if c.MaxBytes < 0 || c.MaxBytes > maxBytes {
		return bad("maxBytes may be %d at most", int64(maxBytes))
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return bad("its ca holds no certificate in PEM")
	}
	if len(c.Headers) > 20 {
		return bad("it has more than 20 headers")
	}
	for name, value := range c.Headers {
		if name == "" || strings.ContainsAny(name, " :\r\n\t") || strings.ContainsAny(value, "\r\n") {
			return bad("%q cannot be a header", name)
		}
	}
	return nil
}

// CheckName refuses what is no name of a feed.
func CheckName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fault.New(fault.Invalid, "the name of a feed has 1 to 64 lower-case letters, digits and hyphens, not %q", name)
	}
	return nil
}

func (c *Config) interval() time.Duration {
	d, _ := time.ParseDuration(c.Interval) // Check looked at it
	return max(cmp.Or(d, defaultInterval), minInterval)
}

func (c *Config) source(version string) intel.Source {
	return intel.Source{Name: c.Name, Confidence: c.Confidence, MinConfidence: c.MinConfidence, Version: version}
}

func (c *Config) use() intel.Use {
	if c.Use == Allow {
		return intel.ToWarn
	}
	return intel.ToMatch
}

const redacted = "[redacted]"

// Redacted is c without its secrets.
func (c Config) Redacted() Config {
	if len(c.Headers) > 0 {
		h := make(map[string]string)
		for name := range c.Headers {
			h[name] = redacted
		}
		c.Headers = h
	}
	for _, s := range []*string{&c.Password, &c.Token} {
		if *s != "" {
			*s = redacted
		}
	}
	return c
}

// restore puts secrets of old where c, which somebody read and changed, has none. They do not go to another server than they were given
// for, and another is also what proves by another certificate to be the same. fault.Invalid.
func (c *Config) restore(old *Config) error {
	take := func(name string, s *string, before func() string) error {
		if *s != redacted {
			return nil
		}
		if old == nil || !sameServer(c.URL, old.URL) || c.CA != old.CA {
			return fault.New(fault.Invalid, "feed %s: it comes from another server now, or trusts another certificate; give its %s again", c.Name, name)
		}
		*s = before()
		return nil
	}
	for name, v := range c.Headers {
		if err := take("header "+name, &v, func() string { return old.Headers[name] }); err != nil {
			return err
		}
		c.Headers[name] = v
	}
	if err := take("password", &c.Password, func() string { return old.Password }); err != nil {
		return err
	}
	return take("token", &c.Token, func() string { return old.Token })
}

// sameServer reports whether two addresses have scheme, host and port in common.
func sameServer(a, b string) bool {
	x, err := url.Parse(a)
	if err != nil {
		return false
	}
	y, err := url.Parse(b)
	return err == nil && x.Scheme == y.Scheme && x.Host == y.Host
}

// sameSource reports whether both fetch the same, so that one may go on where the other was.
func (c *Config) sameSource(o *Config) bool {
	return c.Format == o.Format && c.URL == o.URL && c.File == o.File && c.MinConfidence == o.MinConfidence && c.Confidence == o.Confidence
}

// State is what became of a feed.
type State struct {
	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
	Error       string    `json:"error,omitempty"`    // of the last attempt
	Warning     string    `json:"warning,omitempty"`  // why what was fetched last is not in use
	ETag        string    `json:"etag,omitempty"`
	Modified    string    `json:"lastModified,omitempty"`
	Cursor      string    `json:"cursor,omitempty"` // TAXII: added_after
	Revision    int64     `json:"revision"`         // of the content in use; 0: none
	Indicators  int       `json:"indicators"`
	BadLines    int       `json:"badLines,omitempty"`
	Unsupported int       `json:"unsupported,omitempty"` // patterns and types that cannot be compared with traffic
	Unsure      int       `json:"unsure,omitempty"`      // below minConfidence
	Revoked     int       `json:"revoked,omitempty"`
	Bytes       int64     `json:"bytes,omitempty"` // read the last time
	Problems    []string  `json:"problems,omitempty"`
}

// Feed is a feed with its state.
type Feed struct {
	Config
	Generation int64     `json:"-"` // of the configuration
	State      State     `json:"state"`
	Wanted     time.Time `json:"-"` // when an operator asked for a refresh
	Accept     bool      `json:"-"` // and said that it may shrink
}

// Exemption is a value that the operator allows.
type Exemption struct {
	Value string    `json:"value"` // an address, prefix or domain, in its one usual spelling
	Note  string    `json:"note,omitempty"`
	Added time.Time `json:"added"`
}

// Store keeps feeds, what they gave, and exemptions. Every write is on disk when the call returns. Configurations are sealed.
type Store interface {
	// Feeds lists all, by name.
	Feeds(ctx context.Context) ([]Feed, error)
	// Feed returns one; fault.NotFound.
	Feed(ctx context.Context, name string) (Feed, error)
	// PutFeed runs change over the feed of that name, nil when there is none, and keeps what it returns, in a new generation.
	PutFeed(ctx context.Context, name string, change func(*Feed) (Feed, error)) error
	// DeleteFeed removes one and all it gave; fault.NotFound.
	DeleteFeed(ctx context.Context, name string) error
	// WantFeed asks for a refresh; fault.NotFound.
	WantFeed(ctx context.Context, name string, at time.Time, accept bool) error
	// SetFeedState keeps the state of a generation; fault.PreconditionFailed when there is a newer one or none. A wish up to seen is done with.
	SetFeedState(ctx context.Context, name string, generation int64, s State, seen time.Time) error
	// AddFeedContent adds a piece of a revision; fault.NotFound when the feed is gone.
	AddFeedContent(ctx context.Context, name string, revision int64, piece int, data []byte) error
	// FeedContent hands over the pieces of a revision in order; none when there are none.
	FeedContent(ctx context.Context, name string, revision int64, piece func([]byte) error) error
	// DropFeedContent removes the pieces of all revisions but one.
	DropFeedContent(ctx context.Context, name string, but int64) error
	// Exemptions lists all, by value.
	Exemptions(ctx context.Context) ([]Exemption, error)
	// PutExemption adds one, or changes its note.
	PutExemption(ctx context.Context, e Exemption) error
	// DeleteExemption removes one; fault.NotFound.
	DeleteExemption(ctx context.Context, value string) error
	// IntelVersion differs after each of these writes but AddFeedContent and DropFeedContent.
	IntelVersion(ctx context.Context) (int64, error)
}

// ParseExemption reads a value in any spelling; fault.Invalid.
func ParseExemption(value string) (text string, it intel.Item, err error) {
	it, reason := intel.ParseValue(strings.TrimSpace(value))
	if reason == "" && it.Port != 0 {
		reason = "exemptions have no port"
	}
	if reason != "" {
		return "", it, fault.New(fault.Invalid, "%q cannot be exempt: %s", value, reason)
	}
	switch {
	case it.Domain != "":
		return it.Domain, it, nil
	case it.Value.IsSingleIP():
		return it.Value.Addr().String(), it, nil
	}
	return it.Value.String(), it, nil
}

// MarshalConfig and UnmarshalConfig are how stores keep configurations.
func MarshalConfig(c Config) ([]byte, error) { return json.Marshal(c) }

// UnmarshalConfig undoes MarshalConfig.
func UnmarshalConfig(text []byte) (c Config, err error) {
	if err = json.Unmarshal(text, &c); err != nil {
		err = fmt.Errorf("a stored feed is damaged: %w", err)
	}
	return c, err
}
