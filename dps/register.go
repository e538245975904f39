package dps

import (
	"bytes"
	"container/list"
	"context"
	"encoding/base64"
	"encoding/json"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// The statuses of a registration and what an assignment did (dps §3, §7.2).
const (
	assigning = "assigning"
	assigned  = "assigned"
	failed    = "failed"

	initialAssignment  = "initialAssignment"
	deviceDataMigrated = "deviceDataMigrated"
	deviceDataReset    = "deviceDataReset"
	reprovisioned      = "reprovisionedToInitialAssignment"
)

// MaxBody is the size at which a device's request is refused (dps §11).
const MaxBody = 96 << 10

const (
	// pollAfter is how many seconds a device waits before it asks for its assignment, which is
	// ready by then: Node and NetX Duo wait this long, IoT Edge always five.
	pollAfter = 1
	// assignTimeout bounds one assignment; clients give up after 30 s (dps §3).
	assignTimeout = 20 * time.Second
	// callerFresh is how old an authentication may be when a device registers. A session may
	// be older than a change of its enrollment, and is then judged anew.
	callerFresh = 2 * time.Second
)

// Register assigns the device to the hub and answers 202 with the operation to ask for,
// as clients demand even though the assignment has ended by then (dps §3). When it could not
// be tried the answer is an error, and the client registers again.
func (s *Service) Register(ctx context.Context, c *Caller, body []byte) Reply {
	if err := CheckBody(c.RegistrationID(), body); err != nil {
		return ErrorReply(err)
	}
	now := s.now()
	if age := now.Sub(c.at); age > callerFresh || age < 0 {
		fresh, err := s.Authenticate(ctx, c.creds)
		if err != nil {
			return ErrorReply(err)
		}
		c = fresh
	}
	op, mine, err := s.ops.begin(fold(c.RegistrationID()), now)
	if err != nil {
		return ErrorReply(err)
	}
	if mine {
		reg, err := s.assign(ctx, c)
		if err != nil {
			s.ops.drop(op)
			return ErrorReply(err)
		}
		s.ops.finish(op, marshal(operationJSON{OperationID: op.id, Status: reg.Status, State: stateOf(reg, &c.enrollment)}))
	}
	return pending(op.id, c.RegistrationID())
}

func pending(operation, registration string) Reply {
	return Reply{Status: 202, RetryAfter: pollAfter, OperationID: operation, Body: marshal(operationJSON{
		OperationID: operation, Status: assigning,
		// IoT Edge wants the registration id here (dps §5.2).
		State: &stateJSON{RegistrationID: registration, Status: assigning},
	})}
}

// Status answers for an operation of this device: 202 while it runs, then 200.
// Anyone else's operation is as unknown as one that never was.
func (s *Service) Status(_ context.Context, c *Caller, operationID string) Reply {
	body, done, ok := s.ops.find(operationID, fold(c.RegistrationID()), s.now())
	switch {
	case !ok:
		return ErrorReply(fault.New(fault.NotFound, "there is no such operation"))
	case !done:
		return pending(operationID, c.RegistrationID())
	}
	return Reply{Status: 200, OperationID: operationID, Body: body}
}

// Lookup answers with the result of an earlier registration.
func (s *Service) Lookup(ctx context.Context, c *Caller) Reply {
	reg, err := s.cfg.Store.Registration(ctx, c.RegistrationID())
	if fault.Is(err, fault.NotFound) {
		return ErrorReply(fault.Wrap(fault.NotFound, err, "the device has not registered"))
	}
	if err != nil {
		return ErrorReply(err)
	}
	return Reply{Status: 200, Body: marshal(stateOf(reg, &c.enrollment))}
}

// CheckBody checks the body of a device's request. An empty one is valid; the identity always comes
// from the connection, and a body that names another one is refused (dps §4.3).
func CheckBody(registrationID string, body []byte) error {
	if len(body) >= MaxBody {
		return fault.New(fault.TooLarge, "the body has %d bytes, it must have fewer than %d", len(body), MaxBody)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var r struct {
		RegistrationID *string         `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
		CSR            *string         `json:"csr"`
		ClientCSR      *string         `json:"clientCertificateCsr"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return fault.Wrap(fault.Malformed, err, "the body is not the JSON of a device registration")
	}
	if r.RegistrationID != nil && !same(*r.RegistrationID, registrationID) {
		return fault.New(fault.Invalid, "the registrationId of the body is not the one of the connection")
	}
	if r.CSR != nil || r.ClientCSR != nil {
		return fault.New(fault.Invalid, "this service issues no certificates; register without a signing request")
	}
	return nil
}

// assign writes the device to the hub and the record of it. An error means that nothing was
// decided and the device should try again; what can never succeed is a failed registration.
func (s *Service) assign(ctx context.Context, c *Caller) (Registration, error) {
	// A client that hangs up does not leave half an assignment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), assignTimeout)
	defer cancel()
	id, e := c.RegistrationID(), c.enrollment
	prev, err := s.cfg.Store.Registration(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return Registration{}, err
	}
	first := err != nil || prev.Hub == "" // no record, or of failures only

	a := c.auth
	a.DeviceID = c.deviceID
	if !first && !c.fixedID && same(prev.DeviceID, a.DeviceID) {
		a.DeviceID = prev.DeviceID // the hub's ids know case, ours do not
	}
	a.Edge, a.Tags, a.Desired = e.Edge, e.Twin.Tags, e.Twin.Desired
	a.ResetTwin = !first && e.Reprovision.UpdateHubAssignment && !e.Reprovision.MigrateDeviceData

	next := Registration{
		ID: id, DeviceID: a.DeviceID, Hub: s.cfg.Hub.Host(), Status: assigned, ETag: recordTag(), Created: s.now(), Updated: s.now(),
	}
	if e.Group {
		next.Group = e.Name
	}
	if first && len(a.DeviceID) > netxName {
		s.log.WarnContext(ctx, "a NetX Duo device could not read this device id", "device", a.DeviceID, "limit", netxName)
	}
	created, err := s.cfg.Hub.Assign(ctx, a)
	switch {
	case err == nil:
		next.Substatus = substatus(first, created, prev.Hub != next.Hub, e.Reprovision)
	case final(fault.KindOf(err)):
		next.Status, next.ErrorCode, next.Error = failed, codeOf(fault.KindOf(err)), fault.Public(err)
		next.DeviceID, next.Hub = prev.DeviceID, prev.Hub
		s.log.WarnContext(ctx, "registration failed", "registration", id, "enrollment", e.Name, "device", a.DeviceID, "err", err)
	default:
		return Registration{}, err
	}
	return s.cfg.Store.PutRegistration(ctx, id, func(now *Registration) (Registration, error) {
		if now != nil {
			next.ID, next.Created = now.ID, now.Created
		}
		return next, nil
	})
}

// final reports whether trying again cannot help.
func final(k fault.Kind) bool {
	switch k {
	case fault.Internal, fault.Throttled, fault.Unavailable, fault.Timeout, fault.BadDeviceResponse:
		return false
	}
	return true
}

// substatus tells what an assignment did (dps §9.3). When the device kept its hub and its data, it
// is initialAssignment again, as Azure answers the API versions most SDKs speak
// (Azure/azure-iot-sdk-csharp#2397).
func substatus(first, created, moved bool, p ReprovisionPolicy) string {
	switch {
	case first:
		return initialAssignment
	case !p.UpdateHubAssignment && created:
		return reprovisioned
	case !p.UpdateHubAssignment:
		return initialAssignment
	case !p.MigrateDeviceData:
		return deviceDataReset
	case moved:
		return deviceDataMigrated
	}
	return initialAssignment
}

// recordTag is a new ETag of a registration: base64 of a quoted value (dps §7.2).
func recordTag() iot.ETag {
	return iot.ETag(base64.StdEncoding.EncodeToString([]byte(`"` + nonce.New()[:16] + `"`)))
}

type operationJSON struct {
	OperationID string     `json:"operationId"`
	Status      string     `json:"status"`
	State       *stateJSON `json:"registrationState,omitempty"`
}

// stateJSON is DeviceRegistrationResult (dps §7.2). Absent members are left out, never null: Azure's C
// client takes null for a parse error. A payload would have to be an object; nothing makes one yet.
type stateJSON struct {
	X509           *memberJSON `json:"x509,omitempty"`
	SymmetricKey   *memberJSON `json:"symmetricKey,omitempty"`
	RegistrationID string      `json:"registrationId"`
	Created        string      `json:"createdDateTimeUtc,omitempty"`
	AssignedHub    string      `json:"assignedHub,omitempty"`
	DeviceID       string      `json:"deviceId,omitempty"`
	Status         string      `json:"status"`
	Substatus      string      `json:"substatus,omitempty"`
	ErrorCode      int         `json:"errorCode,omitempty"`
	ErrorMessage   string      `json:"errorMessage,omitempty"`
	Updated        string      `json:"lastUpdatedDateTimeUtc,omitempty"`
	ETag           string      `json:"etag,omitempty"`
}

type memberJSON struct {
	Group string `json:"enrollmentGroupId,omitempty"`
}

// stateOf renders a record; e is nil when it is not for the device itself.
func stateOf(r Registration, e *Enrollment) *stateJSON {
	j := &stateJSON{
		RegistrationID: r.ID, Created: iot.FormatTime(r.Created), Updated: iot.FormatTime(r.Updated),
		Status: r.Status, Substatus: r.Substatus, ErrorCode: r.ErrorCode, ErrorMessage: r.Error, ETag: string(r.ETag),
	}
	if r.Status == assigned { // the two belong together (dps §7.2)
		j.AssignedHub, j.DeviceID = r.Hub, r.DeviceID
	}
	if e != nil {
		switch e.Attestation.Type {
		case X509:
			j.X509 = &memberJSON{r.Group}
		case SymmetricKey:
			j.SymmetricKey = &memberJSON{r.Group}
		}
	}
	return j
}

const (
	maxOperations = 100_000
	operationLife = 15 * time.Minute
	perDevice     = 8 // a repeated request must not make the first one's operation unknown
)

// operation is one registration on its way or just done.
type operation struct {
	id      string
	device  string // folded registration id
	started time.Time
	body    []byte // the final answer; nil while it runs
	place   *list.Element
}

// operations holds at most max of them in the order they began. When full it forgets the
// oldest one, and refuses new ones while that one still runs.
type operations struct {
	mu       sync.Mutex
	max      int
	byID     map[string]*operation
	byDevice map[string][]*operation
	order    list.List
}

func newOperations(limit int) *operations {
	return &operations{max: limit, byID: make(map[string]*operation), byDevice: make(map[string][]*operation)}
}

// begin returns the operation of device: the one that runs, or a new one, which is then the
// caller's to finish or drop.
func (o *operations) begin(device string, now time.Time) (op *operation, mine bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pruneLocked(now)
	mates := o.byDevice[device]
	for _, m := range mates {
		if m.body == nil {
			return m, false, nil
		}
	}
	if len(mates) >= perDevice {
		o.removeLocked(mates[0])
	}
	if o.order.Len() >= o.max {
		oldest := o.order.Front().Value.(*operation)
		if oldest.body == nil {
			return nil, false, &fault.Error{Kind: fault.Throttled, Public: "too many devices register at once", RetryAfter: errorRetry}
		}
		o.removeLocked(oldest)
	}
	// The form of Azure's; 55 characters, where NetX Duo has room for 100 (dps §3).
	op = &operation{id: "4." + nonce.New()[:16] + "." + guid(), device: device, started: now}
	op.place = o.order.PushBack(op)
	o.byID[op.id] = op
	o.byDevice[device] = append(o.byDevice[device], op)
	return op, true, nil
}

func (o *operations) finish(op *operation, body []byte) {
	o.mu.Lock()
	op.body = body
	o.mu.Unlock()
}

func (o *operations) drop(op *operation) {
	o.mu.Lock()
	o.removeLocked(op)
	o.mu.Unlock()
}

func (o *operations) find(id, device string, now time.Time) (body []byte, done, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := o.byID[id]
	if op == nil || op.device != device || now.Sub(op.started) > operationLife {
		return nil, false, false
	}
	return op.body, op.body != nil, true
}

func (o *operations) prune(now time.Time) {
	o.mu.Lock()
	o.pruneLocked(now)
	o.mu.Unlock()
}

func (o *operations) pruneLocked(now time.Time) {
	for e := o.order.Front(); e != nil; e = o.order.Front() {
		op := e.Value.(*operation)
		if op.body == nil || now.Sub(op.started) <= operationLife {
			return
		}
		o.removeLocked(op)
	}
}

// removeLocked forgets op, which may be gone already.
func (o *operations) removeLocked(op *operation) {
	if o.byID[op.id] != op {
		return
	}
	delete(o.byID, op.id)
	o.order.Remove(op.place)
	var left []*operation
	for _, m := range o.byDevice[op.device] {
		if m != op {
			left = append(left, m)
		}
	}
	if left == nil {
		delete(o.byDevice, op.device)
	} else {
		o.byDevice[op.device] = left
	}
}
