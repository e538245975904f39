// Package config is the configuration file of `vauban serve`: TOML, every value with a default, an
// origin and a place to complain about.
//
//	cfg, err := config.Load("vauban.toml", os.Environ())
//
// A value comes from the environment (VAUBAN_STORE_KIND for store.kind), else from the file, else from the
// defaults. Secrets are never in the file: it names files that hold them. All problems are
// reported at once, each with its place, the value, and what would be right.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/vauban-iot/vauban/internal/nearest"
)

// Config of a serving node. Paths are absolute once loaded.
type Config struct {
	Hostname  string // name devices and programs use; on every node the same
	Listen    string // IP address to listen on
	MQTTPort  int    // 0 in any of the ports: any free one
	HTTPSPort int
	AMQPPort  int
	MasterKey string // file of the key that seals secrets; on every node the same
	PKI       string // folder of the installation's CA and certificates; on every node a copy of the same
	Intel     string // folder of indicator lists; beside the file when not given
	// RetroDays is how many days of traffic new indicators are compared with, as far as the log keeps it; 0: none.
	RetroDays int
	// AlertDays is how many days closed alerts are kept.
	AlertDays int
	Blobs     string // folder of the files that devices store; beside the file when not given and the store is SQLite, else none
	// StaticRSA also offers TLS_RSA_WITH_AES_128_CBC_SHA256 (0x003C) to devices over MQTT, for firmware that knows nothing else.
	StaticRSA bool
	// BlobHosts are the hosts, separated by commas, whose containers imports and exports of identities may use beside this
	// server's own and loopback: names, or *.domain for all below it.
	BlobHosts string
	Routed    string // folder of routed messages; beside the file when not given
	// Connection is a file that gets the connection data, with secrets, mode 0600; beside the file when not given.
	Connection string
	Node       string // tells this server from others on the same store; the machine's name when not given
	Store      Store
	Bus        Bus
	Log        Log
	Throttle   Throttle
	SignIn     SignIn

	origins map[string]string
}

// Store says where the state is.
type Store struct {
	Kind    string // sqlite or postgres
	Path    string // sqlite: the database file
	URLFile string // postgres: a file that holds the connection URL
}

// Bus says where facts and commands go.
type Bus struct {
	// One of the three:
	Dir     string // folder of logs, for a server that stands alone
	NATSDir string // folder of an embedded NATS, which NATS servers can take over when one machine is no longer enough
	URLs    string // NATS servers, separated by commas

	Replicas int // copies of the log in a NATS cluster
}

// Throttle limits how often things may be asked of the hub, unless the operator sets other limits at run time. The zero
// value limits nothing.
type Throttle struct {
	Tier   string            // F1, S1, S2 or S3: the limits of Azure; empty: none
	Units  int               // of the tier; 0: 1
	Limits map[string]string // exceptions, by the names of Limits: 100/s, 20/min, off
}

// Limits are the limits that a file can set, each under throttle. in snake case.
var Limits = []string{
	"connections", "telemetry", "cloudToDeviceSends", "cloudToDeviceReceives", "fileUploads", "directMethods", "twinReads", "twinUpdates",
	"twinQueries", "registry", "jobs", "jobDevices", "configurations", "dailyMessages",
}

// SignIn says how people of the Security Service prove who they are.
type SignIn struct {
	Registration string        // who may make an account for itself: invited, loopback or anyone
	AccessToken  time.Duration // how long one is good
	RefreshToken time.Duration // how long one that is not used is good
	Session      time.Duration // after which one proves oneself again
	Providers    []Provider    // in order of their names
}

// Provider is an OpenID provider: a table [signin.provider.NAME].
type Provider struct {
	Name       string
	Title      string // for people; NAME when not given
	Issuer     string // its https address
	Client     string // this installation's client id there
	SecretFile string // a file that holds the client secret; none for a public client
	Accept     string // whom of its people: invited or anyone
	Domains    string // of mail addresses, separated by commas; empty: all
}

