// Package claim is how a device shows that it may be claimed for a tenant: it signs a challenge that the Security Service
// made for that tenant, with the key that its id is the hash of (package deviceid).
//
// A [Minter] keeps nothing: a challenge carries its tenant, its end and a nonce, sealed by an HMAC, so asking for
// challenges costs the service no memory. Whoever accepts a proof remembers the nonce until the challenge ends, so that
// it is good for one proof.
//
// A voucher is the same proof made ahead of time: at the factory, where the device is in hand but the service may be out of
// reach, the device signs the id of the tenant it is made for. It is good for that tenant for ever, as a claim is.
//
// What is signed begins with words of this package, so that no other signature of the device key passes for a claim.
// Services and devices share this room. It does no I/O.
package claim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Life is how long a challenge is good for: time to carry it to a device at a bench and back.
const Life = 10 * time.Minute

const (
	version      = 1
	challengeTag = "Vauban device claim 1\x00"
	voucherTag   = "Vauban device claim voucher 1\x00"
	macTag       = "claim challenge\x00"

	tenantBytes = 16
	nonceBytes  = 16
	bodyBytes   = 1 + tenantBytes + 8 + nonceBytes
)

// textLen is the length of a challenge: base64url without padding.
var textLen = base64.RawURLEncoding.EncodedLen(bodyBytes + sha256.Size)

// MaxSignature bounds a signature, in bytes: RSA-4096 has 512.
const MaxSignature = 512

// Minter makes challenges and knows its own again. It is safe for concurrent use.
type Minter struct{ key secret.Secret }

// NewMinter returns a minter. Servers that stand beside each other have the same key, of 32 random bytes.
func NewMinter(key secret.Secret) *Minter { return &Minter{key} }

// Challenge is what a challenge says.
type Challenge struct {
	Nonce   string // 32 hex digits, never twice
	Expires time.Time
}

// Mint makes a challenge for a tenant, which is a GUID. It is text of the base64url alphabet.
func (m *Minter) Mint(tenant string, now time.Time) (string, error) {
	id, err := guid(tenant)
	if err != nil {
		return "", err
	}
	b := append(make([]byte, 0, bodyBytes+sha256.Size), version)
	b = append(b, id...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.Add(Life).Unix()))
	b = b[:bodyBytes]
	rand.Read(b[bodyBytes-nonceBytes:])
	return base64.RawURLEncoding.EncodeToString(m.mac(b)), nil
}

// mac appends the HMAC of body to it.
func (m *Minter) mac(body []byte) []byte {
	h := hmac.New(sha256.New, m.key.Reveal())
	h.Write([]byte(macTag))
	h.Write(body)
	return h.Sum(body)
}

// Open checks that a challenge was minted here, for this tenant, and has not ended. Errors are fault.Invalid, and alike for
// whatever was not minted here.
func (m *Minter) Open(challenge, tenant string, now time.Time) (Challenge, error) {
	unknown := fault.New(fault.Invalid, "the claim challenge is not one that this service made for this tenant; ask for a new one")
	id, err := guid(tenant)
	if err != nil || len(challenge) != textLen {
		return Challenge{}, unknown
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(challenge)
	if err != nil || len(b) != bodyBytes+sha256.Size {
		return Challenge{}, unknown
	}
	body := b[:bodyBytes:bodyBytes]
	if !hmac.Equal(m.mac(body), b) || body[0] != version || !bytes.Equal(body[1:1+tenantBytes], id) {
		return Challenge{}, unknown
	}
	c := Challenge{
		Nonce:   hex.EncodeToString(body[bodyBytes-nonceBytes:]),
		Expires: time.Unix(int64(binary.BigEndian.Uint64(body[1+tenantBytes:])), 0).UTC(),
	}
	if !now.Before(c.Expires) {
		return Challenge{}, fault.New(fault.Invalid, "the claim challenge expired; ask for a new one")
	}
	return c, nil
}

// guid is the 16 bytes of a tenant's id.
func guid(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(s) != 36 || len(b) != tenantBytes {
		return nil, fault.New(fault.Invalid, "a tenant's id is a GUID")
	}
	return b, nil
}

// Sign proves that the holder of key wants what challenge asks. Key is the device key: ECDSA (signatures are ASN.1, over SHA-256),
// RSA (PKCS #1 v1.5, over SHA-256) or Ed25519.
func Sign(key crypto.Signer, challenge string) ([]byte, error) {
	return sign(key, challengeTag, challenge)
}

// Verify checks a signature that [Sign] made. The error is fault.Unauthorized.
func Verify(pub crypto.PublicKey, challenge string, signature []byte) error {
	return verify(pub, challengeTag, challenge, signature)
}

// SignVoucher says ahead of time that the device may be claimed for a tenant, a GUID in any letter case.
func SignVoucher(key crypto.Signer, tenant string) ([]byte, error) {
	return sign(key, voucherTag, strings.ToLower(tenant))
}

// VerifyVoucher checks what [SignVoucher] made. The error is fault.Unauthorized.
func VerifyVoucher(pub crypto.PublicKey, tenant string, signature []byte) error {
	return verify(pub, voucherTag, strings.ToLower(tenant), signature)
}

func sign(key crypto.Signer, tag, text string) ([]byte, error) {
	message := []byte(tag + text)
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

func verify(pub crypto.PublicKey, tag, text string, signature []byte) error {
	message := []byte(tag + text)
	sum := sha256.Sum256(message)
	good := false
	if len(signature) <= MaxSignature {
		switch k := pub.(type) {
		case *ecdsa.PublicKey:
			good = ecdsa.VerifyASN1(k, sum[:], signature)
		case *rsa.PublicKey:
			good = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
		case ed25519.PublicKey:
			good = ed25519.Verify(k, message, signature)
		}
	}
	if !good {
		return fault.New(fault.Unauthorized, "the signature is not one of this device's key over the claim")
	}
	return nil
}
