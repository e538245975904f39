// Package export sends what Defender finds to where people watch: alerts, recommendations and security events, to files of lines of JSON, webhooks,
// syslog servers and what speaks the data collector API of Log Analytics; as rows of the workspace tables (defender §2.6), as OCSF or as CEF (§5).
//
// Each export has a place of its own among the changes that the store keeps, so that it goes on where it was after a restart or a crash, in order and
// at least once, and holds up neither detection nor another export. One that fails is tried again, later and later, and what is older
// than its giveUpAfter is given up then, counted and told. [Manager.Run] runs on one server of a cluster.
package export

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/record"
	"github.com/vauban-iot/vauban/defender/table"
	"github.com/vauban-iot/vauban/fault"
)

// Kind is where an export goes.
type Kind string

// The kinds.
const (
	Files        Kind = "files"
	Webhook      Kind = "webhook"
	Syslog       Kind = "syslog"
	LogAnalytics Kind = "loganalytics"
)

// Kinds are all there are.
var Kinds = []Kind{Files, Webhook, Syslog, LogAnalytics}

// Data is a sort of what may be exported.
type Data string

// The sorts.
const (
	Alerts          Data = "alerts"
	Recommendations Data = "recommendations"
	Events          Data = "events"
)

// AllData are all sorts.
var AllData = []Data{Alerts, Recommendations, Events}

// Format is how an item is written.
type Format string

// The formats.
const (
	Table Format = "table" // a row of the workspace tables
	OCSF  Format = "ocsf"
	CEF   Format = "cef" // to syslog only
)

// The bodies of a webhook's requests.
const (
	Array = "array"  // of JSON
	Lines = "ndjson" // one object a line
)

// The ways to a syslog server.
const (
	TLS = "tls"
	TCP = "tcp"
	UDP = "udp"
)

// Config is an export as an operator sets it.
type Config struct {
	Name        string         `json:"name"`
	Kind        Kind           `json:"kind"`
	Data        []Data         `json:"data"`                  // default: alerts and recommendations
	Format      Format         `json:"format"`                // default: cef to syslog, ocsf to webhooks, table to others
	MinSeverity alert.Severity `json:"minSeverity,omitempty"` // of alerts and recommendations; less grave ones are left out
	Product     string         `json:"product,omitempty"`     // what rows name as ProductName: vauban, or azure for queries that were written for Azure
	From        string         `json:"from,omitempty"`        // where a new export begins: now (default), or beginning: with all that the store has
	GiveUpAfter string         `json:"giveUpAfter,omitempty"` // how long a failing export holds on to an item; default 72h
	Disabled    bool           `json:"disabled,omitempty"`    // nothing is sent; it goes on where it was once it is enabled

	MaxBytes int64 `json:"maxBytes,omitempty"` // files: of all of them; the oldest go; default 10 GiB

	URL        string            `json:"url,omitempty"` // webhook, loganalytics
	Body       string            `json:"body,omitempty"`
	Token      string            `json:"token,omitempty"`      // webhook: sent as a bearer token
	Headers    map[string]string `json:"headers,omitempty"`    // webhook: sent as well
	SigningKey string            `json:"signingKey,omitempty"` // webhook: key of the signature in Vauban-Signature
	Workspace  string            `json:"workspace,omitempty"`  // loganalytics: id of the workspace
	SharedKey  string            `json:"sharedKey,omitempty"`  // loganalytics: its key, base64

	Address     string `json:"address,omitempty"`     // syslog: host:port
	Transport   string `json:"transport,omitempty"`   // syslog: tls (default), or, for laboratories, tcp or udp
	ServerName  string `json:"serverName,omitempty"`  // syslog: in the server's certificate, when it is not the host
	CA          string `json:"ca,omitempty"`          // PEM of what the server's certificate is trusted by, in place of the system's
	Certificate string `json:"certificate,omitempty"` // syslog: PEM of the certificate to show, with its chain
	Key         string `json:"key,omitempty"`         // syslog: PEM of its key
}

