// Package agent is the device's side of the Security Service, for Linux devices and virtual boards: it keeps the device key,
// proves itself (docs/attestation.md), keeps the two certificates of the day fresh, uploads error events and serves the local
// servicing API.
//
//	a, err := agent.Open(agent.Config{Server: "https://sphere.example", Dir: "/var/lib/vauban-agent", Software: measured})
//	go a.Run(ctx)
//	tlsConfig := &tls.Config{GetClientCertificate: a.GetClientCertificate} // for MQTT or provisioning
//
// A folder belongs to one Agent at a time.
package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sphere/deviceid"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/capability"
)

// TPM is a device key in a TPM that also vouches for what runs; package tpmkey has one.
type TPM interface {
	crypto.Signer
	// BootCounter is how often the TPM was started.
	BootCounter() (uint64, error)
	Keys() (attestation.TPMKeys, error)
	EndorsementKey() (*rsa.PublicKey, error)
	Activate(attestation.Credential) ([]byte, error)
	Quote(qualifying []byte) (quote, signature []byte, err error)
}

// Image is one image on the device.
type Image struct {
	attestation.Image
	Name string
	Type int   // sphere §5.3
	Size int64 // bytes
}

// Software is what runs on the device, in the order in which it was measured.
type Software struct {
	OSVersion string
	Images    []Image
}

// ABI are the versions that GET /abi_versions answers.
type ABI struct {
	SecureWorldRuntime int `json:"SecureWorldRuntime"`
	OSRuntime          int `json:"OSRuntime"`
	ApplicationRuntime int `json:"ApplicationRuntime"`
}

// Config of an agent. Server, Dir and Software are required.
type Config struct {
	Server   string // https://host[:port]
	Dir      string // folder of keys, certificates and counters; made with mode 0700
	Software func() (Software, error)

	// TPM holds the device key. Nil: a key in Dir, which proves nothing about the hardware.
	TPM     TPM
	RootCAs *x509.CertPool // that the server's certificate is below; nil: the system's
	// Transport makes connections with a TLS configuration; nil: net/http's.
	Transport func(*tls.Config) http.RoundTripper
	// Signers of capability files that are trusted; none: no file counts.
	Signers []*x509.Certificate
	ABI     ABI
	// Renewed is called when there are new certificates. It must not block. Nil: nobody is told.
	Renewed func()

	MaxRetryAfter time.Duration  // longest wait that a server can ask for; zero: 1 h
	Timeout       time.Duration  // of a request; zero: 30 s
	Random        func() float64 // in [0, 1); nil: math/rand
	Logger        *slog.Logger   // nil: slog.Default()
}

// Agent is a device. It is safe for concurrent use.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	key     crypto.Signer
	public  []byte // SubjectPublicKeyInfo
	id      string
	rawID   [capability.DeviceIDSize]byte
	started time.Time
	// plain asks without a certificate, trusted with the update certificate.
	plain, trusted *http.Client
	client, update atomic.Pointer[tls.Certificate]
	kick           chan struct{}
	claiming       atomic.Int64 // until when somebody who has a claim proof is likely to use it, nanoseconds since 1970

	attesting sync.Mutex // one attestation at a time; taken before mu

	mu     sync.Mutex // guards what follows, and the files of it
	state  state
	offset time.Duration // between this machine's clock and the server's
	synced bool          // the server told its time since Open
	events []attestation.Event
}

// state is what must survive a restart.
type state struct {
	BootCounter   uint64    `json:"bootCounter"`
	BootID        string    `json:"bootId"`
	Sequence      uint64    `json:"sequence"`
	Newest        time.Time `json:"newestServerTime"` // it is this time or later
	Manufacturing string    `json:"manufacturingState"`
	Capability    []byte    `json:"capability,omitempty"` // the file that is installed
}

// Files in the folder.
const (
	keyFile    = "device.key"
	stateFile  = "state.json"
	clientFile = "client.pem" // key and chain
	updateFile = "update.pem"
	eventsFile = "events.json"
)

