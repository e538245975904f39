package mqtt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/topic"
)

// renewing is the first api-version that knows certificate requests (hub-device §3.10). Versions are dates, with -preview or without.
const renewing = "2025-08-01"

// errVersion has no kind of its own: what an api-version may do is this head's matter.
var errVersion = fault.New(fault.Invalid, "certificates need api-version %s-preview or a later one in the user name", renewing)

// answer is that of a certificate request which was written last and may not have arrived. device.mu protects it.
type answer struct {
	correlationID string
	packet        uint16      // id; 0 at QoS 0
	timer         *time.Timer // looks for an answer later, or forgets this one
}

// answerRetry is how long after a failure of ours the answer is looked for again.
const answerRetry = 30 * time.Second

// certificateRequest takes a request. It runs on the connection's worker, as all that follows.
func (d *device) certificateRequest(rid string, body []byte) {
	d.mu.Lock()
	subscribed, answered := d.granted[topic.FilterCredential] >= 0, d.answer.correlationID
	d.mu.Unlock()
	if !subscribed {
		// Nothing begins whose beginning nobody would hear of (hub-device §2.8).
		d.c.srv.log.Info("certificate request without a subscription left aside", "device", d.c.name)
		return
	}
	var op iot.CertificateOperation
	err := errVersion
	if d.version >= renewing {
		op, err = d.session.RequestCertificate(d.ctx, rid, body, answered)
	}
	if err != nil {
		status, body := certificateRefusal(err)
		d.c.srv.log.Info("certificate request refused", "device", d.c.name, "status", status, "err", err)
		d.respond(topic.FilterCredential, topic.AppendCredentialResponse(nil, status, rid), body)
		return
	}
	d.respond(topic.FilterCredential, topic.AppendCredentialResponse(nil, 202, rid), marshal(acceptedJSON{op.CorrelationID, nanoTime(op.Expires)}))
	d.certificateAnswer()
}

// certificateAnswer sends the answer that waits for the device, or comes back when there is one.
func (d *device) certificateAnswer() {
	d.mu.Lock()
	subscribed := d.granted[topic.FilterCredential] >= 0
	d.mu.Unlock()
	if !subscribed || d.c.ending() { // a device that takes leave reads no more
		return
	}
	a, wait, ok, err := d.session.CertificateAnswer(d.ctx)
	switch {
	case err != nil && d.ctx.Err() == nil:
		d.c.srv.log.Error("certificate request not carried out; it is tried again", "device", d.c.name, "err", err)
		d.later(answerRetry, d.certificateAnswer)
	case wait > 0:
		d.later(wait, d.certificateAnswer)
	case ok:
		d.answerCertificate(a)
	}
}

// answerCertificate sends an answer, once on this connection. It is forgotten when it has arrived: when its PUBACK comes, and at QoS 0
// when the device takes leave, or was not silent for longer than its keep-alive allows; the next request says so, too.
func (d *device) answerCertificate(a iot.CertificateAnswer) {
	status, body := certificateOutcome(a)
	d.mu.Lock()
	qos := d.granted[topic.FilterCredential]
	if d.answer.correlationID == a.CorrelationID || qos < 0 {
		d.mu.Unlock()
		return
	}
	p := wire.Publish{QoS: byte(qos), Topic: topic.AppendCredentialResponse(nil, status, a.RequestID), Payload: body}
	if qos > 0 {
		p.PacketID = d.c.ids.next()
	}
	d.answer.correlationID, d.answer.packet = a.CorrelationID, p.PacketID
	d.mu.Unlock()
	if written := d.c.write(func(b []byte) []byte { return wire.AppendPublish(b, &p) }); written && qos == 0 {
		d.later(d.c.idle, func() { d.certificateTaken(a.CorrelationID) })
	}
}

// later runs f on the worker after a while, in the place of what should have run later.
func (d *device) later(after time.Duration, f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return // the connection is over, and nothing may be started any more
	}
	if d.answer.timer != nil {
		d.answer.timer.Stop()
	}
	// An error means that the connection is over; the answer waits for the next.
	d.answer.timer = time.AfterFunc(after, func() { _ = d.c.do(f) })
}