// Bounds of exports.
const (
	MaxExports      = 20
	defaultGiveUp   = 72 * time.Hour
	minGiveUp       = time.Minute
	maxGiveUp       = 7 * 24 * time.Hour // as long as events are kept
	defaultMaxBytes = 10 << 30
	minMaxBytes     = 1 << 20
	maxText         = 16 << 10 // of a certificate or key
)

// Check completes a configuration, or says what is wrong with it (fault.Invalid).
func (c *Config) Check() error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "export %s: "+format, append([]any{c.Name}, args...)...)
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if !slices.Contains(Kinds, c.Kind) {
		return bad("its kind must be one of %v, not %q", Kinds, c.Kind)
	}
	if len(c.Data) == 0 {
		c.Data = []Data{Alerts, Recommendations}
	}
	for i, d := range c.Data {
		if !slices.Contains(AllData, d) || slices.Contains(c.Data[:i], d) {
			return bad("its data must be some of %v, each once, not %q", AllData, d)
		}
	}
	if c.Format == Table && c.Kind == Syslog {
		return bad("rows of tables are too long for syslog; choose cef or ocsf")
	}
	switch c.Format {
	case "":
		c.Format = Table
		switch c.Kind {
		case Syslog:
			c.Format = CEF
		case Webhook:
			c.Format = OCSF
		}
	case Table, OCSF, CEF:
	default:
		return bad("its format must be table, ocsf or cef, not %q", c.Format)
	}
	if c.Format == CEF && c.Kind != Syslog {
		return bad("the format cef is for syslog; choose table or ocsf")
	}
	if c.Format != Table && c.Kind == LogAnalytics {
		return bad("Log Analytics takes the format table only")
	}
	if c.MinSeverity != "" && rank(c.MinSeverity) < 0 {
		return bad("its minSeverity must be High, Medium, Low or Informational")
	}
	if _, err := table.ProductName(c.Product); err != nil {
		return bad("%v", err)
	}
	if c.From != "" && c.From != "now" && c.From != "beginning" {
		return bad("it begins from now or from the beginning, not from %q", c.From)
	}
	if c.GiveUpAfter != "" {
		if d, err := time.ParseDuration(c.GiveUpAfter); err != nil || d < minGiveUp || d > maxGiveUp {
			return bad("its giveUpAfter must be a duration such as 24h, from %v to %v", minGiveUp, maxGiveUp)
		}
	}
	if c.MaxBytes != 0 && c.MaxBytes < minMaxBytes {
		return bad("its maxBytes must be at least %d", int64(minMaxBytes))
	}
	if len(c.CA) > maxText || len(c.Certificate) > maxText || len(c.Key) > maxText {
		return bad("its certificates or its key have more than %d bytes", maxText)
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return bad("its ca holds no certificate in PEM")
	}
	if err := c.foreign(bad); err != nil {
		return err
	}
	switch c.Kind {
	case Webhook, LogAnalytics:
		return c.checkHTTP(bad)
	case Syslog:
		return c.checkSyslog(bad)
	}
	return nil
}

// foreign refuses what belongs to another kind: somebody expects something of it.
func (c *Config) foreign(bad func(string, ...any) error) error {
	for _, m := range []struct {
		name  string
		set   bool
		kinds []Kind
	}{
		{"maxBytes", c.MaxBytes != 0, []Kind{Files}},
		{"url", c.URL != "", []Kind{Webhook, LogAnalytics}}, {"body", c.Body != "", []Kind{Webhook}}, {"token", c.Token != "", []Kind{Webhook}},
		{"headers", len(c.Headers) > 0, []Kind{Webhook}}, {"signingKey", c.SigningKey != "", []Kind{Webhook}},
		{"workspace", c.Workspace != "", []Kind{LogAnalytics}}, {"sharedKey", c.SharedKey != "", []Kind{LogAnalytics}},
		{"address", c.Address != "", []Kind{Syslog}}, {"transport", c.Transport != "", []Kind{Syslog}}, {"serverName", c.ServerName != "", []Kind{Syslog}},
		{"ca", c.CA != "", []Kind{Webhook, LogAnalytics, Syslog}}, {"certificate", c.Certificate != "", []Kind{Syslog}}, {"key", c.Key != "", []Kind{Syslog}},
	} {
		if m.set && !slices.Contains(m.kinds, c.Kind) {
			return bad("%s is for exports of the kind %v, not %s", m.name, m.kinds, c.Kind)
		}
	}
	return nil
}

