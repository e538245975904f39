package dps

import (
	"bytes"
	"container/list"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
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
	req, err := parseRequest(c.RegistrationID(), body)
	if err != nil {
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
	if c.spent {
		return ErrorReply(refused("the answer to the TPM's challenge has been used"))
	}
	id := fold(c.RegistrationID())
	if err := s.limits.device(id, now); err != nil {
		return ErrorReply(err)
	}
	op, mine, err := s.ops.begin(id, c.challenge, now)
	if err != nil {
		return ErrorReply(err)
	}
	if mine {
		body, err := s.registered(ctx, c, req)
		if err != nil {
			s.ops.drop(op)
			return ErrorReply(err)
		}
		s.ops.finish(op, body(op.id))
	}
	return pending(op.id, c.RegistrationID())
}

// registered assigns the device and returns how to write the outcome.
func (s *Service) registered(ctx context.Context, c *Caller, req deviceRequest) (func(operation string) []byte, error) {
	if err := s.limits.registration(s.now()); err != nil {
		return nil, err
	}
	reg, more, err := s.assign(ctx, c, req)
	if err != nil {
		return nil, err
	}
	state := stateOf(reg, &c.enrollment)
	if reg.Status == assigned {
		if more.blob != "" {
			state.TPM = &tpmStateJSON{more.blob}
		}
		state.Issued = more.chain
	}
	return func(operation string) []byte {
		return marshal(operationJSON{OperationID: operation, Status: reg.Status, State: state})
	}, nil
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
	if err := s.limits.device(fold(c.RegistrationID()), s.now()); err != nil {
		return ErrorReply(err)
	}
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

// deviceRequest is what a device asks for (dps §7.1).
type deviceRequest struct {
	payload json.RawMessage // for a webhook; nil: none
	tpm     *tpmJSON
	csr     *x509.CertificateRequest
}

// CheckBody checks the body of a device that looks its registration up.
func CheckBody(registrationID string, body []byte) error {
	req, err := parseRequest(registrationID, body)
	if err == nil && req.csr != nil {
		return fault.New(fault.Invalid, "a certificate is issued at a registration, not when one is looked up")
	}
	return err
}

// parseRequest reads the body of a device's request. An empty one is valid; the identity always comes from the connection,
// and a body that names another one is refused (dps §4.3).
func parseRequest(registrationID string, body []byte) (req deviceRequest, err error) {
	if len(body) >= MaxBody {
		return req, fault.New(fault.TooLarge, "the body has %d bytes, it must have fewer than %d", len(body), MaxBody)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return req, nil
	}
	var r struct {
		RegistrationID *string         `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
		TPM            *tpmJSON        `json:"tpm"`
		CSR            *string         `json:"csr"`
		ClientCSR      *string         `json:"clientCertificateCsr"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return req, fault.Wrap(fault.Malformed, err, "the body is not the JSON of a device registration")
	}
	if r.RegistrationID != nil && !same(*r.RegistrationID, registrationID) {
		return req, fault.New(fault.Invalid, "the registrationId of the body is not the one of the connection")
	}
	if r.ClientCSR != nil {
		return req, fault.New(fault.Invalid, "clientCertificateCsr is of a preview that is over; send the request as csr")
	}
	req.tpm = r.TPM
	if !absent(r.Payload) {
		req.payload = r.Payload
	}
	if r.CSR != nil {
		req.csr, err = parseCSR(registrationID, *r.CSR)
	}
	return req, err
}

// parseCSR reads a certificate request: base64 of DER without armour, signed by the key it holds, for the registration id (dps §7.1).
func parseCSR(registrationID, text string) (*x509.CertificateRequest, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "csr is not base64 of DER without armour")
	}
	r, err := pki.ParseRequest(der)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "csr: %v", err)
	}
	if !same(r.Subject.CommonName, registrationID) {
		return nil, fault.New(fault.Invalid, "csr: the common name %q is not the registration id", r.Subject.CommonName)
	}
	return r, nil
}

// CredentialPolicy is the one name that credentialPolicyName may have: the authority by which the hub lets devices renew their
// certificates, too.
const CredentialPolicy = "default"

// extras are what only the device itself is told of its assignment.
type extras struct {
	blob  string   // for its TPM
	chain []string // base64 of DER
}

