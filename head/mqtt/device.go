package mqtt

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/bag"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// device is the hub dialect: one connected device or module.
type device struct {
	c       *conn
	id      iot.ID
	session iot.Session
	prefix  string // devices/{d}/messages/events/ or the module's form
	version string // api-version of the user name
	will    *iot.Message
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc

	message iot.Message // reused by the reader for each telemetry packet

	mu      sync.Mutex
	filters []iot.Subscription                // as the device wrote them
	granted [topic.FilterDPSResponse + 1]int8 // QoS by kind; -1 when not subscribed
	calls   map[uint32]call                   // direct methods that wait for their answer, by rid
	rid     uint32                            // of the last call
	mail    map[uint16]string                 // lock tokens of messages not yet acknowledged, by packet id
	pulling bool                              // a look into the queue is under way
	again   bool                              // and another one is due
	answer  answer                            // of a certificate request
}

var errLeft = fault.New(fault.ConnectionClosed, "the device left before it answered")

type call struct {
	reply func(status int, payload []byte, err error)
	until time.Time
}

var _ iot.Link = (*device)(nil)

func (c *conn) acceptDevice(ctx context.Context, hello *wire.Connect, user topic.Username) error {
	d := &device{c: c, id: iot.ID{Device: user.Device, Module: user.Module}, version: user.APIVersion}
	for i := range d.granted {
		d.granted[i] = -1
	}
	c.name = d.id.String()
	if hello.ClientID != d.id.String() {
		return fault.New(fault.Unauthorized, "the client id is not the identity of the user name")
	}
	d.prefix = string(topic.AppendTelemetry(nil, user.Device, user.Module))
	if hello.Will != nil {
		if err := d.keepWill(hello.Will); err != nil {
			return err
		}
	}
	if c.srv.cfg.FaultInjection {
		if err := c.srv.faults.connect(d.id); err != nil {
			return err
		}
	}
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	version, suite := c.nc.TLS()
	opened, err := c.srv.cfg.Core.Connect(ctx, iot.Credentials{
		ID: d.id, Host: user.Host, Token: string(hello.Password), Certificates: c.nc.PeerCertificates(),
		ModelID: user.ModelID, ClientType: user.ClientType, AuthChain: user.AuthChain,
		Remote: c.nc.RemoteAddr().String(), IPFilterRule: c.rule, Protocol: "mqtt", TLSVersion: version, CipherSuite: suite,
	}, iot.Opening{Clean: hello.CleanSession}, d)
	if err != nil {
		d.cancel()
		return err
	}
	d.session = opened.Session
	c.dialect = d
	for _, s := range opened.Subscriptions {
		d.filters = append(d.filters, s)
		if f := topic.ParseFilter(s.Filter); f.Kind != topic.FilterUnknown {
			d.granted[f.Kind] = int8(s.QoS)
		}
	}
	// Nothing may precede the CONNACK, and no command may be lost behind it: it is
	// queued before the hub hears what the device listens to.
	c.write(func(b []byte) []byte { return wire.AppendConnack(b, opened.Present, 0) })
	c.srv.cfg.Metrics.connects.Inc()
	c.srv.log.Debug("device connected", "head", "mqtt", "device", c.name, "remote", c.nc.RemoteAddr().String(), "clean", hello.CleanSession)
	d.listen()
	if d.granted[topic.FilterCredential] >= 0 {
		_ = c.do(d.certificateAnswer) // an error means the connection is over already
	}
	return nil
}

// listen tells the hub what the device subscribed to.
func (d *device) listen() {
	d.mu.Lock()
	var f iot.Feature
	for kind, feature := range map[topic.FilterKind]iot.Feature{
		topic.FilterMethods: iot.Methods, topic.FilterDesired: iot.DesiredUpdates, topic.FilterC2D: iot.CloudToDevice,
	} {
		if d.granted[kind] >= 0 {
			f |= feature
		}
	}
	d.mu.Unlock()
	d.session.Listen(f)
	if f&iot.CloudToDevice != 0 {
		d.MailWaits()
	}
}

