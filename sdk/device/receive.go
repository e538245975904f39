package device

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/wire/bag"
	"github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// Method is a direct method that a service calls.
type Method struct {
	Name    string
	Payload json.RawMessage // may be empty
}

// What a connection holds that no handler has taken yet.
const (
	maxWaiting = 64 // twin changes, and messages; then the connection ends and all of it is read anew
	maxMethods = 16 // at a time; more are answered with 429
)

// inbox hands what the hub sends to the handlers.
type inbox struct {
	c    *Client
	conn *conn

	events   chan *TwinEvent
	messages chan *mail
	methods  chan struct{}   // one for each that runs
	ctx      context.Context // of methods; set by run before any comes

	once    bool          // of a Session: the whole twin is not the handler's
	started chan struct{} // closed when the whole twin is here
	first   TwinEvent
	ready   chan struct{} // closed when ctx is set
}

type mail struct {
	m  Message
	id uint16
}

func newInbox(c *Client, conn *conn) *inbox {
	in := &inbox{c: c, conn: conn, methods: make(chan struct{}, maxMethods), started: make(chan struct{}), ready: make(chan struct{})}
	if c.cfg.Twin != nil {
		in.events = make(chan *TwinEvent, maxWaiting)
	}
	if c.cfg.Receive != nil {
		in.messages = make(chan *mail, maxWaiting)
	}
	return in
}

func (in *inbox) begin(e TwinEvent) {
	in.first = e
	close(in.started)
}

var errSlow = errors.New("the device takes what it is sent too slowly")

// take is called by the reading goroutine and never waits for a handler: handlers wait for it.
func (in *inbox) take(p mqtt.Publish) {
	r, err := topic.ParseResponse(string(p.Topic))
	if err != nil {
		in.c.log.Debug("a message on an unknown topic", "err", err)
		if p.QoS > 0 {
			in.conn.write(mqtt.AppendPuback(nil, p.PacketID))
		}
		return
	}
	switch r.Kind {
	case topic.ResponseTwin:
		in.conn.answered(r.RID, answer{status: r.Status, version: r.Version, body: p.Payload})
	case topic.ResponseDesired:
		select {
		case in.events <- &TwinEvent{Patch: p.Payload, Version: r.Version}:
		default:
			in.conn.close(errSlow)
		}
	case topic.ResponseMethod:
		<-in.ready
		in.method(r, p.Payload)
	case topic.ResponseC2D:
		m, err := parseMessage(r.Bag, p.Payload)
		if err != nil {
			in.c.log.Warn("a message whose properties cannot be read is left with the hub", "err", err)
			return
		}
		select {
		case in.messages <- &mail{m, p.PacketID}:
		default:
			in.conn.close(errSlow)
		}
		return // acknowledged when it is done with
	}
	if p.QoS > 0 {
		in.conn.write(mqtt.AppendPuback(nil, p.PacketID))
	}
}

// run calls handlers until the connection ends; all of them have returned when it does.
func (in *inbox) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		for range maxMethods { // none runs any longer, and none begins
			in.methods <- struct{}{}
		}
	}()
	in.ctx = ctx
	close(in.ready)
	if in.c.cfg.Receive != nil {
		wg.Go(func() { in.receive(ctx) })
	}
	select {
	case <-in.started:
	case <-in.conn.done:
		return
	case <-ctx.Done():
		return
	}
	if !in.once {
		in.c.cfg.Twin(ctx, in.first)
	}
	version := in.first.Version
	for {
		select {
		case e := <-in.events:
			if e.Version != 0 && e.Version <= version {
				continue // the whole twin has it already
			}
			version = e.Version
			in.c.cfg.Twin(ctx, *e)
		case <-in.conn.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (in *inbox) receive(ctx context.Context) {
	for {
		select {
		case m := <-in.messages:
			if err := in.c.cfg.Receive(ctx, m.m); err != nil {
				in.c.log.Warn("a message was not taken; it stays with the hub", "err", err)
			} else if m.id != 0 {
				in.conn.write(mqtt.AppendPuback(nil, m.id))
			}
		case <-in.conn.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

const tooMany = 429

func (in *inbox) method(r topic.Response, payload []byte) {
	answer := func(status int, body []byte) {
		if len(body) == 0 {
			body = []byte("null")
		}
		in.conn.write(mqtt.AppendPublish(nil, &mqtt.Publish{Topic: topic.AppendMethodResult(nil, status, r.RID), Payload: body}))
	}
	select {
	case in.methods <- struct{}{}:
		go func() { // run waits for it
			defer func() { <-in.methods }()
			answer(in.c.cfg.Method(in.ctx, Method{Name: r.Method, Payload: payload}))
		}()
	default:
		answer(tooMany, nil)
	}
}

func parseMessage(text string, body []byte) (Message, error) {
	props, err := bag.Parse(text)
	if err != nil {
		return Message{}, err
	}
	m := Message{Body: body}
	for _, p := range props {
		switch p.Name {
		case "$.mid":
			m.MessageID = p.Value
		case "$.cid":
			m.CorrelationID = p.Value
		case "$.ct":
			m.ContentType = p.Value
		case "$.ce":
			m.ContentEncoding = p.Value
		case "$.ctime":
			m.Created, _ = time.Parse(time.RFC3339, p.Value) // zero when it cannot be read
		default:
			if len(p.Name) > 2 && p.Name[:2] == "$." {
				continue // of the hub's own
			}
			if m.Properties == nil {
				m.Properties = make(map[string]string)
			}
			m.Properties[p.Name] = p.Value
		}
	}
	return m, nil
}
