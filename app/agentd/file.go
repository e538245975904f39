// Package agentd is the assembly of the Linux micro agent: its configuration file, its identity, its collectors, and its commands,
// which cmd/vauban-agent and `vauban agent` share. It holds nothing of the server's, so that the agent's own binary stays small.
package agentd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/vauban-iot/vauban/agent"
)

// Where an agent finds its configuration unless it is told.
const (
	DefaultFile  = "/etc/vauban-agent/agent.toml"
	DefaultState = "/var/lib/vauban-agent"
	// MicroAgent is the folder of Microsoft's micro agent, whose files are read when there is no file of ours.
	MicroAgent = "/etc/defender_iot_micro_agent"
)

// File is the configuration file. Secrets are in files that it names; paths are relative to it.
type File struct {
	StateDir string `toml:"state_dir"` // default /var/lib/vauban-agent
	Module   string `toml:"module"`    // DefenderIotMicroAgent, the default, or azureiotsecurity
	LogLevel string `toml:"log_level"` // debug, info (default), warn, error
	MaxQueue int64  `toml:"max_queue_bytes"`

	Identity     Identity     `toml:"identity"`
	Provisioning Provisioning `toml:"provisioning"`
	Hub          Hub          `toml:"hub"`
	Collect      Collect      `toml:"collect"`

	from string // the file it was read from
}

// Identity is who the agent is: a module's connection string or its device's.
type Identity struct {
	ConnectionStringFile string `toml:"connection_string_file"`
	CertificateFile      string `toml:"certificate_file"` // with x509=true
	KeyFile              string `toml:"key_file"`
}

// Provisioning is how the device finds its hub, in the place of a connection string. A certificate is that of Identity.
type Provisioning struct {
	Endpoint       string `toml:"endpoint"`
	Address        string `toml:"address"` // host:port, where that is not port 8883, or 443, of the endpoint
	IDScope        string `toml:"id_scope"`
	RegistrationID string `toml:"registration_id"`
	KeyFile        string `toml:"key_file"`       // the enrollment's key, in base64
	GroupKeyFile   string `toml:"group_key_file"` // or that of its group
}

// Hub is how the hub is reached.
type Hub struct {
	Transport    string `toml:"transport"`     // mqtt (default) or websocket
	Address      string `toml:"address"`       // host:port, where that is not port 8883, or 443, of the hub
	HTTPSAddress string `toml:"https_address"` // host:port of REST, where a device reads its module's key
	CAFile       string `toml:"ca_file"`       // PEM; default: the system's
	Proxy        string `toml:"proxy"`         // http://[user:password@]host:port
}

// Collect are matters of this machine that the twin does not know.
type Collect struct {
	SBoMDirectories []string `toml:"sbom_directories"` // with CycloneDX or SPDX files
	AgentType       string   `toml:"agent_type"`       // Standalone (default) or Edge
	VirtualCards    bool     `toml:"virtual_cards"`    // network cards made by software, as a container's, are told of, too
}

// maxFile bounds files that are read here.
const maxFile = 64 << 10

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// Load reads the file at path. When path is empty it is DefaultFile, and when that is missing the folder of the micro agent.
func Load(path string) (File, error) { return load(path, DefaultFile, MicroAgent) }

func load(path, usual, legacy string) (File, error) {
	given := path != ""
	if !given {
		path = usual
	}
	text, err := readFile(path)
	switch {
	case !given && errors.Is(err, fs.ErrNotExist):
		f, found, err := loadMicroAgent(legacy)
		if err == nil && !found {
			err = fmt.Errorf("there is neither %s nor %s/connection_string.txt; write one, or name a file with --config", usual, legacy)
		}
		return f, err
	case err != nil:
		return File{}, fmt.Errorf("the configuration: %w", err)
	}
	f := File{from: path}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return File{}, locate(path, err)
	}
	f.resolve(filepath.Dir(path))
	return f, f.check()
}

