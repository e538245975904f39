// Package attest is where devices prove themselves to the Security Service and get the certificates of a day
// (docs/attestation.md): a client certificate below their tenant's CA, and one for this installation's own update and
// error services.
//
// Nothing is kept for who proves nothing: a nonce carries its own time and a MAC. A nonce is good once, because each device's
// record remembers the nonce of its last proof and only a later one is taken. The same record holds the counters of the device's
// starts and statements, which only grow: of two devices with one key, the one that falls behind shows an old count.
package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/wire/attestation"
	"github.com/vauban-iot/vauban/wire/tpm"
)

// Device is what the Security Service knows of a device.
type Device struct {
	ID        string // SHA-512 of PublicKey, 128 lower-case hex digits
	PublicKey []byte // SubjectPublicKeyInfo, DER
	// EndorsementKey is the SHA-256 of the SubjectPublicKeyInfo of its TPM's endorsement key, in hex. When it is not empty, only
	// evidence of that TPM is taken.
	EndorsementKey string
	Tenant         string // empty: not claimed
	Enabled        bool
}

// Devices finds devices.
type Devices interface {
	// Device returns one, claimed or only manufactured; fault.NotFound.
	Device(ctx context.Context, id string) (Device, error)
}

// Verdict is what a policy says of measured software.
type Verdict struct {
	Trusted bool   // every image is known: an update certificate
	Current bool   // and nothing is older than allowed: a client certificate, too
	Reason  string // why not, in words for the device's log
}

// Policy judges measured software.
type Policy interface {
	Judge(ctx context.Context, d Device, osVersion string, images []attestation.Image) (Verdict, error)
}

// Kind tells the two certificates apart.
type Kind string

// The kinds.
const (
	Client Kind = "client" // below the tenant's CA, for the customer's services
	Update Kind = "update" // for the update and error services of this installation
)

// Request asks for a certificate.
type Request struct {
	Kind      Kind
	Device    Device
	Key       crypto.PublicKey // ECDSA P-256, whose holder the device proved to be
	NotBefore time.Time
	NotAfter  time.Time
}

// Issued is a certificate.
type Issued struct {
	PEM      []byte    // leaf and what is between it and the root
	NotAfter time.Time // may be earlier than was asked for
}

// Issuer makes certificates.
type Issuer interface {
	Issue(ctx context.Context, r Request) (Issued, error)
}

// Outcomes of attestations.
const (
	Full       = "full"   // both certificates
	UpdateOnly = "update" // the software is older than allowed
	Refused    = "refused"
)

// Record is what is kept of a device: the last of its proofs that counted.
type Record struct {
	Device       string
	Kind         string // attestation.Software, attestation.TPM
	BootCounter  uint64
	BootID       string
	Sequence     uint64
	NonceIssued  time.Time // of the last nonce that was spent
	Attested     time.Time
	OSVersion    string
	Images       []attestation.Image
	State        string   // manufacturing state
	Capabilities []uint32 // permanent ones
	Outcome      string
	Suspicions   int64     // refusals for a count that did not grow
	Suspected    time.Time // the last of them
}

// Store keeps records.
type Store interface {
	// Attestation returns the record of a device; fault.NotFound.
	Attestation(ctx context.Context, device string) (Record, error)
	// PutAttestation creates or changes it: change sees what stands, or nil. Changes of one device follow each other.
	PutAttestation(ctx context.Context, device string, change func(*Record) (Record, error)) (Record, error)
	// DeleteAttestation forgets it; fault.NotFound.
	DeleteAttestation(ctx context.Context, device string) error
}

// Suspicion is a proof with a good signature that cannot be of the one device that has the key.
type Suspicion struct {
	Device    Device
	At        time.Time
	Remote    string
	Shown     Record // what the device said, refused
	Last      Record // what counted before
	Refusal   Code
	Statement string // for people
}

// Alarm is told of suspicions.
type Alarm interface {
	Suspect(ctx context.Context, s Suspicion)
}

// Inventory is told what devices run.
type Inventory interface {
	Attested(ctx context.Context, d Device, r Record) error
}

// Config of a service. The first five are required.
type Config struct {
	Devices Devices
	Policy  Policy
	Issuer  Issuer
	Store   Store
	Secret  secret.Secret // of at least 32 bytes, the same on all servers of an installation

	Alarm     Alarm          // nil: the log alone
	Inventory Inventory      // nil: nobody
	Life      time.Duration  // of certificates; zero: 24 h
	MaxSkew   time.Duration  // between a statement's time and ours; zero: 5 min
	Random    func() float64 // in [0, 1), for jitter; nil: math/rand
	Now       func() time.Time
	Logger    *slog.Logger
}