// DomainList lists Domains, in lower case; nil: all.
func (p Provider) DomainList() []string {
	var ds []string
	for d := range strings.SplitSeq(p.Domains, ",") {
		if d = strings.ToLower(strings.TrimSpace(d)); d != "" {
			ds = append(ds, d)
		}
	}
	return ds
}

// Log says how the server speaks.
type Log struct {
	Level  slog.Level
	Format string // text or json
}

// Default is what an empty file means.
func Default() *Config {
	return &Config{
		Hostname: "localhost", Listen: "127.0.0.1", MQTTPort: 8883, HTTPSPort: 443, AMQPPort: 5671, RetroDays: 7, AlertDays: 90,
		Store: Store{Kind: "sqlite"}, Bus: Bus{Replicas: 1}, Log: Log{Level: slog.LevelInfo, Format: "text"},
		SignIn: SignIn{Registration: "invited", AccessToken: 15 * time.Minute, RefreshToken: 14 * 24 * time.Hour, Session: 90 * 24 * time.Hour},
	}
}

// field is one key of the file.
type field struct {
	key  string
	set  func(string) error // from text
	show func() string
	path bool // relative to the file
	flag bool // true and false are values of it
}

var errNumber = errors.New("want a whole number")

func str(key string, p *string) field {
	return field{key: key, set: func(s string) error { *p = s; return nil }, show: func() string { return strconv.Quote(*p) }}
}

func file(key string, p *string) field {
	f := str(key, p)
	f.path = true
	return f
}

func choice(key string, p *string, words ...string) field {
	f := str(key, p)
	f.set = func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("unknown word %q (want %s)", s, quoted(words))
		}
		*p = s
		return nil
	}
	return f
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = strconv.Quote(w)
	}
	return strings.Join(q, " or ")
}

func number(key string, p *int, least, most int) field {
	return field{key: key, show: func() string { return strconv.Itoa(*p) }, set: func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return errNumber
		}
		if n < least || n > most {
			return fmt.Errorf("%d is outside %d to %d", n, least, most)
		}
		*p = n
		return nil
	}}
}

func flag(key string, p *bool) field {
	return field{key: key, flag: true, show: func() string { return strconv.FormatBool(*p) }, set: func(s string) error {
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*p = s == "true"
		return nil
	}}
}

func duration(key string, p *time.Duration, least, most time.Duration) field {
	return field{key: key, show: func() string { return strconv.Quote(p.String()) }, set: func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is no duration (want \"15m\" or \"336h\")", s)
		}
		if d < least || d > most {
			return fmt.Errorf("%v is outside %v to %v", d, least, most)
		}
		*p = d
		return nil
	}}
}

const providerTable = "signin.provider."

var goodProvider = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// addProvider makes room for the provider that a key names; false: it names none.
func (c *Config) addProvider(key string) bool {
	rest, ok := strings.CutPrefix(key, providerTable)
	name, _, full := strings.Cut(rest, ".")
	if !ok || !full || !goodProvider.MatchString(name) {
		return false
	}
	at, known := slices.BinarySearchFunc(c.SignIn.Providers, name, func(p Provider, name string) int { return strings.Compare(p.Name, name) })
	if !known {
		c.SignIn.Providers = slices.Insert(c.SignIn.Providers, at, Provider{Name: name, Title: name, Accept: "invited"})
	}
	return true
}

// fields are the keys of a provider's table.
func (p *Provider) fields() []field {
	table := providerTable + p.Name + "."
	issuer := str(table+"issuer", &p.Issuer)
	issuer.set = func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("%q is no address of an issuer (want \"https://id.example.net\")", s)
		}
		p.Issuer = s
		return nil
	}
	domains := str(table+"mail_domains", &p.Domains)
	domains.set = func(s string) error {
		for d := range strings.SplitSeq(s, ",") {
			if d = strings.TrimSpace(d); d != "" && !mailDomain.MatchString(d) {
				return fmt.Errorf("%q is no domain (want \"example.net\")", d)
			}
		}
		p.Domains = s
		return nil
	}
	return []field{
		str(table+"title", &p.Title), issuer, str(table+"client_id", &p.Client), file(table+"client_secret_file", &p.SecretFile),
		choice(table+"accept", &p.Accept, "invited", "anyone"), domains,
	}
}