// locate puts the place of a TOML error before it.
func locate(path string, err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var all []error
		for i := range strict.Errors {
			e := &strict.Errors[i]
			row, col := e.Position()
			all = append(all, fmt.Errorf("%s:%d:%d: unknown setting %s", path, row, col, strings.Join(e.Key(), ".")))
		}
		return errors.Join(all...)
	}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, col := e.Position()
		return fmt.Errorf("%s:%d:%d: %w", path, row, col, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// resolve makes paths absolute, and fills defaults in.
func (f *File) resolve(dir string) {
	for _, p := range []*string{&f.Identity.ConnectionStringFile, &f.Identity.CertificateFile, &f.Identity.KeyFile, &f.Provisioning.KeyFile, &f.Provisioning.GroupKeyFile, &f.Hub.CAFile, &f.StateDir} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, d := range []struct {
		p *string
		v string
	}{{&f.StateDir, DefaultState}, {&f.Module, agent.Module}, {&f.LogLevel, "info"}, {&f.Hub.Transport, "mqtt"}, {&f.Collect.AgentType, "Standalone"}} {
		if *d.p == "" {
			*d.p = d.v
		}
	}
}

// check reports all problems at once.
func (f *File) check() error {
	var errs []error
	problem := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(f.from+": "+format, args...))
	}
	one := func(name, value string, of ...string) {
		for _, o := range of {
			if value == o {
				return
			}
		}
		problem("%s: %q is not one of %s", name, value, strings.Join(of, ", "))
	}
	one("module", f.Module, agent.Module, agent.ModuleV1)
	one("log_level", f.LogLevel, "debug", "info", "warn", "error")
	one("hub.transport", f.Hub.Transport, "mqtt", "websocket")
	one("collect.agent_type", f.Collect.AgentType, "Standalone", "Edge")
	if f.MaxQueue != 0 && f.MaxQueue < 1<<19 {
		problem("max_queue_bytes: %d is less than 524288", f.MaxQueue)
	}
	if (f.Identity.CertificateFile == "") != (f.Identity.KeyFile == "") {
		problem("identity: certificate_file and key_file go together")
	}
	p := f.Provisioning
	switch dps := p != (Provisioning{}); {
	case dps && f.Identity.ConnectionStringFile != "":
		problem("identity.connection_string_file and provisioning exclude each other")
	case !dps && f.Identity.ConnectionStringFile == "":
		problem("identity.connection_string_file, or provisioning, says who the agent is; neither is there")
	case dps:
		if p.IDScope == "" || p.RegistrationID == "" {
			problem("provisioning needs id_scope and registration_id")
		}
		given := 0
		for _, s := range []string{p.KeyFile, p.GroupKeyFile, f.Identity.CertificateFile} {
			if s != "" {
				given++
			}
		}
		if given != 1 {
			problem("provisioning needs one of key_file, group_key_file, and identity.certificate_file")
		}
	}
	if _, err := f.proxy(); err != nil {
		problem("hub.proxy: %v", err)
	}
	for name, a := range map[string]string{"hub.address": f.Hub.Address, "hub.https_address": f.Hub.HTTPSAddress, "provisioning.address": p.Address} {
		if _, _, err := net.SplitHostPort(a); a != "" && err != nil {
			problem("%s: %q is not host:port", name, a)
		}
	}
	return errors.Join(errs...)
}

// proxy is nil when there is none. Its errors do not hold the text, which may hold a password.
func (f *File) proxy() (*url.URL, error) {
	if f.Hub.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(f.Hub.Proxy)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return nil, errors.New("it has the form http://[user:password@]host:port")
	}
	return u, nil
}

// loadMicroAgent reads what Microsoft's micro agent is configured with (defender §1.5).
func loadMicroAgent(dir string) (f File, found bool, err error) {
	path := filepath.Join(dir, "connection_string.txt")
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return File{}, false, nil
	}
	if err != nil {
		return File{}, false, fmt.Errorf("the micro agent's configuration: %w", err)
	}
	f = File{from: path, Identity: Identity{ConnectionStringFile: path}}
	if strings.Contains(strings.ToLower(string(text)), "x509=true") {
		f.Identity.CertificateFile, f.Identity.KeyFile = filepath.Join(dir, "certificate_public.pem"), filepath.Join(dir, "certificate_private.pem")
	}
	conf := filepath.Join(dir, "conf.json")
	text, err = readFile(conf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return File{}, false, fmt.Errorf("the micro agent's configuration: %w", err)
	}
	var c struct {
		Proxy     string `json:"IothubModule_ProxyConfig"`
		Transport string `json:"IothubModule_TransportProtocol"`
	}
	if err == nil {
		if err := json.Unmarshal(text, &c); err != nil {
			return File{}, false, fmt.Errorf("%s: %w", conf, err)
		}
	}
	switch c.Transport {
	case "", "AMQP_Protocol", "MQTT_Protocol": // what was AMQP is MQTT here: the hub takes both
	case "MQTT_WebSocket_Protocol", "AMQP_WebSocket_Protocol":
		f.Hub.Transport = "websocket"
	default:
		return File{}, false, fmt.Errorf("%s: unknown IothubModule_TransportProtocol %q", conf, c.Transport)
	}
	if c.Proxy != "" {
		parts := strings.Split(c.Proxy, ",")
		if len(parts) != 2 && len(parts) != 4 {
			return File{}, false, fmt.Errorf("%s: IothubModule_ProxyConfig has the form ip,port[,user,password]", conf)
		}
		u := url.URL{Scheme: "http", Host: net.JoinHostPort(parts[0], parts[1])}
		if len(parts) == 4 {
			u.User = url.UserPassword(parts[2], parts[3])
		}
		f.Hub.Proxy = u.String()
	}
	f.resolve(dir)
	return f, true, f.check()
}
