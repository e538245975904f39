// Package device is a client for a device, or a module of one, that stays connected to a hub, Vauban's or Azure's, over MQTT
// 3.1.1 with TLS: on port 8883, or inside a WebSocket on port 443 (hub-device §2, §3).
//
//	c, err := device.New(device.Config{ConnectionString: text})
//	go c.Run(ctx) // connects, and again whenever the connection is lost
//	err = c.Send(ctx, device.Message{Body: []byte(`{"temperature":21}`), ContentType: "application/json"})
//
// What is sent is sent at QoS 1 and returns when the hub has it on its disk. A message that was under way when a connection broke is
// sent again on the next one, so the hub may see it twice. A Client is safe for concurrent use.
//
// [Client.Connect] makes one connection that is not made anew, for devices that have a plan of their own for coming back.
// [Provision] finds a device's hub through a provisioning service.
package device

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/wire/connstr"
	"github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Config of a client. It is not modified after use. Handlers are called from goroutines of Run.
type Config struct {
	// ConnectionString is HostName=...;DeviceId=...[;ModuleId=...];SharedAccessKey=..., or with x509=true in the place of the key.
	// GatewayHostName is where to connect to, when it is given. Required.
	ConnectionString string
	// CertificateFile and KeyFile are PEM files, read anew for each connection. Required with x509=true.
	CertificateFile, KeyFile string
	// TLS holds the trusted roots; nil uses the system's.
	TLS *tls.Config
	// Address overrides where to connect to (host:port); empty: port 8883, or 443 for a WebSocket, of the host name.
	Address string
	// WebSocket is for networks that let nothing but port 443 out.
	WebSocket bool
	// Proxy is an HTTP proxy that is asked to CONNECT; nil: none.
	Proxy *url.URL
	// Dial makes the TCP connection, to the hub or the proxy; nil: the machine's own network. Virtual boards have
	// a network of their own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	ClientType string        // what the device says it is; empty: vauban-device
	ModelID    string        // its Plug and Play model; may be empty
	KeepAlive  time.Duration // default 4 minutes, at most 19; the hub notices a lost device at one and a half times that
	TokenLife  time.Duration // of a token; default an hour. The connection is made anew before it ends.
	InFlight   int           // messages that may wait for their acknowledgement; default 16
	MinBackoff time.Duration // before the second attempt to connect, default a second; the wait doubles with each failure
	MaxBackoff time.Duration // default 2 minutes

	// Twin, when set, hears the whole twin after each connection, and then each change of its desired part. Calls come one at a time.
	Twin func(context.Context, TwinEvent)
	// Method, when set, answers direct methods, at most 16 at a time.
	Method func(context.Context, Method) (status int, payload []byte)
	// Receive, when set, takes cloud-to-device messages, one at a time. One for which it returns an error is kept by the hub and
	// comes again with a later connection. Modules have none.
	Receive func(context.Context, Message) error
	// State, when set, hears of each connection (nil) and of each one that was lost or could not be made (why).
	State  func(error)
	Logger *slog.Logger // nil: slog.Default
}

const (
	maxKeepAlive = 19 * time.Minute // the hub waits 29 at most (hub-device §2.5)
	maxInFlight  = 4096
	answerTime   = 30 * time.Second // for a dial, a CONNACK, a SUBACK
	apiVersion   = "2021-04-12"
)

// RefusedError says that the hub did not take the connection: code 5 for credentials it does not accept, 3 when the device is
// disabled or the hub busy (hub-device §2.3).
type RefusedError struct{ Code byte }

func (e *RefusedError) Error() string {
	switch e.Code {
	case 3:
		return "the hub does not take the connection now: the device may be disabled, or the hub busy"
	case 4, 5:
		return "the hub refuses the credentials: the identity does not exist there, or has another key or certificate, or this machine's clock is wrong"
	}
	return fmt.Sprintf("the hub refuses the connection with code %d", e.Code)
}

var (
	// ErrTooLarge is returned for a message over 256 KiB.
	ErrTooLarge = errors.New("device: message over 256 KiB")
	// ErrStopped is returned once Run is over.
	ErrStopped = errors.New("device: the client is stopped")
)