// keepWill prepares the will, whose topic must be the device's own telemetry (hub-device §2.7).
func (d *device) keepWill(w *wire.Will) error {
	t, err := topic.ParsePublish(w.Topic)
	if err != nil || t.Kind != topic.Telemetry || t.Device != d.id.Device || t.Module != d.id.Module {
		return fault.New(fault.Unauthorized, "the will's topic is not the device's own telemetry")
	}
	var m iot.Message
	if err := fill(&m, t.Bag); err != nil {
		return fault.Wrap(fault.Unauthorized, err, "the will's properties cannot be read")
	}
	m.Properties = append(m.Properties, bag.Property{Name: "iothub-MessageType", Value: "Will"})
	if w.Retain {
		m.Properties = append(m.Properties, retained)
	}
	m.Body = w.Payload
	d.will = &m
	return nil
}

var (
	retained   = bag.Property{Name: "mqtt-retain", Value: "true"}
	duplicated = bag.Property{Name: "mqtt-dup", Value: "true"}
)

// stamped are names only the hub may set; a device's are dropped (hub-device §3.3).
func stamped(name string) bool {
	switch name {
	case "iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-generation-id",
		"iothub-connection-auth-method", "iothub-enqueuedtime", "iothub-message-source", "dt-dataschema":
		return true
	}
	return false
}

// fill reads a bag into m's system and application properties.
func fill(m *iot.Message, text string) error {
	m.System, m.Properties = m.System[:0], m.Properties[:0]
	if text == "" {
		return nil
	}
	props, err := bag.Parse(text)
	if err != nil {
		return err
	}
	for _, p := range props {
		name, system := topic.SystemName(p.Name)
		switch {
		case stamped(p.Name), system && stamped(name): // $.cdid is a stamp, too
		case system:
			p.Name = name
			m.System = append(m.System, p)
		default:
			m.Properties = append(m.Properties, p)
		}
	}
	return nil
}

// size is what the 256 KB limit counts: body, system values, names and values of the rest (hub-device §7).
func size(m *iot.Message) int {
	n := len(m.Body)
	for i := range m.System {
		n += len(m.System[i].Value)
	}
	for i := range m.Properties {
		n += len(m.Properties[i].Name) + len(m.Properties[i].Value)
	}
	return n
}

func (d *device) publish(p *wire.Publish) error {
	if rest, ok := strings.CutPrefix(string(p.Topic), d.prefix); ok {
		return d.telemetry(p, rest)
	}
	t, err := topic.ParsePublish(string(p.Topic))
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "a publish to an unknown topic")
	}
	if t.Kind == topic.Telemetry {
		if t.Device != d.id.Device || t.Module != d.id.Module {
			return fault.New(fault.Forbidden, "a publish to another device's topic")
		}
		return d.telemetry(p, t.Bag)
	}
	// What follows is answered on its own topic; the PUBACK only says that it arrived.
	if p.QoS > 0 {
		token, err := d.c.owe(p.PacketID, 0)
		if err != nil {
			return err
		}
		d.c.Acked(token, nil)
	}
	body := append([]byte(nil), p.Payload...)
	switch t.Kind {
	case topic.TwinGet:
		return d.c.do(func() { d.twinGet(t.RID) })
	case topic.TwinPatchReported:
		return d.c.do(func() { d.twinPatch(t.RID, body, t.Version) })
	case topic.CredentialRequest:
		return d.c.do(func() { d.certificateRequest(t.RID, body) })
	case topic.MethodResult:
		d.methodResult(t.RID, t.Status, body)
		return nil
	default:
		return fault.New(fault.Invalid, "a publish to a topic this server does not take")
	}
}

func (d *device) telemetry(p *wire.Publish, text string) error {
	m := &d.message
	if err := fill(m, text); err != nil {
		return fault.Wrap(fault.Malformed, err, "the message's properties cannot be read")
	}
	if p.Retain {
		m.Properties = append(m.Properties, retained)
	}
	if p.Dup {
		m.Properties = append(m.Properties, duplicated)
	}
	m.Body = p.Payload
	if d.c.srv.cfg.FaultInjection {
		if asked, err := d.c.srv.faults.telemetry(d, m); asked || err != nil {
			return err
		}
	}
	n := size(m)
	if n > maxPayload {
		return fault.New(fault.TooLarge, "the message has %d bytes, %d are allowed", n, maxPayload)
	}
	id := p.PacketID
	if p.QoS == 0 {
		id = 0
	}
	token, err := d.c.owe(id, n)
	if err != nil {
		return err
	}
	d.session.Telemetry(m, d.c, token)
	d.c.srv.cfg.Metrics.messages.Inc()
	return nil
}

