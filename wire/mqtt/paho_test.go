package mqtt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sample is one random packet in both notations, and a check that our parser finds it again.
type sample struct {
	ours   []byte
	theirs packets.ControlPacket
	check  func(flags byte, body []byte) error
}

// TestPaho compares us with the client library most Go devices use: packets of every type
// are encoded by both to the same bytes, and each side reads them back.
func TestPaho(t *testing.T) {
	t.Parallel()
	for kind, generate := range map[Type]func(*rand.Rand) sample{
		CONNECT: connectSample, CONNACK: connackSample, PUBLISH: publishSample, PUBACK: pubackSample,
		SUBSCRIBE: subscribeSample, SUBACK: subackSample, UNSUBSCRIBE: unsubscribeSample, UNSUBACK: unsubackSample,
		PINGREQ: emptySample(PINGREQ), PINGRESP: emptySample(PINGRESP), DISCONNECT: emptySample(DISCONNECT),
	} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(100) {
				s := generate(rand.New(rand.NewPCG(seed, uint64(kind))))
				if err := s.compare(kind); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

func (s sample) compare(kind Type) error {
	var theirs bytes.Buffer
	if err := s.theirs.Write(&theirs); err != nil {
		return err
	}
	if !bytes.Equal(s.ours, theirs.Bytes()) {
		return fmt.Errorf("we encode %x, paho %x", s.ours, theirs.Bytes())
	}
	read, err := packets.ReadPacket(bytes.NewReader(s.ours))
	if err != nil {
		return fmt.Errorf("paho reads ours: %w", err)
	}
	if diff := cmp.Diff(s.theirs, read, cmpopts.EquateEmpty()); diff != "" {
		return fmt.Errorf("paho reads ours differently:\n%s", diff)
	}
	b := theirs.Bytes()
	h, n, err := ParseHeader(b, MaxLength)
	if err != nil {
		return err
	}
	if h.Type != kind || n+h.Length != len(b) {
		return fmt.Errorf("header %+v of %d bytes for a packet of %d", h, n, len(b))
	}
	return s.check(h.Flags, b[n:])
}

// same explains how what we parsed differs from what was sent.
func same(want, got any, err error) error {
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		return fmt.Errorf("parsed (-want +got):\n%s", diff)
	}
	return nil
}

func connectSample(r *rand.Rand) sample {
	c := Connect{
		Protocol: "MQTT", Level: 4, CleanSession: flip(r), KeepAlive: uint16(r.Uint32()), ClientID: randomText(r, 0),
		HasUsername: flip(r),
	}
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = c.Protocol, c.Level
	p.CleanSession, p.Keepalive, p.ClientIdentifier = c.CleanSession, c.KeepAlive, c.ClientID
	if flip(r) {
		c.Will = &Will{Topic: randomText(r, 1), Payload: randomBytes(r), QoS: byte(r.IntN(3)), Retain: flip(r)}
		p.WillFlag, p.WillQos, p.WillRetain = true, c.Will.QoS, c.Will.Retain
		p.WillTopic, p.WillMessage = c.Will.Topic, c.Will.Payload
	}
	if c.HasUsername {
		c.Username = randomText(r, 0)
		if c.HasPassword = flip(r); c.HasPassword {
			c.Password = randomBytes(r)
		}
	}
	p.UsernameFlag, p.Username = c.HasUsername, c.Username
	p.PasswordFlag, p.Password = c.HasPassword, c.Password
	return sample{AppendConnect(nil, &c), p, func(_ byte, body []byte) error {
		got, err := ParseConnect(body)
		return same(c, got, err)
	}}
}

func connackSample(r *rand.Rand) sample {
	present, code := flip(r), byte(r.IntN(6))
	p := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	p.SessionPresent, p.ReturnCode = present, code
	return sample{AppendConnack(nil, present, code), p, func(_ byte, body []byte) error {
		gotPresent, gotCode, err := ParseConnack(body)
		return same([]any{present, code}, []any{gotPresent, gotCode}, err)
	}}
}

func publishSample(r *rand.Rand) sample {
	m := Publish{Dup: flip(r), QoS: byte(r.IntN(3)), Retain: flip(r), Topic: []byte(randomText(r, 1)), Payload: randomBytes(r)}
	if m.QoS > 0 {
		m.PacketID = randomID(r)
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Dup, p.Qos, p.Retain = m.Dup, m.QoS, m.Retain
	p.TopicName, p.MessageID, p.Payload = string(m.Topic), m.PacketID, m.Payload
	return sample{AppendPublish(nil, &m), p, func(flags byte, body []byte) error {
		got, err := ParsePublish(flags, body)
		return same(m, got, err)
	}}
}

func pubackSample(r *rand.Rand) sample {
	id := randomID(r)
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	return sample{AppendPuback(nil, id), p, func(_ byte, body []byte) error {
		got, err := ParsePacketID(body)
		return same(id, got, err)
	}}
}

func unsubackSample(r *rand.Rand) sample {
	id := randomID(r)
	p := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
	p.MessageID = id
	return sample{AppendUnsuback(nil, id), p, func(_ byte, body []byte) error {
		got, err := ParsePacketID(body)
		return same(id, got, err)
	}}
}

func subscribeSample(r *rand.Rand) sample {
	id := randomID(r)
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID = id
	var subs []Subscription
	for range 1 + r.IntN(5) {
		s := Subscription{Filter: randomText(r, 1) + "/#", QoS: byte(r.IntN(3))}
		subs = append(subs, s)
		p.Topics, p.Qoss = append(p.Topics, s.Filter), append(p.Qoss, s.QoS)
	}
	return sample{AppendSubscribe(nil, id, subs), p, func(_ byte, body []byte) error {
		gotID, got, err := ParseSubscribe(body)
		return same([]any{id, subs}, []any{gotID, got}, err)
	}}
}

func subackSample(r *rand.Rand) sample {
	id := randomID(r)
	var codes []byte
	for range 1 + r.IntN(5) {
		codes = append(codes, []byte{0, 1, 2, SubackFailure}[r.IntN(4)])
	}
	p := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	p.MessageID, p.ReturnCodes = id, codes
	return sample{AppendSuback(nil, id, codes), p, func(_ byte, body []byte) error {
		gotID, got, err := ParseSuback(body)
		return same([]any{id, codes}, []any{gotID, got}, err)
	}}
}

func unsubscribeSample(r *rand.Rand) sample {
	id := randomID(r)
	var filters []string
	for range 1 + r.IntN(5) {
		filters = append(filters, randomText(r, 1))
	}
	p := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	p.MessageID, p.Topics = id, filters
	return sample{AppendUnsubscribe(nil, id, filters), p, func(_ byte, body []byte) error {
		gotID, got, err := ParseUnsubscribe(body)
		return same([]any{id, filters}, []any{gotID, got}, err)
	}}
}

func emptySample(kind Type) func(*rand.Rand) sample {
	encode := map[Type]func([]byte) []byte{PINGREQ: AppendPingreq, PINGRESP: AppendPingresp, DISCONNECT: AppendDisconnect}[kind]
	return func(*rand.Rand) sample {
		return sample{encode(nil), packets.NewControlPacket(byte(kind)), func(_ byte, body []byte) error {
			return same(0, len(body), nil)
		}}
	}
}

func flip(r *rand.Rand) bool { return r.IntN(2) == 1 }

func randomID(r *rand.Rand) uint16 { return uint16(1 + r.IntN(65535)) }

// randomText is a string of any characters a topic name may have; now and then a long one, so that
// lengths of two and three bytes occur.
func randomText(r *rand.Rand, atLeast int) string {
	const letters = "abcXYZ019/$-. _%äß語😀"
	runes := []rune(letters)
	n := atLeast + r.IntN(20)
	if r.IntN(20) == 0 {
		n += r.IntN(8000)
	}
	var b strings.Builder
	for range n {
		b.WriteRune(runes[r.IntN(len(runes))])
	}
	return b.String()
}

func randomBytes(r *rand.Rand) []byte {
	b := make([]byte, r.IntN(200))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