// certificateTaken forgets an answer that has arrived.
func (d *device) certificateTaken(correlationID string) {
	if err := d.session.CertificateTaken(d.ctx, correlationID); err != nil {
		if d.ctx.Err() == nil {
			d.c.srv.log.Error("certificate request not ended; its answer comes again", "device", d.c.name, "err", err)
		}
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answer.correlationID == correlationID {
		d.answer.correlationID, d.answer.packet = "", 0
	}
}

// certificatePuback takes the PUBACK of an answer; false when it is none.
func (d *device) certificatePuback(id uint16) bool {
	d.mu.Lock()
	sent := d.answer
	d.mu.Unlock()
	if sent.packet == 0 || sent.packet != id {
		return false
	}
	_ = d.c.do(func() { d.certificateTaken(sent.correlationID) }) // an error means the connection is over, and the answer comes again
	return true
}

type acceptedJSON struct {
	CorrelationID string `json:"correlationId"`
	Expires       string `json:"operationExpires"`
}

type issuedJSON struct {
	CorrelationID string   `json:"correlationId"`
	Certificates  []string `json:"certificates"`
}

// certificateError is the body of a refusal. Its info is null unless an operation is meant.
type certificateError struct {
	ErrorCode    int              `json:"errorCode"`
	Message      string           `json:"message"`
	TrackingID   string           `json:"trackingId"`
	TimestampUTC string           `json:"timestampUtc"`
	RetryAfter   int              `json:"retryAfter,omitempty"` // seconds
	Info         *certificateInfo `json:"info"`
}

type certificateInfo struct {
	RequestID     string `json:"requestId"`
	Expires       string `json:"operationExpires,omitempty"`
	CorrelationID string `json:"correlationId,omitempty"`
	Error         string `json:"credentialError,omitempty"`
	Message       string `json:"credentialMessage,omitempty"`
}

// certificateCode is this head's table from kinds to the status and code of a refused certificate request (hub-device §3.10).
func certificateCode(k fault.Kind) (status, code int) {
	switch k {
	case fault.AlreadyExists:
		return 409, 409004
	case fault.Throttled:
		return 429, 429002
	}
	return twinCode(k)
}

func certificateRefusal(err error) (status int, body []byte) {
	status, code := certificateCode(fault.KindOf(err))
	if errors.Is(err, errVersion) {
		code = 400001 // InvalidProtocolVersion
	}
	e := certificateError{ErrorCode: code, Message: fault.Public(err), TrackingID: nonce.New(), TimestampUTC: nanoTime(time.Now())}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.RetryAfter > 0 {
		e.RetryAfter = int((f.RetryAfter + time.Second - 1) / time.Second)
	}
	if c, ok := errors.AsType[*iot.CertificateConflict](err); ok {
		e.Info = infoOf(c.Operation)
	}
	return status, marshal(e)
}

// Codes of an operation that failed (hub-device §3.10).
const (
	codeOperationFailed = 400037
	credentialRefused   = "400000"
)

func certificateOutcome(a iot.CertificateAnswer) (status int, body []byte) {
	if a.Refusal != "" {
		e := certificateError{
			ErrorCode: codeOperationFailed, Message: "no certificate was issued: " + a.Refusal,
			TrackingID: nonce.New(), TimestampUTC: nanoTime(time.Now()), Info: infoOf(a.CertificateOperation),
		}
		e.Info.Error, e.Info.Message = credentialRefused, a.Refusal
		return 400, marshal(e)
	}
	issued := issuedJSON{CorrelationID: a.CorrelationID}
	for _, der := range a.Certificates {
		issued.Certificates = append(issued.Certificates, base64.StdEncoding.EncodeToString(der))
	}
	return 200, marshal(issued)
}

func infoOf(op iot.CertificateOperation) *certificateInfo {
	i := &certificateInfo{RequestID: op.RequestID, CorrelationID: op.CorrelationID}
	if !op.Expires.IsZero() {
		i.Expires = nanoTime(op.Expires)
	}
	return i
}

// nanoTime writes a time as Azure's services do in JSON: nine digits of the second.
func nanoTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}
