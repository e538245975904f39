// Package natsink delivers routed messages to a subject of a NATS JetStream stream, one record
// (routing.AppendRecord) each. The subject must belong to a stream: its acknowledgement is what makes a message safe.
package natsink

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/iot"
)

// Sink publishes to one subject. It connects on first use and again when it must.
type Sink struct {
	url, subject string

	mu sync.Mutex
	nc *nats.Conn
	js jetstream.JetStream
}

var _ routing.Sink = (*Sink)(nil)

// New checks the endpoint's address and subject; its error is fault.Invalid.
func New(e routing.Endpoint) (*Sink, error) {
	if !strings.HasPrefix(e.URL, "nats://") && !strings.HasPrefix(e.URL, "tls://") {
		return nil, fault.New(fault.Invalid, "endpoint %q: url must be nats://host:4222 or tls://host:4222", e.Name)
	}
	if e.Subject == "" || strings.ContainsAny(e.Subject, " \t\r\n*>") {
		return nil, fault.New(fault.Invalid, "endpoint %q: subject must be one subject, without wildcards", e.Name)
	}
	return &Sink{url: e.URL, subject: e.Subject}, nil
}

// Close ends the connection. The sink may be used again.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nc != nil {
		s.nc.Close()
		s.nc, s.js = nil, nil
	}
}

const (
	ackTimeout  = 20 * time.Second
	dialTimeout = 5 * time.Second
)

func (s *Sink) stream() (jetstream.JetStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nc != nil && !s.nc.IsClosed() {
		return s.js, nil
	}
	nc, err := nats.Connect(s.url, nats.Name("vauban route"), nats.Timeout(dialTimeout), nats.SetCustomDialer(outward.Dialer(dialTimeout)), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.nc, s.js = nc, js
	return js, nil
}

// Deliver implements routing.Sink. The id header lets the stream drop what is sent twice.
func (s *Sink) Deliver(ctx context.Context, ms []*iot.Message) error {
	js, err := s.stream()
	if err != nil {
		return err
	}
	var acks []jetstream.PubAckFuture
	for _, m := range ms {
		msg := nats.NewMsg(s.subject)
		msg.Data = routing.AppendRecord(nil, m)
		ack, err := js.PublishMsgAsync(msg, jetstream.WithMsgID(fmt.Sprintf("vauban-%d", m.Sequence)))
		if err != nil {
			return fmt.Errorf("publish to NATS: %w", err)
		}
		acks = append(acks, ack)
	}
	timer := time.NewTimer(ackTimeout)
	defer timer.Stop()
	for _, a := range acks {
		select {
		case <-a.Ok():
		case err := <-a.Err():
			return fmt.Errorf("NATS did not keep a message: %w; is the subject %s part of a stream?", err, s.subject)
		case <-timer.C:
			return fmt.Errorf("NATS did not acknowledge within %v; is the subject %s part of a stream?", ackTimeout, s.subject)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