func (c *Config) checkHTTP(bad func(string, ...any) error) error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return bad("its url must be an absolute https or http URL without user and password")
	}
	if c.Kind == LogAnalytics {
		if c.Workspace == "" || strings.ContainsAny(c.Workspace, ": \r\n") {
			return bad("say the id of the workspace")
		}
		if key, err := base64.StdEncoding.DecodeString(c.SharedKey); err != nil || len(key) == 0 {
			return bad("its sharedKey is the primary or secondary key of the workspace, in base64")
		}
		return nil
	}
	if u.Scheme != "https" && (c.Token != "" || c.SigningKey != "" || len(c.Headers) > 0) && !isLoopback(u.Hostname()) {
		return bad("it would send secrets over plain http; use an https URL")
	}
	switch c.Body {
	case "":
		c.Body = Array
	case Array, Lines:
	default:
		return bad("its body must be array or ndjson")
	}
	if len(c.Headers) > 20 {
		return bad("it has more than 20 headers")
	}
	own := []string{"Authorization", "Content-Length", "Content-Type", "Host", "Transfer-Encoding", "User-Agent", signatureHeader, idHeader}
	for name, value := range c.Headers {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		if name == "" || strings.ContainsAny(name, " :\r\n\t\x00") || strings.ContainsAny(value, "\r\n\x00") {
			return bad("%q cannot be a header", name)
		}
		if slices.Contains(own, canonical) && (canonical != "Authorization" || c.Token != "") {
			return bad("the header %s is set by Vauban itself", canonical)
		}
	}
	if strings.ContainsAny(c.Token, "\r\n\x00") {
		return bad("its token cannot stand in a header")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Config) checkSyslog(bad func(string, ...any) error) error {
	if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" {
		return bad("its address must be host:port, such as siem.example:6514")
	}
	switch c.Transport {
	case "":
		c.Transport = TLS
	case TLS, TCP, UDP:
	default:
		return bad("its transport must be tls, tcp or udp")
	}
	if c.Transport != TLS {
		if c.CA != "" || c.Certificate != "" || c.Key != "" || c.ServerName != "" {
			return bad("certificates are for the transport tls; over %s nobody is verified", c.Transport)
		}
		return nil
	}
	if (c.Certificate == "") != (c.Key == "") {
		return bad("a certificate needs its key, and a key its certificate")
	}
	if c.Certificate != "" && c.Key != redacted {
		if _, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key)); err != nil {
			return bad("its certificate and key do not go together, or are not PEM: %v", err)
		}
	}
	return nil
}

// CheckName refuses what is no name of an export. It is a folder's name, too.
func CheckName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fault.New(fault.Invalid, "the name of an export has 1 to 64 lower-case letters, digits and hyphens, not %q", name)
	}
	return nil
}

func (c *Config) giveUpAfter() time.Duration {
	d, _ := time.ParseDuration(c.GiveUpAfter) // Check looked at it
	return cmp.Or(d, defaultGiveUp)
}

// rank orders severities; -1: it is none.
func rank(s alert.Severity) int {
	return slices.Index([]alert.Severity{alert.Informational, alert.Low, alert.Medium, alert.High}, s)
}

// wants reports whether something of a severity is grave enough.
func (c *Config) wants(s alert.Severity) bool { return rank(s) >= rank(c.MinSeverity) }