// respond sends on a topic of kind, at the QoS the device asked for, if it subscribed at all.
func (d *device) respond(kind topic.FilterKind, name []byte, body []byte) {
	d.mu.Lock()
	qos := d.granted[kind]
	d.mu.Unlock()
	if qos < 0 {
		return // a response nobody subscribed to is lost (hub-device §2.8)
	}
	p := wire.Publish{QoS: byte(qos), Topic: name, Payload: body}
	if qos > 0 {
		p.PacketID = d.c.ids.next()
	}
	d.c.write(func(b []byte) []byte { return wire.AppendPublish(b, &p) })
}

func (d *device) twinGet(rid string) {
	view, err := d.session.Twin(d.ctx)
	if err != nil {
		d.twinError(rid, err)
		return
	}
	d.respond(topic.FilterTwinResponse, topic.AppendTwinResponse(nil, 200, rid, 0), view)
}

func (d *device) twinPatch(rid string, patch []byte, base int64) {
	version, err := d.session.PatchReported(d.ctx, patch, base)
	if err != nil {
		d.twinError(rid, err)
		return
	}
	d.respond(topic.FilterTwinResponse, topic.AppendTwinResponse(nil, 204, rid, version), nil)
}

func (d *device) twinError(rid string, err error) {
	status, body := twinRefusal(err)
	d.c.srv.log.Info("twin request refused", "device", d.c.name, "status", status, "err", err)
	d.respond(topic.FilterTwinResponse, topic.AppendTwinResponse(nil, status, rid, 0), body)
}

func (d *device) subscribe(id uint16, subs []wire.Subscription) error {
	for _, s := range subs {
		if f := topic.ParseFilter(s.Filter); f.Device != "" && f.Device != "+" && (f.Device != d.id.Device || f.Module != d.id.Module) {
			return fault.New(fault.Forbidden, "a subscription to another device's topics")
		}
	}
	return d.c.do(func() {
		codes := make([]byte, len(subs))
		credential := false
		d.mu.Lock()
		for i, s := range subs {
			codes[i] = min(s.QoS, 1)
			if f := topic.ParseFilter(s.Filter); f.Kind != topic.FilterUnknown {
				d.granted[f.Kind] = int8(codes[i])
				d.remember(s.Filter, codes[i])
				credential = credential || f.Kind == topic.FilterCredential
			} else {
				d.c.srv.log.Debug("unknown subscription granted without effect", "device", d.c.name, "filter", s.Filter)
			}
		}
		filters := append([]iot.Subscription(nil), d.filters...)
		d.mu.Unlock()
		if err := d.session.SaveSubscriptions(d.ctx, filters); err != nil {
			d.c.end(err)
			return
		}
		d.c.write(func(b []byte) []byte { return wire.AppendSuback(b, id, codes) })
		d.listen()
		if credential {
			d.certificateAnswer()
		}
	})
}

// remember keeps a filter for the stored session. Only filters with a meaning come here, and
// there are no more than a dozen spellings of them. d.mu must be held.
func (d *device) remember(filter string, qos byte) {
	for i := range d.filters {
		if d.filters[i].Filter == filter {
			d.filters[i].QoS = qos
			return
		}
	}
	d.filters = append(d.filters, iot.Subscription{Filter: filter, QoS: qos})
}

// forget drops a filter. What it stood for stays subscribed while another spelling of it is left. d.mu must be held.
func (d *device) forget(filter string) {
	kind := topic.ParseFilter(filter).Kind
	if kind == topic.FilterUnknown {
		return
	}
	var left []iot.Subscription
	d.granted[kind] = -1
	for _, s := range d.filters {
		if s.Filter == filter {
			continue
		}
		left = append(left, s)
		if topic.ParseFilter(s.Filter).Kind == kind {
			d.granted[kind] = int8(s.QoS)
		}
	}
	d.filters = left
}

