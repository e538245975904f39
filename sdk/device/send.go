package device

import (
	"context"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Message goes to the hub, or comes from it.
type Message struct {
	Body       []byte
	Properties map[string]string // application properties

	MessageID       string
	CorrelationID   string
	ContentType     string
	ContentEncoding string
	// InterfaceID marks messages that something of the hub's own reads, such as [SecurityInterface].
	InterfaceID string
	Output      string    // of a module: the route's name for it
	Created     time.Time // by the device's clock; zero: not said
}

// SecurityInterface is the InterfaceID of security messages (defender §1.1).
const SecurityInterface = "urn:azureiot:Security:SecurityAgent:1"

// maxMessage is the longest message with its properties (hub-device §7).
const maxMessage = 256 << 10

// size is the message as the hub counts it.
func (m *Message) size() int {
	n := len(m.Body) + len(m.MessageID) + len(m.CorrelationID) + len(m.ContentType) + len(m.ContentEncoding) + len(m.InterfaceID) + len(m.Output)
	for k, v := range m.Properties {
		n += len(k) + len(v)
	}
	return n
}

// createdLayout is RFC 3339 with milliseconds, as SDKs write it.
const createdLayout = "2006-01-02T15:04:05.000Z"

func (m *Message) bag() []byte {
	var ps []bag.Property
	for k, v := range m.Properties {
		ps = append(ps, bag.Property{Name: k, Value: v})
	}
	created := ""
	if !m.Created.IsZero() {
		created = m.Created.UTC().Format(createdLayout)
	}
	for _, p := range []bag.Property{
		{Name: "$.mid", Value: m.MessageID}, {Name: "$.cid", Value: m.CorrelationID}, {Name: "$.ct", Value: m.ContentType},
		{Name: "$.ce", Value: m.ContentEncoding}, {Name: "$.ifid", Value: m.InterfaceID}, {Name: "$.on", Value: m.Output}, {Name: "$.ctime", Value: created},
	} {
		if p.Value != "" {
			ps = append(ps, p)
		}
	}
	return bag.Append(nil, ps)
}

// Send sends a message and returns when the hub has it: it waits for a connection, and for the next one when the connection breaks, until
// ctx ends. ErrTooLarge, ErrStopped and the context's error are all there is.
func (c *Client) Send(ctx context.Context, m Message) error {
	to, err := c.telemetry(&m)
	if err != nil {
		return err
	}
	for {
		conn, err := c.connection(ctx)
		if err != nil {
			return err
		}
		if err = conn.publish(ctx, to, m.Body); !errors.Is(err, errClosed) {
			return err
		}
		if err := c.leave(ctx, conn); err != nil {
			return err
		}
	}
}

// telemetry is the topic of a message.
func (c *Client) telemetry(m *Message) ([]byte, error) {
	if m.size() > maxMessage {
		return nil, ErrTooLarge
	}
	return append(topic.AppendTelemetry(nil, c.id.DeviceID, c.id.ModuleID), m.bag()...), nil
}

// leave waits until a connection that ended is no longer the client's.
func (c *Client) leave(ctx context.Context, conn *conn) error {
	for {
		c.mu.Lock()
		now, changed := c.conn, c.changed
		c.mu.Unlock()
		if now != conn {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
