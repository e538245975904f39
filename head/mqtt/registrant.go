package mqtt

import (
	"context"
	"net/netip"
	"strings"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/fault"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// registrant is the provisioning dialect: a device that asks for its place (dps §4).
type registrant struct {
	c      *conn
	caller *dps.Caller
	qos    int8 // of its one subscription; -1: none
	ctx    context.Context
	cancel context.CancelFunc
}

func (c *conn) acceptRegistrant(ctx context.Context, hello *wire.Connect, user topic.Username) error {
	c.name = user.RegistrationID
	if c.srv.cfg.Provisioner == nil {
		return fault.New(fault.Unauthorized, "this server provisions no devices")
	}
	if !strings.EqualFold(hello.ClientID, user.RegistrationID) {
		return fault.New(fault.Unauthorized, "the client id is not the registration id of the user name")
	}
	if hello.Will != nil {
		return fault.New(fault.Unauthorized, "provisioning takes no wills")
	}
	creds := dps.Credentials{
		IDScope: user.IDScope, RegistrationID: user.RegistrationID,
		Token: string(hello.Password), Certificates: c.nc.PeerCertificates(), NoTPM: true,
	}
	if from, err := netip.ParseAddrPort(c.nc.RemoteAddr().String()); err == nil {
		creds.Address = from.Addr()
	}
	caller, err := c.srv.cfg.Provisioner.Authenticate(ctx, creds)
	if fault.Is(err, fault.Disabled) {
		return fault.Wrap(fault.Unauthorized, err, "the enrollment is disabled") // 3 would make clients try for ever
	}
	if err != nil {
		return err
	}
	r := &registrant{c: c, caller: caller, qos: -1}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.dialect = r
	// Provisioning sessions are never persistent, whatever the client asks (dps §4.1).
	c.write(func(b []byte) []byte { return wire.AppendConnack(b, false, 0) })
	return nil
}

func (r *registrant) publish(p *wire.Publish) error {
	t, err := topic.ParsePublish(string(p.Topic))
	if err != nil || t.Kind != topic.DPSRegister && t.Kind != topic.DPSStatus {
		return fault.New(fault.Forbidden, "a provisioning client may publish to its two topics only")
	}
	// The .NET client wants the PUBACK before the answer (dps §4.2).
	if p.QoS > 0 {
		token, err := r.c.owe(p.PacketID, 0)
		if err != nil {
			return err
		}
		r.c.Acked(token, nil)
	}
	body := append([]byte(nil), p.Payload...)
	return r.c.do(func() {
		var reply dps.Reply
		if t.Kind == topic.DPSRegister {
			reply = r.c.srv.cfg.Provisioner.Register(r.ctx, r.caller, body)
		} else {
			reply = r.c.srv.cfg.Provisioner.Status(r.ctx, r.caller, t.OperationID)
		}
		r.answer(t.RID, reply)
	})
}

func (r *registrant) answer(rid string, reply dps.Reply) {
	if r.qos < 0 {
		return
	}
	p := wire.Publish{QoS: byte(r.qos), Topic: topic.AppendDPSResponse(nil, reply.Status, rid, reply.RetryAfter), Payload: reply.Body}
	if p.QoS > 0 {
		p.PacketID = r.c.ids.next()
	}
	r.c.write(func(b []byte) []byte { return wire.AppendPublish(b, &p) })
}

func (r *registrant) subscribe(id uint16, subs []wire.Subscription) error {
	for _, s := range subs {
		if topic.ParseFilter(s.Filter).Kind != topic.FilterDPSResponse {
			return fault.New(fault.Forbidden, "a provisioning client may subscribe to its answers only")
		}
	}
	return r.c.do(func() {
		codes := make([]byte, len(subs))
		for i, s := range subs {
			codes[i] = min(s.QoS, 1)
			r.qos = int8(codes[i])
		}
		r.c.write(func(b []byte) []byte { return wire.AppendSuback(b, id, codes) })
	})
}

func (r *registrant) unsubscribe(id uint16, _ []string) error {
	return r.c.do(func() {
		r.qos = -1
		r.c.write(func(b []byte) []byte { return wire.AppendUnsuback(b, id) })
	})
}

func (r *registrant) puback(uint16) {}

func (r *registrant) ended(error) { r.cancel() }