func (d *device) unsubscribe(id uint16, filters []string) error {
	return d.c.do(func() {
		d.mu.Lock()
		for _, f := range filters {
			d.forget(f)
		}
		left := append([]iot.Subscription(nil), d.filters...)
		d.mu.Unlock()
		if err := d.session.SaveSubscriptions(d.ctx, left); err != nil {
			d.c.end(err)
			return
		}
		d.c.write(func(b []byte) []byte { return wire.AppendUnsuback(b, id) })
		d.listen()
	})
}

// Desired implements iot.Link.
func (d *device) Desired(version int64, patch []byte) {
	d.respond(topic.FilterDesired, topic.AppendDesired(nil, version), patch)
}

// maxCalls bounds the methods that wait for one device's answer.
const maxCalls = 1000

// callLife is longer than any response timeout; a call older than it has no caller any more.
const callLife = 6 * time.Minute

// maxRID keeps method request ids at five hexadecimal digits (hub-device §3.8).
const maxRID = 0xfffff

// Method implements iot.Link.
func (d *device) Method(name string, payload []byte, reply func(int, []byte, error)) {
	now := time.Now()
	d.mu.Lock()
	if d.ctx.Err() != nil {
		d.mu.Unlock()
		reply(0, nil, errLeft)
		return
	}
	if d.granted[topic.FilterMethods] < 0 {
		d.mu.Unlock()
		reply(0, nil, fault.New(fault.NotOnline, "the device does not listen for direct methods"))
		return
	}
	if len(d.calls) >= maxCalls {
		for rid, c := range d.calls {
			if now.After(c.until) {
				delete(d.calls, rid)
			}
		}
		if len(d.calls) >= maxCalls {
			d.mu.Unlock()
			reply(0, nil, fault.New(fault.Throttled, "%d methods wait for this device already", maxCalls))
			return
		}
	}
	if d.calls == nil {
		d.calls = make(map[uint32]call)
	}
	for {
		d.rid = d.rid%maxRID + 1
		if _, live := d.calls[d.rid]; !live {
			break
		}
	}
	rid := d.rid
	d.calls[rid] = call{reply, now.Add(callLife)}
	d.mu.Unlock()
	p := wire.Publish{Topic: topic.AppendMethod(nil, name, strconv.FormatUint(uint64(rid), 16)), Payload: payload}
	d.c.write(func(b []byte) []byte { return wire.AppendPublish(b, &p) })
}

func (d *device) methodResult(rid string, status int, body []byte) {
	n, err := strconv.ParseUint(rid, 16, 32)
	if err != nil {
		return // not an id of ours: nobody waits for it
	}
	d.mu.Lock()
	c, ok := d.calls[uint32(n)]
	delete(d.calls, uint32(n))
	d.mu.Unlock()
	if ok {
		c.reply(status, body, nil)
	}
}

// maxMail is how many cloud-to-device messages wait for their PUBACK at once (hub-device §3.5).
const maxMail = 10

// MailWaits implements iot.Link.
func (d *device) MailWaits() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return // the connection is over, and nothing may be started any more
	}
	d.again = true
	if !d.pulling {
		d.pulling = true
		d.c.srv.wg.Go(d.pull)
	}
}

// pull delivers waiting messages until the queue or the window is empty.
func (d *device) pull() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.again && d.ctx.Err() == nil {
		d.again = false
		room := maxMail - len(d.mail)
		if room <= 0 || d.granted[topic.FilterC2D] < 0 {
			continue // a PUBACK, or a SUBSCRIBE, looks again
		}
		d.mu.Unlock()
		mails, err := d.session.Mail(d.ctx, room)
		for i := range mails {
			d.deliver(&mails[i])
		}
		d.mu.Lock()
		switch {
		case err != nil && d.ctx.Err() == nil:
			d.c.srv.log.Error("cloud-to-device messages not read", "device", d.c.name, "err", err)
		case len(mails) == room:
			d.again = true
		}
	}
	d.pulling = false
}

