package agentd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/sas"
)

// tls is what the agent trusts.
func (f *File) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.Hub.CAFile == "" {
		return cfg, nil
	}
	text, err := os.ReadFile(f.Hub.CAFile)
	if err != nil {
		return nil, fmt.Errorf("hub.ca_file: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("hub.ca_file: %s holds no certificate", f.Hub.CAFile)
	}
	return cfg, nil
}

// secretFile reads a key or a connection string.
func secretFile(path string) (string, error) {
	text, err := readFile(path)
	return strings.TrimSpace(string(text)), err
}

// base is how the hub is reached, whoever the agent is.
func (f *File) base() (device.Config, error) {
	cfg := device.Config{
		CertificateFile: f.Identity.CertificateFile, KeyFile: f.Identity.KeyFile, Address: f.Hub.Address, WebSocket: f.Hub.Transport == "websocket",
		ClientType: "vauban-agent",
	}
	var err error
	if cfg.Proxy, err = f.proxy(); err != nil {
		return cfg, err
	}
	cfg.TLS, err = f.tls()
	return cfg, err
}

// identify finds out who the agent is. When that needs the network, because only the device is known, derived is true, and the
// outcome is kept in the state folder, so that the agent starts without a network the next time. fresh asks again all the same.
func (f *File) identify(ctx context.Context, fresh bool) (cfg device.Config, derived bool, err error) {
	if cfg, err = f.base(); err != nil {
		return cfg, false, err
	}
	var text string
	if path := f.Identity.ConnectionStringFile; path != "" {
		if text, err = secretFile(path); err != nil {
			return cfg, false, fmt.Errorf("the connection string: %w", err)
		}
		cs, err := connstr.Parse(text)
		if err != nil {
			return cfg, false, fmt.Errorf("%s: %w", path, err)
		}
		if cs.DeviceID == "" {
			return cfg, false, fmt.Errorf("%s: the connection string is that of a service; the agent needs a module's or a device's", path)
		}
		if cs.ModuleID != "" {
			cfg.ConnectionString = text
			return cfg, false, nil
		}
	}
	keep := filepath.Join(f.StateDir, "identity.json")
	mark := f.mark(text)
	if !fresh {
		if kept := readKept(keep, mark); kept != "" {
			cfg.ConnectionString = kept
			cfg.CertificateFile, cfg.KeyFile = "", ""
			return cfg, true, nil
		}
	}
	if text == "" {
		a, err := f.provision(ctx, cfg)
		if err != nil {
			return cfg, true, err
		}
		text = a.ConnectionString()
	}
	if cfg.ConnectionString, err = f.moduleOf(ctx, text, cfg); err != nil {
		return cfg, true, err
	}
	cfg.CertificateFile, cfg.KeyFile = "", "" // the module has a key of its own
	body, err := json.Marshal(kept{mark, cfg.ConnectionString})
	if err == nil { // of texts, always
		err = os.MkdirAll(f.StateDir, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(keep, body, 0o600)
	}
	if err != nil {
		return cfg, true, fmt.Errorf("the identity cannot be kept: %w", err)
	}
	return cfg, true, nil
}

// kept is an identity that was found out, and from what.
type kept struct {
	Mark             string `json:"from"`
	ConnectionString string `json:"connectionString"`
}

// mark tells configurations apart, without telling them.
func (f *File) mark(connectionString string) string {
	text, err := json.Marshal([]any{connectionString, f.Provisioning, f.Identity, f.Module})
	if err != nil { // of texts
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func readKept(path, mark string) string {
	text, err := readFile(path)
	var k kept
	if err != nil || json.Unmarshal(text, &k) != nil || k.Mark != mark {
		return ""
	}
	return k.ConnectionString
}

func (f *File) provision(ctx context.Context, base device.Config) (device.Assignment, error) {
	p := f.Provisioning
	r := device.Registration{
		Host: p.Endpoint, Address: p.Address, IDScope: p.IDScope, ID: p.RegistrationID, TLS: base.TLS, WebSocket: base.WebSocket, Proxy: base.Proxy,
		CertificateFile: base.CertificateFile, KeyFile: base.KeyFile,
	}
	for _, k := range []struct {
		path string
		into *string
	}{{p.KeyFile, &r.Key}, {p.GroupKeyFile, &r.GroupKey}} {
		if k.path == "" {
			continue
		}
		var err error
		if *k.into, err = secretFile(k.path); err != nil {
			return device.Assignment{}, fmt.Errorf("the provisioning key: %w", err)
		}
	}
	a, err := device.Provision(ctx, r)
	if err != nil {
		err = fmt.Errorf("provisioning of %s: %w", p.RegistrationID, err)
	}
	return a, err
}

const (
	askTime   = 30 * time.Second
	tokenLife = 10 * time.Minute
	maxAnswer = 64 << 10
)

// errNoModule is returned when the device has no module for the agent.
var errNoModule = errors.New("the device has no module for the agent")

// moduleOf reads the agent's own key with that of its device (defender §1.5), or with the device's certificate, and returns the module's
// connection string.
func (f *File) moduleOf(ctx context.Context, deviceString string, base device.Config) (string, error) {
	cs, err := connstr.Parse(deviceString)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	target := "https://" + cs.HostName + "/devices/" + url.PathEscape(cs.DeviceID) + "/modules/" + url.PathEscape(f.Module) + "?api-version=2018-06-30"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	t := &http.Transport{TLSClientConfig: base.TLS.Clone()}
	defer t.CloseIdleConnections()
	if base.Proxy != nil {
		t.Proxy = http.ProxyURL(base.Proxy)
	}
	if f.Hub.HTTPSAddress != "" {
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, f.Hub.HTTPSAddress)
		}
	}
	if cs.X509 {
		pair, err := tls.LoadX509KeyPair(base.CertificateFile, base.KeyFile)
		if err != nil {
			return "", fmt.Errorf("the device's certificate: %w", err)
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	} else {
		key, err := base64.StdEncoding.DecodeString(cs.SharedAccessKey)
		if err != nil || len(key) == 0 {
			return "", errors.New("the device's connection string has neither a base64 SharedAccessKey nor x509=true")
		}
		req.Header.Set("Authorization", sas.Sign(cs.HostName, key, time.Now().Add(tokenLife), ""))
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return "", fmt.Errorf("the module's key cannot be read: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return "", fmt.Errorf("the module's key cannot be read: %w", err)
	}
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return "", fmt.Errorf("%w: %s", errNoModule, agent.Hint(cs.DeviceID, f.Module))
	case http.StatusUnauthorized:
		return "", fmt.Errorf("the hub refuses the credentials of device %s: it does not exist there, or has another key or certificate, or this machine's clock is wrong", cs.DeviceID)
	default:
		return "", fmt.Errorf("the hub answered %s when asked for the module's key", res.Status)
	}
	var doc struct {
		Authentication struct {
			SymmetricKey struct {
				PrimaryKey string `json:"primaryKey"`
			} `json:"symmetricKey"`
		} `json:"authentication"`
	}
	if err := json.Unmarshal(body, &doc); err != nil || doc.Authentication.SymmetricKey.PrimaryKey == "" {
		return "", fmt.Errorf("module %s of %s has no symmetric key; give the agent the module's own connection string", f.Module, cs.DeviceID)
	}
	out := connstr.String{HostName: cs.HostName, DeviceID: cs.DeviceID, ModuleID: f.Module, SharedAccessKey: doc.Authentication.SymmetricKey.PrimaryKey, GatewayHostName: cs.GatewayHostName}
	return out.Reveal(), nil
}
