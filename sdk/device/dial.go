package device

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"
)

// dialer opens the stream that MQTT runs in.
type dialer struct {
	TLS              *tls.Config
	Host             string // whom the certificate must name
	Address          string // host:port; empty: of Host
	WebSocket        bool
	Proxy            *url.URL
	Dial             func(ctx context.Context, network, address string) (net.Conn, error) // nil: the machine's
	Certificate, Key string                                                               // files
}

func (d *dialer) config() (*tls.Config, error) {
	cfg := &tls.Config{}
	if d.TLS != nil {
		cfg = d.TLS.Clone()
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS12)
	if cfg.ServerName == "" {
		cfg.ServerName = d.Host
	}
	if d.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(d.Certificate, d.Key)
		if err != nil {
			return nil, fmt.Errorf("the device's certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	cfg, err := d.config()
	if err != nil {
		return nil, err
	}
	address := hostPort(d.Host, d.Address, d.WebSocket)
	if d.WebSocket {
		return d.dialWebSocket(ctx, cfg, address)
	}
	raw, err := d.tcp(ctx, address)
	if err != nil {
		return nil, err
	}
	nc := tls.Client(raw, cfg)
	if err := nc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return nc, nil
}

// webSocketPath is where hubs and provisioning services take MQTT (hub-device §1.2).
const webSocketPath = "/$iothub/websocket"

func (d *dialer) dialWebSocket(ctx context.Context, cfg *tls.Config, address string) (net.Conn, error) {
	cfg.NextProtos = []string{"http/1.1"}
	t := &http.Transport{TLSClientConfig: cfg, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.tcp(ctx, address) }}
	ws, _, err := websocket.Dial(ctx, "wss://"+d.Host+webSocketPath, &websocket.DialOptions{HTTPClient: &http.Client{Transport: t}, Subprotocols: []string{"mqtt"}}) //nolint:bodyclose // Dial says: never to be closed by its caller
	if err != nil {
		t.CloseIdleConnections()
		return nil, fmt.Errorf("WebSocket to %s: %w", address, err)
	}
	ws.SetReadLimit(maxPacket)
	return websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
}

func (d *dialer) tcp(ctx context.Context, address string) (net.Conn, error) {
	dial := d.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if d.Proxy == nil {
		nc, err := dial(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be reached: %w", address, err)
		}
		return nc, nil
	}
	port := d.Proxy.Port()
	if port == "" {
		port = "80"
	}
	proxy := net.JoinHostPort(d.Proxy.Hostname(), port)
	nc, err := dial(ctx, "tcp", proxy)
	if err != nil {
		return nil, fmt.Errorf("the proxy %s cannot be reached: %w", proxy, err)
	}
	if err := tunnel(ctx, nc, address, d.Proxy.User); err != nil {
		nc.Close()
		return nil, fmt.Errorf("the proxy %s: %w", proxy, err)
	}
	return nc, nil
}

// tunnel asks a proxy for a connection to address (RFC 9110 §9.3.6).
func tunnel(ctx context.Context, nc net.Conn, address string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(nc); err != nil {
		return err
	}
	// The other side says nothing before TLS begins, so nothing of it is lost in the reader.
	br := bufio.NewReader(nc)
	res, err := http.ReadResponse(br, req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", res.Status)
	}
	if br.Buffered() > 0 {
		return errors.New("it sent bytes of its own into the tunnel")
	}
	return nil
}