const (
	nonceLife = 5 * time.Minute
	// backdate is for relying parties whose clocks are behind.
	backdate = 15 * time.Minute
	// nonceSkew is how far the clocks of two servers of an installation may be apart.
	nonceSkew = 30 * time.Second
)

// Service attests devices. It is safe for concurrent use.
type Service struct {
	cfg Config
	log *slog.Logger
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Devices == nil || cfg.Policy == nil || cfg.Issuer == nil || cfg.Store == nil || len(cfg.Secret.Reveal()) < 32 {
		return nil, errors.New("attest: Devices, Policy, Issuer, Store and a Secret of 32 bytes are required")
	}
	if cfg.Life == 0 {
		cfg.Life = 24 * time.Hour
	}
	if cfg.MaxSkew == 0 {
		cfg.MaxSkew = 5 * time.Minute
	}
	if cfg.Random == nil {
		cfg.Random = mathrand.Float64
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg, log: cfg.Logger}, nil
}

// now is in whole microseconds, as nonces and stores keep time.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// ServerTime is the time that answers tell.
func (s *Service) ServerTime() time.Time { return s.now().Truncate(time.Millisecond) }

// A nonce is base64url of: version, time of issue in microseconds (8), random (16), MAC (32).
const (
	nonceVersion = 1
	nonceBody    = 1 + 8 + 16
)

func (s *Service) mac(purpose string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, s.cfg.Secret.Reveal())
	for _, p := range append([][]byte{[]byte(purpose)}, parts...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

func (s *Service) mint(device string, at time.Time) string {
	b := make([]byte, nonceBody, nonceBody+sha256.Size)
	b[0] = nonceVersion
	binary.BigEndian.PutUint64(b[1:], uint64(at.UnixMicro()))
	rand.Read(b[9:])
	return base64.RawURLEncoding.EncodeToString(append(b, s.mac("attestation nonce", b, []byte(device))...))
}

// open returns when a nonce of ours was issued to the device.
func (s *Service) open(nonce, device string, now time.Time) (time.Time, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != nonceBody+sha256.Size || b[0] != nonceVersion ||
		!hmac.Equal(b[nonceBody:], s.mac("attestation nonce", b[:nonceBody], []byte(device))) {
		return time.Time{}, refuse(NonceInvalid, "the nonce was not given to this device by this service")
	}
	issued := time.UnixMicro(int64(binary.BigEndian.Uint64(b[1:]))).UTC()
	if !now.Before(issued.Add(nonceLife)) || issued.After(now.Add(nonceSkew)) {
		return time.Time{}, refuse(NonceExpired, "the nonce is good for %s; ask for another", nonceLife)
	}
	return issued, nil
}

// Nonce answers the request for a nonce. Errors are *[Refusal].
func (s *Service) Nonce(ctx context.Context, body []byte) (attestation.NonceReply, error) {
	r, err := s.nonce(ctx, body)
	return r, s.refusal(ctx, "", "", err)
}

func (s *Service) nonce(ctx context.Context, body []byte) (attestation.NonceReply, error) {
	q, err := attestation.ParseNonceRequest(body)
	if err != nil {
		return attestation.NonceReply{}, err
	}
	now := s.now()
	r := attestation.NonceReply{
		Version: attestation.Version, Nonce: s.mint(q.DeviceID, now), Expires: now.Add(nonceLife).Truncate(time.Millisecond), ServerTime: s.ServerTime(),
	}
	if q.TPM == nil {
		return r, nil
	}
	d, err := s.device(ctx, q.DeviceID)
	if err != nil {
		return attestation.NonceReply{}, err
	}
	ak, err := attestation.ParseAttestationKey(q.TPM.Attestation)
	if err != nil {
		return attestation.NonceReply{}, err
	}
	ek, err := endorsement(d, q.TPM.Endorsement)
	if err != nil {
		return attestation.NonceReply{}, err
	}
	blob, seed, err := tpm2.CreateCredential(rand.Reader, ek, ak.Name, s.credential(r.Nonce, q.DeviceID, ak.Name))
	if err != nil {
		return attestation.NonceReply{}, fmt.Errorf("make a credential: %w", err)
	}
	r.Credential = &attestation.Credential{Blob: blob, Seed: seed}
	return r, nil
}

// credential is the secret of a nonce that only the TPM with the endorsement key and this attestation key comes to know. It is
// made again when the evidence comes, on whichever server that is.
func (s *Service) credential(nonce, device string, name []byte) []byte {
	return s.mac("attestation credential", []byte(nonce), []byte(device), name)
}

// endorsement reads an endorsement key and checks that it is the recorded one.
func endorsement(d Device, public []byte) (tpm2.LabeledEncapsulationKey, error) {
	if d.EndorsementKey == "" {
		return nil, refuse(WrongEvidence, "no TPM is recorded for this device")
	}
	if _, err := tpm.ParsePublic(public); err != nil { // strict, and before anything else reads it
		return nil, refuse(BadQuote, "the endorsement key is not acceptable").because(err)
	}
	wrapped, err := tpm2.Unmarshal[tpm2.TPM2BPublic](public)
	if err != nil {
		return nil, refuse(BadQuote, "the endorsement key is not acceptable").because(err)
	}
	contents, err := wrapped.Contents()
	if err != nil {
		return nil, refuse(BadQuote, "the endorsement key is not acceptable").because(err)
	}
	sum, err := endorsementHash(contents)
	if err != nil {
		return nil, refuse(BadQuote, "the endorsement key is not acceptable").because(err)
	}
	if !strings.EqualFold(sum, d.EndorsementKey) {
		return nil, refuse(WrongKey, "the endorsement key is not the recorded one")
	}
	return tpm2.ImportEncapsulationKey(contents)
}

func endorsementHash(public *tpm2.TPMTPublic) (string, error) {
	unique, err := public.Unique.RSA()
	if err != nil {
		return "", err
	}
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return "", err
	}
	key, err := tpm2.RSAPub(parameters, unique)
	if err != nil {
		return "", err
	}
	return attestation.EndorsementHash(key)
}

