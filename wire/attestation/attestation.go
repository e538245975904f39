// Package attestation is what devices and the Security Service tell each other when a device proves itself: the messages of
// docs/attestation.md, what of them is signed, and the parts of TPM 2.0 that they carry. Both sides share this room. It does
// no I/O.
package attestation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Version of the protocol. It stands in every message; another one is refused.
const Version = 1

// Paths under the address of the service.
const (
	NoncePath    = "/attestation/v1/nonce"
	EvidencePath = "/attestation/v1/evidence"
	EventsPath   = "/attestation/v1/events"
)

// Limits, in bytes unless they say otherwise.
const (
	MaxNonceRequest = 8 << 10
	MaxEvidence     = 256 << 10
	MaxStatement    = 128 << 10
	MaxReply        = 256 << 10 // that a device reads
	MaxEventsBody   = 512 << 10
	MaxEvents       = 200 // events of one request
	MaxImages       = 128 // images of a statement
	MaxNonce        = 128
	MaxOSVersion    = 32
	MaxCapabilities = 32
	MaxSignature    = 80 // ASN.1 of ECDSA P-256 has 72 at most
	MaxKey          = 256
	MaxTPMPart      = 1024
)

// Kinds of evidence.
const (
	Software = "software" // a key in a file: nothing but its holder's word says what runs
	TPM      = "tpm"      // a quote of a TPM 2.0 stands for what runs
)

// NonceRequest asks for a nonce.
type NonceRequest struct {
	Version  int      `json:"version"`
	DeviceID string   `json:"deviceId"`      // 128 lower-case hex digits
	TPM      *TPMKeys `json:"tpm,omitempty"` // evidence will be of kind TPM
}

// TPMKeys are public areas of a TPM's keys, each a TPM2B_PUBLIC.
type TPMKeys struct {
	Endorsement []byte `json:"endorsementKey"`
	Attestation []byte `json:"attestationKey"`
}

// NonceReply answers it.
type NonceReply struct {
	Version    int         `json:"version"`
	Nonce      string      `json:"nonce"`
	Expires    time.Time   `json:"expires"`
	ServerTime time.Time   `json:"serverTime"`
	Credential *Credential `json:"credential,omitempty"`
}

// Credential is a secret that only a TPM with both keys of the request can open (TPM2_ActivateCredential).
type Credential struct {
	Blob []byte `json:"blob"` // TPMS_ID_OBJECT
	Seed []byte `json:"seed"` // encrypted to the endorsement key
}

// Image is one measured image.
type Image struct {
	Component string `json:"componentId"` // GUID, lower case
	ID        string `json:"imageId"`     // GUID, lower case
	SHA256    string `json:"sha256"`      // 64 lower-case hex digits, of the whole image
}

// Statement is what a device says of itself. Its bytes, as they were sent, are what is signed.
type Statement struct {
	Version  int    `json:"version"`
	Kind     string `json:"kind"` // Software, TPM
	DeviceID string `json:"deviceId"`
	Nonce    string `json:"nonce"`
	// Time is the device's idea of it, after it saw the server's.
	Time time.Time `json:"time"`
	// BootCounter grows with every start; of kind TPM it is the TPM's resetCount. BootID is random for each start: 32 hex digits.
	// Sequence grows with every statement of a start, from 1.
	BootCounter uint64  `json:"bootCounter"`
	BootID      string  `json:"bootId"`
	Sequence    uint64  `json:"sequence"`
	OSVersion   string  `json:"osVersion"`
	Images      []Image `json:"images"` // in the order in which they were measured
	// State and Capabilities are the manufacturing state and the ids of permanent capabilities, for the inventory.
	State        string   `json:"manufacturingState,omitempty"`
	Capabilities []uint32 `json:"capabilities,omitempty"`
	// Keys are SubjectPublicKeyInfo in DER, of ECDSA P-256 keys, all different.
	DeviceKey []byte `json:"deviceKey"`
	ClientKey []byte `json:"clientKey"` // for the client certificate
	UpdateKey []byte `json:"updateKey"` // for the update certificate
	// Credential is what the TPM got out of NonceReply.Credential.
	Credential []byte `json:"credential,omitempty"`
}

// Evidence proves a statement.
type Evidence struct {
	Version   int        `json:"version"`
	Statement []byte     `json:"statement"` // JSON of a Statement
	Device    []byte     `json:"deviceSignature"`
	Client    []byte     `json:"clientSignature"`
	Update    []byte     `json:"updateSignature"`
	TPM       *TPMQuoted `json:"tpm,omitempty"`
}

// TPMQuoted is what a TPM adds.
type TPMQuoted struct {
	Attestation []byte `json:"attestationKey"` // TPM2B_PUBLIC
	Quote       []byte `json:"quote"`          // TPMS_ATTEST over PCR
	Signature   []byte `json:"signature"`      // TPMT_SIGNATURE of quote
}