// assign writes the device to the hub and the record of it. An error means that nothing was
// decided and the device should try again; what can never succeed is a failed registration.
func (s *Service) assign(ctx context.Context, c *Caller, req deviceRequest) (reg Registration, more extras, err error) {
	// A client that hangs up does not leave half an assignment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), assignTimeout)
	defer cancel()
	id, e := c.RegistrationID(), c.enrollment
	prev, err := s.cfg.Store.Registration(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return reg, more, err
	}
	if c.challenge != nil && prev.ETag != c.generation {
		return reg, more, refused("the answer to the TPM's challenge has been used")
	}
	if req.csr != nil && e.Issuing == "" {
		return reg, more, fault.New(fault.Invalid, "the enrollment has no credentialPolicyName; register without a csr")
	}
	if req.csr != nil && c.vouched {
		return reg, more, fault.New(fault.Invalid, "the certificate is renewed where it was issued; register without a csr")
	}
	first := err != nil || prev.Hub == "" // no record, or of failures only
	if first {
		prev.DeviceID = ""
	}

	a := c.auth
	a.DeviceID = c.deviceID
	if !first && !c.fixedID && same(prev.DeviceID, a.DeviceID) {
		a.DeviceID = prev.DeviceID // the hub's ids know case, ours do not
	}
	if e.Attestation.Type == TPM {
		if more.blob, err = s.hubKey(c, req, &a); err != nil {
			return reg, more, err
		}
	}
	next := Registration{ID: id, DeviceID: a.DeviceID, Status: assigned, ETag: recordTag(), Created: s.now(), Updated: s.now()}
	if e.Group {
		next.Group = e.Name
	}
	if first && len(a.DeviceID) > netxName {
		s.log.WarnContext(ctx, "a NetX Duo device could not read this device id", "device", a.DeviceID, "limit", netxName)
	}

	var left Hub // the hub the device comes from; nil: it stays, or nobody knows that hub any more
	where, err := s.allocate(ctx, c, req, &prev)
	if err == nil {
		next.Hub, next.Payload = where.Host, where.payload
		a.Edge, a.Tags, a.Desired = e.Edge, e.Twin.Tags, e.Twin.Desired
		a.ResetTwin = !first && e.Reprovision.UpdateHubAssignment && !e.Reprovision.MigrateDeviceData
		if where.twin != nil {
			a.Tags, a.Desired = where.twin.Tags, where.twin.Desired
			a.ResetTwin = a.ResetTwin || !first
		}
		err = s.stays(ctx, where, a.DeviceID)
		if err == nil && !first && !same(prev.Hub, where.Host) {
			if left, err = s.leave(ctx, &prev); err == nil && left != nil && where.twin == nil && e.Reprovision.MigrateDeviceData {
				err = s.carry(ctx, left, prev.DeviceID, &a)
			}
		}
	}
	if err == nil && req.csr != nil {
		a.AuthType, a.PrimaryKey, a.SecondaryKey = AuthCertificateAuthority, secret.Secret{}, secret.Secret{}
		a.PrimaryThumbprint, a.SecondaryThumbprint = "", ""
	}
	created := false
	if err == nil {
		created, err = where.hub.Assign(ctx, a)
	}
	if err == nil && req.csr != nil {
		more.chain, err = s.issue(ctx, where.hub, req.csr, a.DeviceID)
	}
	switch {
	case err == nil:
		next.Substatus = substatus(first, created, !same(prev.Hub, next.Hub), e.Reprovision)
	case final(err):
		next.Status, next.Error = failed, fault.Public(err)
		next.ErrorCode = codeOf(fault.KindOf(err))
		if v, ok := errors.AsType[*verdict](err); ok {
			next.ErrorCode, next.Error = v.code, v.text
		} else if errors.Is(err, ErrHubRefuses) {
			next.ErrorCode, next.Error = codeRefuses, "the hub does not let this service assign devices"
		}
		next.DeviceID, next.Hub, left = prev.DeviceID, prev.Hub, nil
		s.log.WarnContext(ctx, "registration failed", "registration", id, "enrollment", e.Name, "device", a.DeviceID, "err", err)
	default:
		return reg, more, err
	}
	reg, err = s.cfg.Store.PutRegistration(ctx, id, func(now *Registration) (Registration, error) {
		if now != nil {
			next.ID, next.Created = now.ID, now.Created
		}
		return next, nil
	})
	if err == nil && left != nil { // it has its place; that it has another one as well is for the operator to know
		if err := left.Remove(ctx, prev.DeviceID); err != nil {
			s.log.ErrorContext(ctx, "a device that moved is still at its old hub; delete it there", "device", prev.DeviceID, "hub", prev.Hub, "err", err)
		}
	}
	return reg, more, err
}