func (s *Service) device(ctx context.Context, id string) (Device, error) {
	d, err := s.cfg.Devices.Device(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return d, refuse(UnknownDevice, "this device is not known here").because(err)
	}
	if err != nil {
		return d, fmt.Errorf("find the device: %w", err)
	}
	return d, nil
}

// Attest judges evidence. Errors are *[Refusal]. remote is the peer's address, for the log.
func (s *Service) Attest(ctx context.Context, body []byte, remote string) (attestation.Reply, error) {
	r, device, err := s.attest(ctx, body, remote)
	return r, s.refusal(ctx, device, remote, err)
}

func (s *Service) attest(ctx context.Context, body []byte, remote string) (_ attestation.Reply, device string, _ error) {
	none := attestation.Reply{}
	e, st, err := attestation.ParseEvidence(body)
	if err != nil {
		return none, "", err
	}
	now := s.now()
	issued, err := s.open(st.Nonce, st.DeviceID, now)
	if err != nil {
		return none, st.DeviceID, err
	}
	d, err := s.device(ctx, st.DeviceID)
	if err != nil {
		return none, st.DeviceID, err
	}
	clientKey, updateKey, err := s.prove(&e, &st, d)
	if err != nil {
		return none, st.DeviceID, err
	}
	if skew := st.Time.Sub(now).Abs(); skew > s.cfg.MaxSkew {
		return none, st.DeviceID, refuse(ClockSkewed, "the statement's time is %s away from the server's", skew.Round(time.Second))
	}
	switch {
	case d.Tenant == "":
		return none, st.DeviceID, refuse(NotClaimed, "no tenant has claimed this device").retry(s.spread(time.Hour))
	case !d.Enabled:
		return none, st.DeviceID, refuse(Disabled, "this device is disabled").retry(s.spread(time.Hour))
	}
	verdict, err := s.cfg.Policy.Judge(ctx, d, st.OSVersion, st.Images)
	if err != nil {
		return none, st.DeviceID, fmt.Errorf("judge the software: %w", err)
	}
	next := Record{
		Device: d.ID, Kind: st.Kind, BootCounter: st.BootCounter, BootID: st.BootID, Sequence: st.Sequence, NonceIssued: issued, Attested: now,
		OSVersion: st.OSVersion, Images: st.Images, State: st.State, Capabilities: st.Capabilities, Outcome: outcome(verdict),
	}
	if err := s.count(ctx, d, next, remote); err != nil {
		return none, st.DeviceID, err
	}
	if s.cfg.Inventory != nil {
		if err := s.cfg.Inventory.Attested(ctx, d, next); err != nil {
			return none, st.DeviceID, fmt.Errorf("tell the inventory: %w", err)
		}
	}
	if !verdict.Trusted {
		return none, st.DeviceID, refuse(UnknownSoftware, "%s", verdict.Reason).retry(s.spread(time.Hour))
	}
	r, err := s.issue(ctx, d, verdict, clientKey, updateKey, now)
	if err == nil {
		s.log.InfoContext(ctx, "device attested", "audit", true, "device", d.ID, "tenant", d.Tenant, "kind", st.Kind, "outcome", next.Outcome,
			"os", st.OSVersion, "boot", st.BootCounter, "from", remote)
	}
	return r, st.DeviceID, err
}