// Client keeps a device connected. Make it with New.
type Client struct {
	cfg Config
	id  connstr.String
	key secret.Secret
	log *slog.Logger

	mu      sync.Mutex
	conn    *conn         // nil: not connected
	changed chan struct{} // closed when conn changes
	last    error         // why there is no connection
}

// New returns a client. It does not connect before Run.
func New(cfg Config) (*Client, error) {
	cs, err := connstr.Parse(cfg.ConnectionString)
	if err != nil {
		return nil, err
	}
	if cs.DeviceID == "" {
		return nil, errors.New("the connection string names no DeviceId: it is that of a service, not of a device")
	}
	c := &Client{id: cs, changed: make(chan struct{}), last: errors.New("not connected yet")}
	switch {
	case cs.X509:
		if cfg.CertificateFile == "" && (cfg.TLS == nil || cfg.TLS.GetClientCertificate == nil && len(cfg.TLS.Certificates) == 0) {
			return nil, errors.New("the connection string says x509=true, but no certificate is given")
		}
	default:
		key, err := base64.StdEncoding.DecodeString(cs.SharedAccessKey)
		if err != nil || len(key) == 0 {
			return nil, errors.New("the connection string has neither a base64 SharedAccessKey nor x509=true")
		}
		c.key = secret.New(key)
	}
	if cfg.KeepAlive < 0 || cfg.KeepAlive > maxKeepAlive || cfg.InFlight < 0 || cfg.InFlight > maxInFlight || cfg.TokenLife < 0 {
		return nil, fmt.Errorf("keep-alive is 0 to %v, messages in flight 0 to %d, and a token's life is not negative", maxKeepAlive, maxInFlight)
	}
	for _, d := range []struct {
		p *time.Duration
		v time.Duration
	}{{&cfg.KeepAlive, 4 * time.Minute}, {&cfg.TokenLife, time.Hour}, {&cfg.MinBackoff, time.Second}, {&cfg.MaxBackoff, 2 * time.Minute}} {
		if *d.p == 0 {
			*d.p = d.v
		}
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 16
	}
	if cfg.ClientType == "" {
		cfg.ClientType = "vauban-device"
	}
	if c.log = cfg.Logger; c.log == nil {
		c.log = slog.Default()
	}
	c.cfg = cfg
	return c, nil
}

// ID returns the hub's host name and the identity; module is empty for a device.
func (c *Client) ID() (hub, device, module string) {
	return c.id.HostName, c.id.DeviceID, c.id.ModuleID
}

// Run keeps the device connected until ctx ends; then it waits a moment for messages under way, and nothing it started is left. It is
// called once.
func (c *Client) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		start := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil || err == nil { // over, or a new token is due
			failures = 0
			continue
		}
		if time.Since(start) > c.cfg.MaxBackoff {
			failures = 0
		}
		wait := backoff(c.cfg.MinBackoff, c.cfg.MaxBackoff, failures)
		failures++
		c.log.Info("not connected", "err", err, "again_in", wait.Round(time.Millisecond))
		c.set(nil, err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	c.set(nil, nil)
	c.mu.Lock()
	c.last = ErrStopped
	c.mu.Unlock()
	return nil
}

// backoff is the wait after a number of failures: half of it is chance, so that devices that lost a hub together come back apart.
func backoff(least, most time.Duration, failures int) time.Duration {
	d := most
	if failures < 30 {
		d = min(most, least<<failures)
	}
	return d/2 + rand.N(d/2+1)
}

