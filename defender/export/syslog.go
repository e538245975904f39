package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/wire/syslog"
)

// syslogTimeout is how long a server may take for a connection's messages.
const syslogTimeout = 30 * time.Second

// syslogServer sends messages of RFC 5424 over TLS (RFC 5425), TCP or UDP.
//
// Syslog has no acknowledgements. A connection therefore carries some items and is ended; once the server, which reads up to the end, ended it as
// well, it has them. A server that was killed before it read them resets the connection, and they are sent again. Over UDP
// nobody knows.
type syslogServer struct {
	cfg  *Config
	host string // of the hub
	tls  *tls.Config
}

func newSyslog(c *Config, host string) (*syslogServer, error) {
	s := &syslogServer{cfg: c, host: host}
	if c.Transport != TLS {
		return s, nil
	}
	s.tls = trust(c.CA)
	s.tls.ServerName = c.ServerName
	if s.tls.ServerName == "" {
		s.tls.ServerName, _, _ = net.SplitHostPort(c.Address)
	}
	if c.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
		if err != nil {
			return nil, fmt.Errorf("export %s: its certificate: %w", c.Name, err)
		}
		s.tls.Certificates = []tls.Certificate{pair}
	}
	return s, nil
}

func (s *syslogServer) close() {}

var syslogSeverities = map[alert.Severity]syslog.Severity{
	alert.High: syslog.Critical, alert.Medium: syslog.Warning, alert.Low: syslog.Notice, alert.Informational: syslog.Informational,
}

func (s *syslogServer) message(it *item) []byte {
	severity, ok := syslogSeverities[it.severity]
	if !ok {
		severity = syslog.Notice
	}
	return syslog.Append(nil, &syslog.Message{
		Facility: syslog.Security, Severity: severity, Time: it.at, Host: s.host, App: "vauban", ID: it.id, Text: string(it.text),
	})
}

func (s *syslogServer) send(ctx context.Context, items []item) (err error) {
	if len(items) == 0 {
		return nil
	}
	network := "tcp"
	if s.cfg.Transport == UDP {
		network = "udp"
	}
	conn, err := outward.Dialer(dialTimeout).DialContext(ctx, network, s.cfg.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(syslogTimeout)); err != nil {
		return err
	}
	if network == "udp" {
		for i := range items {
			if _, err := conn.Write(s.message(&items[i])); err != nil {
				return err
			}
		}
		return nil
	}
	var frames []byte
	for i := range items {
		frames = syslog.AppendFrame(frames, s.message(&items[i]))
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a connection to %s is a %T", s.cfg.Address, conn)
	}
	if s.tls == nil {
		if _, err := tcp.Write(frames); err != nil {
			return err
		}
		return s.ended(tcp, tcp)
	}
	over := tls.Client(conn, s.tls)
	if err := over.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := over.Write(frames); err != nil {
		return err
	}
	if err := over.CloseWrite(); err != nil {
		return err
	}
	return s.ended(over, tcp)
}

// ended ends our side of a connection and waits until the server ended its own.
func (s *syslogServer) ended(r io.Reader, tcp *net.TCPConn) error {
	if err := tcp.CloseWrite(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // servers say nothing
	if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
		return fmt.Errorf("the server did not end the connection within %v, so nobody knows whether it has the messages", syslogTimeout)
	}
	if err != nil {
		return fmt.Errorf("the server did not take the messages to the end: %w", err)
	}
	return nil
}
