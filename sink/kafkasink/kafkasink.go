// Package kafkasink delivers routed messages to a Kafka topic, one record (routing.AppendRecord) each, keyed by device so
// that a device's messages keep their order. A message is safe when all in-sync replicas have it.
package kafkasink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/iot"
)

// Sink produces to one topic. It connects on first use.
type Sink struct {
	brokers []string
	topic   string

	mu sync.Mutex
	c  *kgo.Client
}

var _ routing.Sink = (*Sink)(nil)

var goodTopic = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

// New checks the endpoint's brokers and topic; its error is fault.Invalid.
func New(e routing.Endpoint) (*Sink, error) {
	brokers := strings.Split(e.Brokers, ",")
	for i, b := range brokers {
		brokers[i] = strings.TrimSpace(b)
		if host, port, err := net.SplitHostPort(brokers[i]); err != nil || host == "" || port == "" {
			return nil, fault.New(fault.Invalid, "endpoint %q: brokers must be host:port, separated by commas", e.Name)
		}
	}
	if !goodTopic.MatchString(e.Topic) {
		return nil, fault.New(fault.Invalid, "endpoint %q: topic must have 1 to 249 letters, digits, ., _ and -", e.Name)
	}
	return &Sink{brokers: brokers, topic: e.Topic}, nil
}

// Close ends the connections. The sink may be used again.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// deliveryTimeout bounds one delivery; the runner tries again behind it.
const deliveryTimeout = 30 * time.Second

const dialTimeout = 10 * time.Second

func (s *Sink) client() (*kgo.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		return s.c, nil
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.DefaultProduceTopic(s.topic), kgo.ClientID("vauban"),
		kgo.Dialer(outward.Dialer(dialTimeout).DialContext), // brokers name each other: it looks at those addresses too
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.UnknownTopicRetries(2))
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	s.c = c
	return c, nil
}

// Deliver implements routing.Sink. A message over the topic's limit will never be taken.
func (s *Sink) Deliver(ctx context.Context, ms []*iot.Message) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	records := make([]*kgo.Record, len(ms))
	for i, m := range ms {
		records[i] = &kgo.Record{Key: []byte(m.From.String()), Value: routing.AppendRecord(nil, m), Timestamp: m.Enqueued}
	}
	var refused routing.Refusal
	of := make(map[*kgo.Record]*iot.Message, len(ms))
	for i, r := range records {
		of[r] = ms[i]
	}
	for _, r := range c.ProduceSync(ctx, records...) {
		switch {
		case r.Err == nil:
		case errors.Is(r.Err, kerr.MessageTooLarge), errors.Is(r.Err, kerr.RecordListTooLarge):
			refused.Refuse(of[r.Record], fault.Wrap(fault.Invalid, r.Err, "Kafka takes no message of this size"))
		default:
			return fmt.Errorf("kafka: %w", r.Err)
		}
	}
	return refused.Err()
}