func outcome(v Verdict) string {
	switch {
	case !v.Trusted:
		return Refused
	case !v.Current:
		return UpdateOnly
	}
	return Full
}

// prove checks all that is cryptography.
func (s *Service) prove(e *attestation.Evidence, st *attestation.Statement, d Device) (client, update *ecdsa.PublicKey, err error) {
	sum := sha512.Sum512(st.DeviceKey)
	if hex.EncodeToString(sum[:]) != st.DeviceID || !bytes.Equal(st.DeviceKey, d.PublicKey) {
		return nil, nil, refuse(WrongKey, "the device key is not the one of this device")
	}
	var keys [3]*ecdsa.PublicKey
	for i, der := range [...][]byte{st.DeviceKey, st.ClientKey, st.UpdateKey} {
		if keys[i], err = attestation.ParseKey(der); err != nil {
			return nil, nil, err
		}
	}
	if bytes.Equal(st.ClientKey, st.UpdateKey) || bytes.Equal(st.ClientKey, st.DeviceKey) || bytes.Equal(st.UpdateKey, st.DeviceKey) {
		return nil, nil, refuse(KeyReused, "the three keys must differ")
	}
	for i, sig := range [...]struct {
		role string
		sig  []byte
	}{{attestation.RoleDevice, e.Device}, {attestation.RoleClient, e.Client}, {attestation.RoleUpdate, e.Update}} {
		if err := attestation.Verify(keys[i], sig.role, e.Statement, sig.sig); err != nil {
			return nil, nil, err
		}
	}
	if (d.EndorsementKey != "") != (st.Kind == attestation.TPM) {
		return nil, nil, refuse(WrongEvidence, "evidence of kind %q is not what this device is known to give", st.Kind)
	}
	if st.Kind == attestation.TPM {
		if err := s.quoted(e, st); err != nil {
			return nil, nil, err
		}
	}
	return keys[1], keys[2], nil
}

// quoted checks what a TPM adds: that the attestation key sits in the recorded TPM, that the TPM vouches for this statement, and
// that what it measured is what the statement lists.
func (s *Service) quoted(e *attestation.Evidence, st *attestation.Statement) error {
	ak, err := attestation.ParseAttestationKey(e.TPM.Attestation)
	if err != nil {
		return err
	}
	// Who knows the secret has both keys: it was wrapped for the recorded endorsement key and this name.
	if !hmac.Equal(st.Credential, s.credential(st.Nonce, st.DeviceID, ak.Name)) {
		return refuse(BadCredential, "the credential was not opened by the recorded TPM with this attestation key")
	}
	if err := attestation.VerifyQuoteSignature(ak.Key, e.TPM.Quote, e.TPM.Signature); err != nil {
		return err
	}
	q, err := attestation.ParseQuote(e.TPM.Quote)
	if err != nil {
		return err
	}
	if !hmac.Equal(q.Qualifying, attestation.QualifyingData(e.Statement)) {
		return refuse(BadQuote, "the quote is about another statement")
	}
	if uint64(q.ResetCount) != st.BootCounter {
		return refuse(BadQuote, "the TPM was started %d times, not %d", q.ResetCount, st.BootCounter)
	}
	value, err := attestation.PCRValue(st.Images)
	if err != nil {
		return err
	}
	if !q.Covers(value) {
		return refuse(MeasurementMismatch, "the TPM measured something else than the statement lists")
	}
	return nil
}