func (d *device) deliver(m *iot.Mail) {
	name := topic.AppendC2D(nil, d.id.Device)
	name = bag.Append(name, mailProperties(m))
	d.mu.Lock()
	qos := d.granted[topic.FilterC2D]
	p := wire.Publish{Topic: name, Payload: m.Body, Dup: m.Delivered && qos > 0}
	if qos > 0 {
		p.QoS, p.PacketID = 1, d.c.ids.next()
		if d.mail == nil {
			d.mail = make(map[uint16]string)
		}
		d.mail[p.PacketID] = m.LockToken
	}
	d.mu.Unlock()
	written := d.c.write(func(b []byte) []byte { return wire.AppendPublish(b, &p) })
	if written && qos <= 0 {
		d.settle(m.LockToken) // QoS 0: completed when written (hub-device §3.5)
	}
}

// mailProperties orders a message's properties as devices need them: system
// properties, then to, then the application's own (hub-device §3.5).
func mailProperties(m *iot.Mail) []bag.Property {
	var ps []bag.Property
	add := func(name, value string) {
		if value != "" { // Java throws on an empty value
			ps = append(ps, bag.Property{Name: name, Value: value})
		}
	}
	add("$.mid", m.MessageID)
	for _, p := range m.System {
		if key, ok := topic.BagKey(p.Name); ok {
			add(key, systemValue(p))
		}
	}
	if !m.Expires.IsZero() {
		add("$.exp", iot.FormatTime(m.Expires))
	}
	if m.Ack != "" && m.Ack != "none" {
		add("iothub-ack", m.Ack)
	}
	add("$.to", "/devices/"+m.To.Device+"/messages/devicebound")
	for _, p := range m.Properties {
		add(p.Name, p.Value)
	}
	return ps
}

// systemValue gives the creation time the one form that .NET reads; it closes the connection
// over any other (hub-device §3.5). A text that is no time is left out.
func systemValue(p bag.Property) string {
	if p.Name != "iothub-creation-time-utc" {
		return p.Value
	}
	at, err := time.Parse(time.RFC3339, p.Value)
	if err != nil {
		return ""
	}
	return iot.FormatTime(at)
}

func (d *device) puback(id uint16) {
	if d.certificatePuback(id) {
		return
	}
	d.mu.Lock()
	token, ok := d.mail[id]
	d.mu.Unlock()
	if !ok {
		return // twin responses at QoS 1, or an unknown id: nothing waits
	}
	// An error means the connection is over, and the message comes again.
	_ = d.c.do(func() {
		d.settle(token)
		d.mu.Lock()
		delete(d.mail, id)
		d.mu.Unlock()
		d.MailWaits()
	})
}

func (d *device) settle(token string) {
	if err := d.session.Settle(d.ctx, token); err != nil && !fault.Is(err, fault.LockLost) {
		d.c.srv.log.Error("cloud-to-device message not completed", "device", d.c.name, "err", err)
	}
}

// Close implements iot.Link.
func (d *device) Close(reason error) { d.c.end(reason) }

// endTimeout bounds what a closing connection writes to the store.
const endTimeout = 10 * time.Second

func (d *device) ended(cause error) {
	if d.will != nil && !isDisconnect(cause) {
		d.session.Telemetry(d.will, willAcker{d}, 0)
	}
	d.mu.Lock()
	d.cancel()
	calls := d.calls
	d.calls = nil
	sent := d.answer
	d.mu.Unlock()
	if sent.timer != nil {
		sent.timer.Stop()
	}
	for _, c := range calls {
		c.reply(0, nil, errLeft)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), endTimeout)
	defer cancel()
	if sent.correlationID != "" && sent.packet == 0 && isDisconnect(cause) {
		if err := d.session.CertificateTaken(ctx, sent.correlationID); err != nil {
			d.c.srv.log.Error("certificate request not ended; its answer comes again", "device", d.c.name, "err", err)
		}
	}
	d.session.End(ctx)
}

// willAcker hears of a will's fate when its device is gone.
type willAcker struct{ d *device }

func (w willAcker) Acked(_ uint64, err error) {
	if err != nil {
		w.d.c.srv.log.Error("will not accepted", "device", w.d.c.name, "err", err)
	}
}