// stays refuses to let a device go to another hub while it is held back at the installation's own: nobody holds it back there.
func (s *Service) stays(ctx context.Context, where allocation, deviceID string) error {
	if s.cfg.Held == nil || same(where.Host, s.cfg.Hub.Host()) {
		return nil
	}
	held, err := s.cfg.Held(ctx, deviceID)
	if err != nil {
		return fmt.Errorf("look whether the device is held back: %w", err)
	}
	if held {
		return fault.New(fault.Disabled, "the device is contained by its operator and does not go to another hub")
	}
	return nil
}

// leave finds the hub that a device goes away from; nil when it is not linked any more.
func (s *Service) leave(ctx context.Context, prev *Registration) (Hub, error) {
	all, err := s.linkedHubs(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		if same(h.Host, prev.Hub) {
			return h.hub, nil
		}
	}
	s.log.WarnContext(ctx, "a device moves from a hub that is not linked any more; what it has there stays", "device", prev.DeviceID, "hub", prev.Hub)
	return nil, nil
}

// carry takes along what a device has at the hub it leaves (dps §9.3).
func (s *Service) carry(ctx context.Context, left Hub, deviceID string, a *Assignment) error {
	tags, desired, err := left.Twin(ctx, deviceID)
	if fault.Is(err, fault.NotFound) {
		return nil // it is gone from there: the initial twin it is
	}
	if err != nil {
		// Once more later: to go on would lose it.
		return fault.Wrap(fault.Unavailable, fmt.Errorf("read the twin at the hub it leaves: %w", err), "the hub of the device cannot be reached")
	}
	a.Tags, a.Desired, a.ResetTwin = tags, desired, true
	return nil
}

// issue has the hub sign a request of a device that it knows by now.
func (s *Service) issue(ctx context.Context, hub Hub, r *x509.CertificateRequest, deviceID string) ([]string, error) {
	issuer, ok := hub.(Issuer)
	if !ok {
		return nil, &verdict{code: 400004, text: "the hub of the device issues no certificates"}
	}
	chain, err := issuer.Issue(ctx, r, deviceID)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	var texts []string
	for _, der := range chain {
		texts = append(texts, base64.StdEncoding.EncodeToString(der))
	}
	return texts, nil
}

// final reports whether trying again cannot help.
func final(err error) bool {
	if _, ok := errors.AsType[*verdict](err); ok || errors.Is(err, ErrHubRefuses) {
		return true
	}
	switch fault.KindOf(err) {
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
// client takes null for a parse error. The payload is an object.
type stateJSON struct {
	X509           *memberJSON     `json:"x509,omitempty"`
	SymmetricKey   *memberJSON     `json:"symmetricKey,omitempty"`
	TPM            *tpmStateJSON   `json:"tpm,omitempty"`
	RegistrationID string          `json:"registrationId"`
	Created        string          `json:"createdDateTimeUtc,omitempty"`
	AssignedHub    string          `json:"assignedHub,omitempty"`
	DeviceID       string          `json:"deviceId,omitempty"`
	Status         string          `json:"status"`
	Substatus      string          `json:"substatus,omitempty"`
	ErrorCode      int             `json:"errorCode,omitempty"`
	ErrorMessage   string          `json:"errorMessage,omitempty"`
	Updated        string          `json:"lastUpdatedDateTimeUtc,omitempty"`
	ETag           string          `json:"etag,omitempty"`
	Payload        json.RawMessage `json:"payload,omitempty"`
	Issued         []string        `json:"issuedCertificateChain,omitempty"`
}

type tpmStateJSON struct {
	Key string `json:"authenticationKey"`
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
		j.AssignedHub, j.DeviceID, j.Payload = r.Hub, r.DeviceID, r.Payload
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
	key     []byte // of the TPM's challenge by whose answer it was begun; nil: of another attestation
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
func (o *operations) begin(device string, key []byte, now time.Time) (op *operation, mine bool, err error) {
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
	op = &operation{id: "4." + nonce.New()[:16] + "." + guid(), device: device, started: now, key: key}
	op.place = o.order.PushBack(op)
	o.byID[op.id] = op
	o.byDevice[device] = append(o.byDevice[device], op)
	return op, true, nil
}

// challenge returns the key of a TPM's challenge that an operation of device was begun with, if there is one that fits.
func (o *operations) challenge(device string, now time.Time, fits func(key []byte) bool) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range o.byDevice[device] {
		if op.key != nil && now.Sub(op.started) <= operationLife && fits(op.key) {
			return op.key
		}
	}
	return nil
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