// count writes the record of a proof whose nonce and counts are new.
func (s *Service) count(ctx context.Context, d Device, next Record, remote string) error {
	var last Record
	var suspicion *Refusal
	_, err := s.cfg.Store.PutAttestation(ctx, d.ID, func(now *Record) (Record, error) {
		suspicion, last = nil, Record{} // this may run more than once
		if now == nil {
			return next, nil
		}
		last = *now
		// Nonces that a device spent were issued one after the other, so an older one was spent, or never will be. After our clock
		// was put back that says nothing; the counts still do.
		if !next.NonceIssued.After(now.NonceIssued) && !now.NonceIssued.After(next.Attested.Add(nonceSkew)) {
			return Record{}, refuse(NonceUsed, "the nonce, or a later one, was used already; ask for another")
		}
		suspicion = grown(now, &next)
		kept := next
		kept.Suspicions, kept.Suspected = now.Suspicions, now.Suspected
		if suspicion != nil {
			// What counted stays; the nonce is spent, so that the alarm rings once for it.
			kept = *now
			kept.NonceIssued = next.NonceIssued
			kept.Suspicions++
			kept.Suspected = next.Attested
		}
		return kept, nil
	})
	if err != nil {
		return fmt.Errorf("keep the record: %w", err)
	}
	if suspicion == nil {
		return nil
	}
	s.log.WarnContext(ctx, "device may be cloned", "audit", true, "device", d.ID, "tenant", d.Tenant, "code", string(suspicion.Code), "why", suspicion.Public,
		"boot", next.BootCounter, "sequence", next.Sequence, "lastBoot", last.BootCounter, "lastSequence", last.Sequence, "lastAttested", last.Attested, "from", remote)
	if s.cfg.Alarm != nil {
		s.cfg.Alarm.Suspect(ctx, Suspicion{
			Device: d, At: next.Attested, Remote: remote, Shown: next, Last: last, Refusal: suspicion.Code, Statement: suspicion.Public,
		})
	}
	return suspicion
}

// grown says why the counts of next cannot follow those of last in one device's life.
func grown(last, next *Record) *Refusal {
	switch {
	case next.BootCounter > last.BootCounter:
		return nil
	case next.BootCounter < last.BootCounter:
		return refuse(CounterNotGrown, "the boot counter %d is behind %d, which this key showed before", next.BootCounter, last.BootCounter)
	case next.BootID != last.BootID:
		return refuse(CounterNotGrown, "there were two starts with the boot counter %d", next.BootCounter)
	case next.Sequence <= last.Sequence:
		return refuse(CounterNotGrown, "statement %d of start %d does not follow statement %d", next.Sequence, next.BootCounter, last.Sequence)
	}
	return nil
}

func (s *Service) issue(ctx context.Context, d Device, v Verdict, client, update *ecdsa.PublicKey, now time.Time) (attestation.Reply, error) {
	r := attestation.Reply{Version: attestation.Version, ServerTime: s.ServerTime()}
	end := now.Add(s.cfg.Life)
	make1 := func(kind Kind, key *ecdsa.PublicKey) (*attestation.Certificate, error) {
		c, err := s.cfg.Issuer.Issue(ctx, Request{Kind: kind, Device: d, Key: key, NotBefore: now.Add(-backdate), NotAfter: now.Add(s.cfg.Life)})
		if err != nil {
			return nil, fmt.Errorf("issue the %s certificate: %w", kind, err)
		}
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
		return &attestation.Certificate{PEM: string(c.PEM), NotAfter: c.NotAfter.UTC()}, nil
	}
	var err error
	if r.Update, err = make1(Update, update); err != nil {
		return attestation.Reply{}, err
	}
	if v.Current {
		if r.Client, err = make1(Client, client); err != nil {
			return attestation.Reply{}, err
		}
	} else {
		r.ClientRefused = &attestation.Error{Code: string(SoftwareOutdated), Message: v.Reason}
	}
	// 40 to 60 % of the life: renewals of devices that started together drift apart.
	r.RenewAfter = now.Add(time.Duration(float64(end.Sub(now)) * (0.4 + 0.2*s.cfg.Random()))).Truncate(time.Millisecond)
	return r, nil
}

// spread is d to 1.5 d, so that who is told to wait does not come back with all others.
func (s *Service) spread(d time.Duration) time.Duration {
	return d + time.Duration(s.cfg.Random()*float64(d)/2)
}

// Record returns what is kept of a device; fault.NotFound.
func (s *Service) Record(ctx context.Context, device string) (Record, error) {
	return s.cfg.Store.Attestation(ctx, device)
}

// Forget removes what is kept of a device, so that its next proof counts whatever counters it shows: after its storage was replaced
// or its TPM cleared. It is an operator's decision, since it forgives a clone, too. fault.NotFound.
func (s *Service) Forget(ctx context.Context, device, who string) error {
	err := s.cfg.Store.DeleteAttestation(ctx, device)
	if err == nil {
		s.log.InfoContext(ctx, "attestation record forgotten", "audit", true, "device", device, "who", who)
	}
	return err
}