// set makes conn the one that is used.
func (c *Client) set(conn *conn, why error) {
	c.mu.Lock()
	was := c.conn
	c.conn, c.last = conn, why
	if was != conn {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.mu.Unlock()
	if c.cfg.State != nil && (conn != nil || why != nil) {
		c.cfg.State(why)
	}
}

// connection waits until there is one.
func (c *Client) connection(ctx context.Context) (*conn, error) {
	for {
		c.mu.Lock()
		conn, changed, last := c.conn, c.changed, c.last
		c.mu.Unlock()
		switch {
		case conn != nil:
			return conn, nil
		case errors.Is(last, ErrStopped):
			return nil, last
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.mu.Lock()
			last = c.last
			c.mu.Unlock()
			if last == nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%w; the last attempt to connect: %w", ctx.Err(), last)
		}
	}
}

// host is the machine that is connected to, as its certificate should name it.
func (c *Client) host() string {
	if c.id.GatewayHostName != "" {
		return c.id.GatewayHostName
	}
	return c.id.HostName
}

// open makes a connection, and says how long its token is good for; 0: for ever.
func (c *Client) open(ctx context.Context) (*conn, time.Duration, error) {
	d := dialer{TLS: c.cfg.TLS, Host: c.host(), Address: c.cfg.Address, WebSocket: c.cfg.WebSocket, Proxy: c.cfg.Proxy, Dial: c.cfg.Dial, Certificate: c.cfg.CertificateFile, Key: c.cfg.KeyFile}
	nc, err := d.dial(ctx)
	if err != nil {
		return nil, 0, err
	}
	user := topic.Username{Host: c.id.HostName, Device: c.id.DeviceID, Module: c.id.ModuleID, APIVersion: apiVersion, ClientType: c.cfg.ClientType, ModelID: c.cfg.ModelID}
	packet := mqtt.Connect{CleanSession: true, KeepAlive: uint16(c.cfg.KeepAlive / time.Second), ClientID: c.id.DeviceID, Username: user.String(), HasUsername: true}
	resource := c.id.HostName + "/devices/" + c.id.DeviceID
	if c.id.ModuleID != "" {
		packet.ClientID += "/" + c.id.ModuleID
		resource += "/modules/" + c.id.ModuleID
	}
	renew := time.Duration(0)
	if !c.id.X509 {
		life := c.cfg.TokenLife
		packet.Password, packet.HasPassword = []byte(sas.Sign(resource, c.key.Reveal(), time.Now().Add(life), "")), true
		renew = life*3/4 + rand.N(life/10+1) // 75 to 85 % of it, as the SDKs do (hub-device §6.3)
	}
	conn, err := connect(ctx, nc, &packet, c.cfg.InFlight)
	return conn, renew, err
}

func (c *Client) session(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, life, err := c.open(dialing)
	if err != nil {
		return err
	}
	renew := make(<-chan time.Time)
	if life != 0 {
		renew = time.After(life)
	}
	in := newInbox(c, conn)
	ctx, stop := context.WithCancel(ctx) // of handlers
	var wg sync.WaitGroup
	defer func() {
		conn.close(errClosed)
		stop()
		wg.Wait()
	}()
	wg.Go(func() { conn.read(in.take) })
	wg.Go(func() { conn.ping(c.cfg.KeepAlive) })
	wg.Go(func() { in.run(ctx) })
	if err := c.subscribe(dialing, conn); err != nil {
		return err
	}
	c.set(conn, nil)
	c.log.Info("connected", "hub", c.id.HostName, "device", c.id.DeviceID, "module", c.id.ModuleID)
	if c.cfg.Twin != nil {
		in.whole(ctx)
	}
	select {
	case <-conn.done:
		c.set(nil, nil)
		return conn.why()
	case <-renew:
		err = nil
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.set(nil, nil) // who sends now waits for the next connection
	conn.drain()
	conn.write(mqtt.AppendDisconnect(nil))
	return err
}

func (c *Client) subscribe(ctx context.Context, conn *conn) error {
	subs := []mqtt.Subscription{{Filter: "$iothub/twin/res/#"}}
	if c.cfg.Twin != nil {
		subs = append(subs, mqtt.Subscription{Filter: "$iothub/twin/PATCH/properties/desired/#"})
	}
	if c.cfg.Method != nil {
		subs = append(subs, mqtt.Subscription{Filter: "$iothub/methods/POST/#"})
	}
	if c.cfg.Receive != nil && c.id.ModuleID == "" {
		subs = append(subs, mqtt.Subscription{Filter: "devices/" + c.id.DeviceID + "/messages/devicebound/#", QoS: 1})
	}
	return conn.subscribe(ctx, subs)
}

// hostPort is where a dialer connects to.
func hostPort(host, address string, websocket bool) string {
	switch {
	case address != "":
		return address
	case websocket:
		return net.JoinHostPort(host, "443")
	}
	return net.JoinHostPort(host, "8883")
}