var mailDomain = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

// limit is a key of the table throttle.
func (c *Config) limit(name string) field {
	var key strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			key.WriteByte('_')
		}
		key.WriteRune(unicode.ToLower(r))
	}
	return field{key: "throttle." + key.String(), show: func() string { return strconv.Quote(c.Throttle.Limits[name]) }, set: func(s string) error {
		if !goodLimit.MatchString(s) || name == "dailyMessages" && strings.Contains(s, "/") != strings.HasSuffix(s, "/day") || name != "dailyMessages" && strings.HasSuffix(s, "/day") {
			return fmt.Errorf("%q is no limit (want \"100/s\", \"20/min\" or \"off\"; daily_messages \"400000/day\")", s)
		}
		if c.Throttle.Limits == nil {
			c.Throttle.Limits = map[string]string{}
		}
		c.Throttle.Limits[name] = s
		return nil
	}}
}

var goodLimit = regexp.MustCompile(`^(off|(0*[1-9]\d{0,11}|\d{1,11}\.\d*[1-9]\d*)/(s|min|day))$`)

// fields lists every key, in the order in which they are shown.
func (c *Config) fields() []field {
	var limits []field
	for _, name := range Limits {
		limits = append(limits, c.limit(name))
	}
	signIn := []field{
		choice("signin.registration", &c.SignIn.Registration, "invited", "loopback", "anyone"),
		duration("signin.access_token", &c.SignIn.AccessToken, time.Minute, 24*time.Hour),
		duration("signin.refresh_token", &c.SignIn.RefreshToken, time.Hour, 366*24*time.Hour),
		duration("signin.session", &c.SignIn.Session, time.Hour, 366*24*time.Hour),
	}
	for i := range c.SignIn.Providers {
		signIn = append(signIn, c.SignIn.Providers[i].fields()...)
	}
	limits = append(limits, signIn...)
	return append([]field{
		str("hostname", &c.Hostname),
		{key: "listen", show: func() string { return strconv.Quote(c.Listen) }, set: func(s string) error {
			if net.ParseIP(s) == nil {
				return fmt.Errorf("%q is not an IP address (want \"0.0.0.0\" for all networks)", s)
			}
			c.Listen = s
			return nil
		}},
		number("mqtt_port", &c.MQTTPort, 0, 65535),
		number("https_port", &c.HTTPSPort, 0, 65535),
		number("amqp_port", &c.AMQPPort, 0, 65535),
		file("master_key", &c.MasterKey),
		file("pki", &c.PKI),
		file("intel", &c.Intel),
		flag("static_rsa", &c.StaticRSA),
		number("retro_days", &c.RetroDays, 0, 3650),
		number("alert_days", &c.AlertDays, 7, 3650),
		file("blobs", &c.Blobs),
		{key: "blob_hosts", show: func() string { return strconv.Quote(c.BlobHosts) }, set: func(s string) error {
			for h := range strings.SplitSeq(s, ",") {
				if h = strings.TrimSpace(h); h != "" && !blobHost.MatchString(h) {
					return fmt.Errorf("%q is no host (want \"account.blob.example.net\" or \"*.blob.example.net\")", h)
				}
			}
			c.BlobHosts = s
			return nil
		}},
		file("routed", &c.Routed),
		file("connection", &c.Connection),
		str("node", &c.Node),
		choice("store.kind", &c.Store.Kind, "sqlite", "postgres"),
		file("store.path", &c.Store.Path),
		file("store.url_file", &c.Store.URLFile),
		file("bus.dir", &c.Bus.Dir),
		file("bus.nats_dir", &c.Bus.NATSDir),
		str("bus.urls", &c.Bus.URLs),
		number("bus.replicas", &c.Bus.Replicas, 1, 5),
		{key: "log.level", show: func() string { return strconv.Quote(strings.ToLower(c.Log.Level.String())) }, set: func(s string) error {
			if err := c.Log.Level.UnmarshalText([]byte(s)); err != nil {
				return fmt.Errorf("unknown level %q (want \"debug\", \"info\", \"warn\" or \"error\")", s)
			}
			return nil
		}},
		choice("log.format", &c.Log.Format, "text", "json"),
		choice("throttle.tier", &c.Throttle.Tier, "", "F1", "S1", "S2", "S3"),
		number("throttle.units", &c.Throttle.Units, 0, 1000),
	}, limits...)
}

