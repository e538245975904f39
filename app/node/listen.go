package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"
)

// listeners are the ports devices and programs use.
type listeners struct{ mqtt, https, amqp net.Listener }

func (l *listeners) close() {
	for _, ln := range []net.Listener{l.mqtt, l.https, l.amqp} {
		if ln != nil {
			ln.Close() // a second close is harmless
		}
	}
}

// fallbackHTTPS is used where 443 may not be bound (design §5).
const fallbackHTTPS = 8443

// listen binds all ports before anything is started, so that a busy one costs nothing.
func listen(cfg *Config) (*listeners, error) {
	if net.ParseIP(cfg.Listen) == nil {
		return nil, fmt.Errorf("--listen %q is not an IP address; use 127.0.0.1 for this machine only, 0.0.0.0 for all networks", cfg.Listen)
	}
	var l listeners
	for _, p := range []struct {
		ln   *net.Listener
		port *int
		flag string
	}{{&l.mqtt, &cfg.MQTTPort, "--mqtt-port"}, {&l.https, &cfg.HTTPSPort, "--https-port"}, {&l.amqp, &cfg.AMQPPort, "--amqp-port"}} {
		var err error
		*p.ln, err = bind(cfg.Listen, *p.port)
		if errors.Is(err, syscall.EACCES) && p.port == &cfg.HTTPSPort && *p.port == 443 {
			cfg.Notice("port 443 may not be bound by this user, using " + strconv.Itoa(fallbackHTTPS) +
				"; Azure's HTTPS clients insist on 443: run as root, or allow it with: sudo setcap cap_net_bind_service=+ep $(command -v vauban)")
			*p.port = fallbackHTTPS
			*p.ln, err = bind(cfg.Listen, *p.port)
		}
		if err != nil {
			l.close()
			return nil, explain(err, cfg.Listen, *p.port, p.flag)
		}
		*p.port = (*p.ln).Addr().(*net.TCPAddr).Port
	}
	return &l, nil
}

func bind(ip string, port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
}

func explain(err error, ip string, port int, flag string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d on %s is in use by another program; stop it or choose another port with %s", port, ip, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d may not be bound by this user; choose one above 1023 with %s, or run as root", port, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine; choose one with --listen", ip)
	default:
		return fmt.Errorf("cannot listen on port %d: %w; choose another one with %s", port, err, flag)
	}
}

// probeTimeout bounds how long the listeners may take to answer.
const probeTimeout = 10 * time.Second

// probe proves that every listener answers a TLS handshake with a certificate our root vouches for.
func probe(ctx context.Context, c Connection, root []byte) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for name, port := range map[string]int{"MQTT": c.Ports.MQTT, "HTTPS": c.Ports.HTTPS, "AMQP": c.Ports.AMQP} {
		d := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: c.Hub.Hostname, MinVersion: tls.VersionTLS12}}
		nc, err := d.DialContext(ctx, "tcp", net.JoinHostPort(c.address, strconv.Itoa(port)))
		if err != nil {
			return fmt.Errorf("the %s listener does not answer: %w", name, context.Cause(ctx))
		}
		nc.Close()
	}
	return nil
}