const redacted = "[redacted]"

func (c *Config) secrets() []*string { return []*string{&c.Token, &c.SigningKey, &c.SharedKey, &c.Key} }

// Redacted is c without its secrets.
func (c Config) Redacted() Config {
	if len(c.Headers) > 0 {
		h := make(map[string]string, len(c.Headers))
		for name := range c.Headers {
			h[name] = redacted
		}
		c.Headers = h
	}
	for _, s := range c.secrets() {
		if *s != "" {
			*s = redacted
		}
	}
	return c
}

// restore puts secrets of old where c, which somebody read and changed, has none. They do not go to another place than they were given for,
// and another place is also what proves by another certificate to be the same.
func (c *Config) restore(old *Config) error {
	moved := old == nil || c.URL != old.URL || c.Address != old.Address || c.Transport != old.Transport || c.Kind != old.Kind || c.CA != old.CA || c.ServerName != old.ServerName
	take := func(name string, s *string, before func() string) error {
		if *s != redacted {
			return nil
		}
		if moved {
			return fault.New(fault.Invalid, "export %s: it goes to another place now, or trusts another certificate; give its %s again", c.Name, name)
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
	names := []string{"token", "signingKey", "sharedKey", "key"}
	for i, s := range c.secrets() {
		if err := take(names[i], s, func() string { return *old.secrets()[i] }); err != nil {
			return err
		}
	}
	return nil
}

// State is how far an export is and how it does.
type State struct {
	Alerts alert.Place  `json:"alerts"`
	Events record.Place `json:"events"`
	// Recommendations is the sequence of the last one.
	Recommendations uint64 `json:"recommendations"`

	LastAttempt time.Time `json:"lastAttempt,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	NextAttempt time.Time `json:"nextAttempt,omitzero"` // after failures
	FailedSince time.Time `json:"failedSince,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
	Error       string    `json:"error,omitempty"`    // of the last attempt
	Sent        int64     `json:"sent"`               // items
	GivenUp     int64     `json:"givenUp"`            // items that were too old, or refused for good
	LastGivenUp string    `json:"lastGivenUp,omitempty"`
}

// Export is an export with its state.
type Export struct {
	Config
	Generation int64   `json:"-"` // of the configuration
	State      State   `json:"state"`
	Waiting    Waiting `json:"waiting"`
}

// Waiting is how much was not sent yet; numbers end at MaxWaiting.
type Waiting struct {
	Alerts          int `json:"alerts"`
	Recommendations int `json:"recommendations"`
	Events          int `json:"events"`
}

// MaxWaiting is up to where what waits is counted.
const MaxWaiting = 10_000

// Store keeps exports. Every write is on disk when the call returns. Configurations are sealed.
type Store interface {
	// Exports lists all, by name.
	Exports(ctx context.Context) ([]Export, error)
	// Export returns one; fault.NotFound.
	Export(ctx context.Context, name string) (Export, error)
	// PutExport runs change over the export of that name, nil when there is none, and keeps what it returns, in a new generation.
	// fault.QuotaExceeded when there are MaxExports others.
	PutExport(ctx context.Context, name string, change func(*Export) (Export, error)) error
	// DeleteExport removes one; fault.NotFound.
	DeleteExport(ctx context.Context, name string) error
	// SetExportState keeps the state of a generation; fault.PreconditionFailed when there is a newer one or none.
	SetExportState(ctx context.Context, name string, generation int64, s State) error
}

// MarshalConfig and UnmarshalConfig are how stores keep configurations.
func MarshalConfig(c Config) ([]byte, error) { return json.Marshal(c) }

// UnmarshalConfig undoes MarshalConfig.
func UnmarshalConfig(text []byte) (c Config, err error) {
	if err = json.Unmarshal(text, &c); err != nil {
		err = fmt.Errorf("a stored export is damaged: %w", err)
	}
	return c, err
}