// Reply carries the certificates.
type Reply struct {
	Version    int       `json:"version"`
	ServerTime time.Time `json:"serverTime"`
	// RenewAfter is when to come back: about half the life of the certificates, another time for each device.
	RenewAfter time.Time    `json:"renewAfter"`
	Update     *Certificate `json:"update"`
	Client     *Certificate `json:"client,omitempty"`
	// ClientRefused says why there is no client certificate.
	ClientRefused *Error `json:"clientRefused,omitempty"`
}

// Certificate is a chain, leaf first, without the root.
type Certificate struct {
	PEM      string    `json:"certificates"`
	NotAfter time.Time `json:"notAfter"`
}

// Error is a refusal.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Refusal is the body of every answer but 2xx.
type Refusal struct {
	Error      Error     `json:"error"`
	ServerTime time.Time `json:"serverTime"`
	RetryAfter int64     `json:"retryAfterSeconds,omitempty"` // 0: nothing to wait for; ask again when something changed
}

// EventsRequest is an upload of error events.
type EventsRequest struct {
	Version int     `json:"version"`
	Events  []Event `json:"events"`
}

// Event is something that happened Count times on a device (sphere §10).
type Event struct {
	Type        string    `json:"type"`
	Class       string    `json:"class"`
	Category    string    `json:"category,omitempty"`
	Description string    `json:"description"`
	Count       int64     `json:"count"`
	Start       time.Time `json:"startTimeUtc"`
	End         time.Time `json:"endTimeUtc"`
}

