package device

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/wire/mqtt"
)

// maxPacket is a message of the largest size with the longest topic.
const maxPacket = 256<<10 + mqtt.MaxString + 16

var (
	errClosed = errors.New("the connection was closed")
	errSilent = errors.New("the hub did not answer in time")
)

// headRoom is what is read ahead for the heads of packets: TLS has a record in memory anyway, and bodies go past it.
const headRoom = 512

// conn is one MQTT connection.
type conn struct {
	nc net.Conn
	br *bufio.Reader

	wmu sync.Mutex // of writes

	mu     sync.Mutex
	nextID uint16
	acks   map[uint16]chan []byte // who waits for a PUBACK or, with its codes, for a SUBACK
	rids   map[string]chan answer // who waits for an answer about the twin
	err    error                  // set before done is closed
	done   chan struct{}

	slots chan struct{} // one for each message under way
}

// answer is the hub's to a request.
type answer struct {
	status     int
	version    int64
	retryAfter int
	body       []byte
}

// connect says CONNECT. It owns nc.
func connect(ctx context.Context, nc net.Conn, c *mqtt.Connect, inFlight int) (*conn, error) {
	k := &conn{
		nc: nc, br: bufio.NewReaderSize(nc, headRoom), acks: make(map[uint16]chan []byte), rids: make(map[string]chan answer),
		done: make(chan struct{}), slots: make(chan struct{}, inFlight),
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := k.handshake(c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			return nil, errSilent
		}
		return nil, err
	}
	return k, nil
}

func (k *conn) handshake(c *mqtt.Connect) error {
	if _, err := k.nc.Write(mqtt.AppendConnect(nil, c)); err != nil {
		return err
	}
	h, body, err := k.packet()
	if err != nil {
		return fmt.Errorf("the hub's answer to CONNECT: %w", err)
	}
	if h.Type != mqtt.CONNACK {
		return fmt.Errorf("the hub answered CONNECT with %v", h.Type)
	}
	_, code, err := mqtt.ParseConnack(body)
	if err != nil {
		return err
	}
	if code != 0 {
		return &RefusedError{code}
	}
	return nil
}

// packet reads one packet.
func (k *conn) packet() (mqtt.Header, []byte, error) {
	var head [5]byte
	for n := 1; ; n++ {
		b, err := k.br.ReadByte()
		if err != nil {
			return mqtt.Header{}, nil, err
		}
		head[n-1] = b
		h, size, err := mqtt.ParseHeader(head[:n], maxPacket)
		if err != nil {
			return h, nil, err
		}
		if size == 0 {
			continue
		}
		body := make([]byte, h.Length)
		_, err = io.ReadFull(k.br, body)
		return h, body, err
	}
}

// read hands publishes to take until the connection ends.
func (k *conn) read(take func(mqtt.Publish)) {
	for {
		h, body, err := k.packet()
		if err != nil {
			k.close(fmt.Errorf("the connection broke: %w", err))
			return
		}
		switch h.Type {
		case mqtt.PUBLISH:
			var p mqtt.Publish
			if p, err = mqtt.ParsePublish(h.Flags, body); err == nil {
				take(p)
			}
		case mqtt.PUBACK:
			var id uint16
			if id, err = mqtt.ParsePacketID(body); err == nil {
				k.acked(id, nil)
			}
		case mqtt.SUBACK:
			var id uint16
			var codes []byte
			if id, codes, err = mqtt.ParseSuback(body); err == nil {
				k.acked(id, codes)
			}
		case mqtt.PINGRESP:
			if err := k.nc.SetReadDeadline(time.Time{}); err != nil {
				k.close(err)
				return
			}
		default:
			err = fmt.Errorf("the hub sent %v", h.Type)
		}
		if err != nil {
			k.close(err)
			return
		}
	}
}

// ping keeps the connection alive, and ends it when the hub does not answer.
func (k *conn) ping(period time.Duration) {
	tick := time.NewTicker(period * 3 / 4)
	defer tick.Stop()
	for {
		select {
		case <-k.done:
			return
		case <-tick.C:
			_ = k.nc.SetReadDeadline(time.Now().Add(answerTime)) // PINGRESP takes it away
			k.write(mqtt.AppendPingreq(nil))
		}
	}
}

func (k *conn) write(b []byte) {
	k.wmu.Lock()
	defer k.wmu.Unlock()
	_ = k.nc.SetWriteDeadline(time.Now().Add(answerTime))
	if _, err := k.nc.Write(b); err != nil {
		k.close(fmt.Errorf("the connection broke: %w", err))
	}
}

// close ends the connection; the first reason counts.
func (k *conn) close(why error) {
	k.mu.Lock()
	first := k.err == nil
	if first {
		k.err = why
		close(k.done)
	}
	k.mu.Unlock()
	if first {
		k.nc.Close()
	}
}

func (k *conn) why() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// expect returns a packet identifier and where its acknowledgement comes to.
func (k *conn) expect() (uint16, chan []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		k.nextID++
		if _, taken := k.acks[k.nextID]; k.nextID != 0 && !taken {
			ch := make(chan []byte, 1)
			k.acks[k.nextID] = ch
			return k.nextID, ch
		}
	}
}

func (k *conn) acked(id uint16, codes []byte) {
	k.mu.Lock()
	ch := k.acks[id]
	delete(k.acks, id)
	k.mu.Unlock()
	if ch != nil {
		ch <- codes
	}
}

func (k *conn) forget(id uint16) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.acks, id)
}

// publish sends at QoS 1 and waits for the acknowledgement.
func (k *conn) publish(ctx context.Context, topic, payload []byte) error {
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-k.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	id, ack := k.expect()
	defer k.forget(id)
	p := mqtt.Publish{QoS: 1, PacketID: id, Topic: topic, Payload: payload}
	k.write(mqtt.AppendPublish(make([]byte, 0, len(topic)+len(payload)+16), &p))
	select {
	case <-ack:
		return nil
	case <-k.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain waits until nothing is under way, but not for long.
func (k *conn) drain() {
	deadline := time.After(5 * time.Second)
	for range cap(k.slots) {
		select {
		case k.slots <- struct{}{}:
		case <-k.done:
			return
		case <-deadline:
			return
		}
	}
}

func (k *conn) subscribe(ctx context.Context, subs []mqtt.Subscription) error {
	id, ack := k.expect()
	defer k.forget(id)
	k.write(mqtt.AppendSubscribe(nil, id, subs))
	select {
	case codes := <-ack:
		for i, c := range codes {
			if c == mqtt.SubackFailure && i < len(subs) {
				return fmt.Errorf("the hub refuses the subscription of %s", subs[i].Filter)
			}
		}
		return nil
	case <-k.done:
		return k.why()
	case <-ctx.Done():
		return errSilent
	}
}

// ask publishes a request and waits for the answer with its id.
func (k *conn) ask(ctx context.Context, rid string, topic, payload []byte) (answer, error) {
	ch := make(chan answer, 1)
	k.mu.Lock()
	k.rids[rid] = ch
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.rids, rid)
		k.mu.Unlock()
	}()
	k.write(mqtt.AppendPublish(nil, &mqtt.Publish{Topic: topic, Payload: payload}))
	select {
	case a := <-ch:
		return a, nil
	case <-k.done:
		return answer{}, errClosed
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

func (k *conn) answered(rid string, a answer) {
	k.mu.Lock()
	ch := k.rids[rid]
	delete(k.rids, rid)
	k.mu.Unlock()
	if ch != nil {
		ch <- a
	}
}