// blobHost is a name, or *. before one, with a port or without.
var blobHost = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(:[0-9]{1,5})?$`)

// Hosts lists BlobHosts.
func (c *Config) Hosts() []string {
	var hosts []string
	for h := range strings.SplitSeq(c.BlobHosts, ",") {
		if h = strings.TrimSpace(h); h != "" {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Problem is one thing that is wrong.
type Problem struct {
	Place string // file:line:column, a variable of the environment, or the file
	Key   string
	Text  string
}

func (p Problem) String() string {
	if p.Key == "" {
		return p.Place + ": " + p.Text
	}
	return p.Place + ": " + p.Key + ": " + p.Text
}

// Problems is the error of Load.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxFile bounds the file; real ones have a page.
const maxFile = 1 << 20

// Load reads a file and the environment (KEY=value, as os.Environ gives it). Its error is Problems, or what
// kept the file from being read.
func Load(path string, environ []string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no configuration file %s; name one with --config", path)
	}
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; that is no configuration file", path, info.Size())
	}
	text, err := os.ReadFile(abs)
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be read: %w", err)
	}
	return parse(path, filepath.Dir(abs), text, environ)
}

func parse(name, dir string, text []byte, environ []string) (*Config, error) {
	c := Default()
	c.origins = map[string]string{}
	var problems Problems
	var doc map[string]any
	if err := toml.Unmarshal(text, &doc); err != nil {
		place := name
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, col := e.Position()
			place = fmt.Sprintf("%s:%d:%d", name, line, col)
		}
		return nil, Problems{{Place: place, Text: strings.TrimPrefix(err.Error(), "toml: ")}}
	}
	places := positions(name, text)
	flat := map[string]any{}
	flatten("", doc, flat)
	for key := range flat {
		c.addProvider(key)
	}
	fields := c.fields()
	byKey, keys := map[string]field{}, make([]string, 0, len(fields))
	for _, f := range fields {
		byKey[f.key], keys = f, append(keys, f.key)
	}
	for _, key := range sortedKeys(flat) {
		value := flat[key]
		place := places[key]
		if place == "" {
			place = name
		}
		f, known := byKey[key]
		if !known {
			problems = append(problems, Problem{place, key, "unknown key" + nearest.Hint(key, keys)})
			continue
		}
		s, err := plain(value)
		if b, ok := value.(bool); ok && f.flag {
			s, err = strconv.FormatBool(b), nil
		}
		if err == nil {
			if f.path && s != "" && !filepath.IsAbs(s) {
				s = filepath.Join(dir, s)
			}
			err = f.set(s)
		}
		if err != nil {
			problems = append(problems, Problem{place, key, err.Error()})
			continue
		}
		c.origins[key] = place
	}
	problems = append(problems, c.environment(environ, fields)...)
	if c.Intel == "" {
		c.Intel = filepath.Join(dir, "intel")
	}
	if c.Blobs == "" && c.Store.Kind == "sqlite" { // several servers need a folder they share, which nobody can guess
		c.Blobs = filepath.Join(dir, "blobs")
	}
	if c.Routed == "" {
		c.Routed = filepath.Join(dir, "routed")
	}
	if c.Connection == "" {
		c.Connection = filepath.Join(dir, "connection.json")
	}
	if len(problems) == 0 {
		problems = c.check(name)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

func (c *Config) environment(environ []string, fields []field) (problems Problems) {
	for _, f := range fields {
		variable := "VAUBAN_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(f.key))
		for _, e := range environ {
			name, value, _ := strings.Cut(e, "=")
			if name != variable {
				continue
			}
			if err := f.set(value); err != nil {
				problems = append(problems, Problem{"$" + variable, f.key, err.Error()})
				continue
			}
			c.origins[f.key] = "$" + variable
		}
	}
	return problems
}

// check judges the values together.
func (c *Config) check(name string) (problems Problems) {
	missing := func(key, text string) { problems = append(problems, Problem{name, key, text}) }
	if c.MasterKey == "" {
		missing("master_key", "required: the file that holds the master key; it is made when it is missing")
	}
	if c.PKI == "" {
		missing("pki", "required: the folder of the installation's certificates; they are made when it is empty")
	}
	switch c.Store.Kind {
	case "sqlite":
		if c.Store.Path == "" {
			missing("store.path", "required with store.kind \"sqlite\": the database file")
		}
	case "postgres":
		if c.Store.URLFile == "" {
			missing("store.url_file", "required with store.kind \"postgres\": a file that holds postgres://user:password@host/database")
		}
	}
	buses := 0
	for _, place := range []string{c.Bus.Dir, c.Bus.NATSDir, c.Bus.URLs} {
		if place != "" {
			buses++
		}
	}
	if buses != 1 {
		missing("bus", "set one of bus.dir, for a server that stands alone, bus.nats_dir, for NATS inside it, and bus.urls, for NATS servers")
	}
	if c.Throttle.Units > 0 && c.Throttle.Tier == "" {
		missing("throttle.units", "units are of a tier; set throttle.tier")
	}
	if c.SignIn.AccessToken > c.SignIn.RefreshToken || c.SignIn.RefreshToken > c.SignIn.Session {
		missing("signin", "an access token must not outlive a refresh token, nor that the session")
	}
	for _, p := range c.SignIn.Providers {
		if p.Issuer == "" {
			missing(providerTable+p.Name+".issuer", "required: the provider's address, https://...")
		}
		if p.Client == "" {
			missing(providerTable+p.Name+".client_id", "required: this installation's client id at the provider")
		}
	}
	if c.Hostname == "" {
		missing("hostname", "required: the name devices and programs use")
	}
	return problems
}

// Value is one key with where its value comes from.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"` // as the file would have it
	Origin string `json:"origin"`
}

// Values lists every key in the order of the documentation.
func (c *Config) Values() []Value {
	var vs []Value
	for _, f := range c.fields() {
		origin := c.origins[f.key]
		if origin == "" {
			origin = "default"
		}
		vs = append(vs, Value{f.key, f.show(), origin})
	}
	return vs
}

func flatten(prefix string, table map[string]any, into map[string]any) {
	for k, v := range table {
		if sub, ok := v.(map[string]any); ok {
			flatten(prefix+k+".", sub, into)
		} else {
			into[prefix+k] = v
		}
	}
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func plain(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	}
	return "", fmt.Errorf("want a text or a number, not %v", v)
}

// positions finds the line and column of every key.
func positions(name string, text []byte) map[string]string {
	found := map[string]string{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		var at unstable.Position
		for it := e.Key(); it.Next(); {
			if len(parts) == 0 {
				at = p.Shape(it.Node().Raw).Start
			}
			parts = append(parts, string(it.Node().Data))
		}
		key := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key + "."
		case unstable.KeyValue:
			found[table+key] = fmt.Sprintf("%s:%d:%d", name, at.Line, at.Column)
		}
	}
	return found
}