// Errors of parsers.
var (
	// ErrMalformed is a message that breaks a rule of its form.
	ErrMalformed = errors.New("attestation: malformed")
	// ErrVersion is a message of another version of the protocol.
	ErrVersion = errors.New("attestation: unsupported version")
	// ErrWeakKey is a key that is not ECDSA on P-256.
	ErrWeakKey = errors.New("attestation: a key that is not ECDSA P-256")
	// ErrSignature is a signature that does not verify.
	ErrSignature = errors.New("attestation: the signature does not verify")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// Decode reads one JSON document of at most limit bytes into v, which has a version among its members. Members nobody knows
// are refused: what is signed must not say more than is read.
func Decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return malformed("%d bytes are more than %d", len(b), limit)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return malformed("%v", err)
	}
	if head.Version != Version {
		return fmt.Errorf("%w: %d, want %d", ErrVersion, head.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return malformed("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("something follows the document")
	}
	return nil
}

// ParseNonceRequest reads and checks a request.
func ParseNonceRequest(b []byte) (NonceRequest, error) {
	var q NonceRequest
	if err := Decode(b, MaxNonceRequest, &q); err != nil {
		return NonceRequest{}, err
	}
	if !isHex(q.DeviceID, 128) {
		return NonceRequest{}, malformed("deviceId is not 128 lower-case hex digits")
	}
	if q.TPM != nil && (len(q.TPM.Endorsement) > MaxTPMPart || len(q.TPM.Attestation) > MaxTPMPart) {
		return NonceRequest{}, malformed("a public area has at most %d bytes", MaxTPMPart)
	}
	return q, nil
}

// ParseEvidence reads evidence and the statement inside and checks their form, but proves nothing.
func ParseEvidence(b []byte) (Evidence, Statement, error) {
	var e Evidence
	var s Statement
	if err := Decode(b, MaxEvidence, &e); err != nil {
		return Evidence{}, Statement{}, err
	}
	if err := Decode(e.Statement, MaxStatement, &s); err != nil {
		return Evidence{}, Statement{}, fmt.Errorf("statement: %w", err)
	}
	if err := s.check(); err != nil {
		return Evidence{}, Statement{}, err
	}
	for _, sig := range [][]byte{e.Device, e.Client, e.Update} {
		if len(sig) == 0 || len(sig) > MaxSignature {
			return Evidence{}, Statement{}, malformed("three signatures of at most %d bytes are wanted", MaxSignature)
		}
	}
	if (s.Kind == TPM) != (e.TPM != nil) {
		return Evidence{}, Statement{}, malformed("evidence of kind %q and the member tpm do not fit", s.Kind)
	}
	if q := e.TPM; q != nil && (len(q.Attestation) > MaxTPMPart || len(q.Quote) > MaxTPMPart || len(q.Signature) > MaxTPMPart) {
		return Evidence{}, Statement{}, malformed("a part of the TPM's has at most %d bytes", MaxTPMPart)
	}
	return e, s, nil
}

func (s *Statement) check() error {
	switch {
	case s.Kind != Software && s.Kind != TPM:
		return malformed("kind %q is unknown", s.Kind)
	case !isHex(s.DeviceID, 128):
		return malformed("deviceId is not 128 lower-case hex digits")
	case s.Nonce == "" || len(s.Nonce) > MaxNonce:
		return malformed("nonce has 1 to %d characters", MaxNonce)
	case !isHex(s.BootID, 32):
		return malformed("bootId is not 32 lower-case hex digits")
	case s.BootCounter == 0 || s.BootCounter > 1<<53 || s.Sequence == 0 || s.Sequence > 1<<53:
		return malformed("bootCounter and sequence begin with 1 and end with 2^53")
	case s.Time.Year() < 1970 || s.Time.Year() > 9999:
		return malformed("time is out of range")
	case !isVersion(s.OSVersion):
		return malformed("osVersion is numbers with dots between, of at most %d characters", MaxOSVersion)
	case len(s.Images) > MaxImages:
		return malformed("more than %d images", MaxImages)
	case len(s.Capabilities) > MaxCapabilities:
		return malformed("more than %d capabilities", MaxCapabilities)
	case (s.Kind == TPM) != (len(s.Credential) > 0) || len(s.Credential) > sha256.Size:
		return malformed("credential has up to %d bytes and belongs to kind %q", sha256.Size, TPM)
	}
	switch s.State {
	case "", "Blank", "Module1Complete", "DeviceComplete", "Unknown":
	default:
		return malformed("manufacturingState %q is unknown", s.State)
	}
	seen := make(map[string]bool, len(s.Images))
	for _, i := range s.Images {
		if !isGUID(i.Component) || !isGUID(i.ID) || !isHex(i.SHA256, 64) {
			return malformed("an image has two GUIDs and a SHA-256, in lower case")
		}
		if seen[i.Component] {
			return malformed("component %s was measured twice", i.Component)
		}
		seen[i.Component] = true
	}
	return nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isGUID(s string) bool {
	return len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && isHex(strings.ReplaceAll(s, "-", ""), 32)
}

func isVersion(s string) bool {
	if s == "" || len(s) > MaxOSVersion {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 9 || strings.Trim(part, "0123456789") != "" {
			return false
		}
	}
	return true
}

// Roles of signatures over a statement. Each key signs for its own role, so that no signature passes for another's.
const (
	RoleDevice = "device"
	RoleClient = "client"
	RoleUpdate = "update"
	roleQuote  = "quote"
)

const tag = "Vauban attestation 1\x00"

func digest(role string, statement []byte) []byte {
	h := sha256.New()
	h.Write([]byte(tag + role + "\x00"))
	h.Write(statement)
	return h.Sum(nil)
}

// QualifyingData is what a TPM quotes beside its PCR, so that the quote is about this statement alone.
func QualifyingData(statement []byte) []byte { return digest(roleQuote, statement) }

// Sign signs the bytes of a statement for a role.
func Sign(key crypto.Signer, role string, statement []byte) ([]byte, error) {
	return key.Sign(rand.Reader, digest(role, statement), crypto.SHA256)
}

// Verify checks a signature of Sign; ErrSignature.
func Verify(key *ecdsa.PublicKey, role string, statement, signature []byte) error {
	if len(signature) > MaxSignature || !ecdsa.VerifyASN1(key, digest(role, statement), signature) {
		return fmt.Errorf("%w: of the %s key", ErrSignature, role)
	}
	return nil
}

// ParseKey reads a SubjectPublicKeyInfo; ErrWeakKey for any key that is not ECDSA on P-256 in its one DER encoding.
func ParseKey(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) == 0 || len(der) > MaxKey {
		return nil, fmt.Errorf("%w: %d bytes", ErrWeakKey, len(der))
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWeakKey, err)
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: %T", ErrWeakKey, k)
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, der) {
		return nil, fmt.Errorf("%w: not encoded as is usual", ErrWeakKey)
	}
	return key, nil
}

// EndorsementHash is how manufacture records name the endorsement key of a TPM: the SHA-256 of its SubjectPublicKeyInfo, in hex.
func EndorsementHash(key *rsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Measurement is what the PCR is extended with for an image.
func Measurement(i Image) ([]byte, error) {
	if !isGUID(i.Component) || !isGUID(i.ID) || !isHex(i.SHA256, 64) {
		return nil, malformed("an image has two GUIDs and a SHA-256, in lower case")
	}
	b, err := hex.DecodeString(strings.ReplaceAll(i.Component+i.ID, "-", "") + i.SHA256)
	if err != nil {
		return nil, malformed("%v", err)
	}
	h := sha256.New()
	h.Write([]byte("Vauban measured image 1\x00"))
	h.Write(b)
	return h.Sum(nil), nil
}

// PCRValue is what the PCR holds after these images were measured, in this order, since the start.
func PCRValue(images []Image) ([]byte, error) {
	value := make([]byte, sha256.Size)
	for _, i := range images {
		m, err := Measurement(i)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append(value, m...))
		value = sum[:]
	}
	return value, nil
}