// Open reads or makes the device in cfg.Dir. It counts a start and contacts nobody.
func Open(cfg Config) (*Agent, error) {
	if cfg.Dir == "" || cfg.Software == nil {
		return nil, errors.New("agent: Server, Dir and Software are required")
	}
	if u, err := url.Parse(cfg.Server); err != nil || u.Scheme != "https" || u.Host == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return nil, fmt.Errorf("agent: the server %q is not like https://host:port", cfg.Server)
	}
	if cfg.MaxRetryAfter == 0 {
		cfg.MaxRetryAfter = time.Hour
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Random == nil {
		cfg.Random = mathrand.Float64
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Transport == nil {
		cfg.Transport = func(c *tls.Config) http.RoundTripper {
			return &http.Transport{TLSClientConfig: c, Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true}
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("agent: create %s: %w", cfg.Dir, err)
	}
	a := &Agent{cfg: cfg, log: cfg.Logger, started: time.Now(), kick: make(chan struct{}, 1)}
	if err := a.openKey(); err != nil {
		return nil, err
	}
	if err := a.openState(); err != nil {
		return nil, err
	}
	a.plain = a.httpClient(nil)
	a.trusted = a.httpClient(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.certificate(&a.update) })
	return a, nil
}

func (a *Agent) httpClient(certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *http.Client {
	return &http.Client{
		Transport: a.cfg.Transport(&tls.Config{
			RootCAs: a.cfg.RootCAs, MinVersion: tls.VersionTLS12, Time: a.Now, GetClientCertificate: certificate,
		}),
		Timeout: a.cfg.Timeout,
		// What is sent is for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (a *Agent) path(name string) string { return filepath.Join(a.cfg.Dir, name) }

// readPrivate reads a file that holds a key, unless others may read it, too.
func readPrivate(path string) ([]byte, error) { return readLimited(path, 64<<10) }

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others than its owner (mode %04o); if they cannot have read it, run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func (a *Agent) openKey() error {
	if a.cfg.TPM != nil {
		a.key = a.cfg.TPM
	} else if err := a.softwareKey(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	public, ok := a.key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return errors.New("agent: the device key is not ECDSA P-256")
	}
	var err error
	if a.public, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return fmt.Errorf("agent: the device key: %w", err)
	}
	if a.id, err = deviceid.Of(public); err != nil {
		return fmt.Errorf("agent: the device key: %w", err)
	}
	_, err = hex.Decode(a.rawID[:], []byte(a.id))
	return err
}

func (a *Agent) softwareKey() error {
	b, err := readPrivate(a.path(keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(a.path(stateFile)); err == nil {
			// A new key is a new device. That must not happen because a file was lost.
			return fmt.Errorf("the key %s is missing but the device's state is there; restore the key, or remove the folder for a new device", a.path(keyFile))
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if b, err = encodeKey(key); err != nil {
			return err
		}
		if err := atomicfile.Write(a.path(keyFile), b, 0o600); err != nil {
			return err
		}
		a.key = key
		return nil
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("%s holds no key", a.path(keyFile))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", a.path(keyFile), err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s cannot sign", a.path(keyFile))
	}
	a.key = signer
	return nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (a *Agent) openState() error {
	b, err := readPrivate(a.path(stateFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.state.Manufacturing = Blank
	case err != nil:
		return fmt.Errorf("agent: %w", err)
	default:
		if err := json.Unmarshal(b, &a.state); err != nil {
			return fmt.Errorf("agent: %s is damaged: %w", a.path(stateFile), err)
		}
	}
	if a.cfg.TPM == nil {
		a.start(a.state.BootCounter + 1)
	} else if err := a.startOfTPM(); err != nil {
		return err
	}
	if err := a.saveState(); err != nil {
		return err
	}
	for file, to := range map[string]*atomic.Pointer[tls.Certificate]{clientFile: &a.client, updateFile: &a.update} {
		c, err := readCertificate(a.path(file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // there will be another
			a.log.Warn("certificate cannot be read", "file", file, "err", err)
		}
		to.Store(c)
	}
	a.loadEvents()
	return nil
}

// start counts a start of the device. mu must be held, except in Open.
func (a *Agent) start(boot uint64) {
	var id [16]byte
	rand.Read(id[:])
	a.state.BootCounter, a.state.BootID, a.state.Sequence = boot, hex.EncodeToString(id[:]), 0
}

// startOfTPM counts the start that the TPM sees, once: the agent may start again within it, and the machine may hibernate under a running agent.
// mu must be held, except in Open.
func (a *Agent) startOfTPM() error {
	boot, err := a.cfg.TPM.BootCounter()
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if boot != a.state.BootCounter || a.state.BootID == "" {
		a.start(boot)
	}
	return nil
}

// saveState writes the state. mu must be held, except in Open.
func (a *Agent) saveState() error {
	b, err := json.Marshal(a.state)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(a.path(stateFile), b, 0o600); err != nil {
		return fmt.Errorf("agent: keep the state: %w", err)
	}
	return nil
}

// ID is the device id: 128 lower-case hex digits.
func (a *Agent) ID() string { return a.id }

// PublicKey is the device key's SubjectPublicKeyInfo in DER.
func (a *Agent) PublicKey() []byte { return append([]byte(nil), a.public...) }

// Now is the time as far as the device knows: its own clock put right by what the server told last, and never earlier than the newest time
// the server ever told. So a clock that was set back, or a dead battery, brings nothing back that expired.
func (a *Agent) Now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nowLocked()
}

func (a *Agent) nowLocked() time.Time {
	now := time.Now().Add(a.offset).UTC()
	if now.Before(a.state.Newest) {
		return a.state.Newest
	}
	return now
}

// ErrNoCertificate says that the device has no certificate that is good now: it never proved itself, or not for too long.
var ErrNoCertificate = errors.New("agent: there is no certificate that is valid now")

func (a *Agent) certificate(from *atomic.Pointer[tls.Certificate]) (*tls.Certificate, error) {
	c := from.Load()
	if c == nil || !a.Now().Before(c.Leaf.NotAfter) {
		return nil, ErrNoCertificate
	}
	return c, nil
}

// GetClientCertificate is for tls.Config: each handshake gets the newest client certificate, which is below the tenant's CA; or ErrNoCertificate.
func (a *Agent) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return a.certificate(&a.client)
}

// Ready reports whether there is a client certificate that is good now.
func (a *Agent) Ready() bool {
	_, err := a.certificate(&a.client)
	return err == nil
}

func readCertificate(path string) (*tls.Certificate, error) {
	b, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	return pair(b, b)
}

// pair puts a chain and its key together, with the leaf parsed.
func pair(chain, key []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &c, nil
}
