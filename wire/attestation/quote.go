package attestation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// PCR is the register of the SHA-256 bank that images are measured into: one of those (8 to 15) that only a start of the
// machine resets.
const PCR = 14

// ErrQuote is a part of a TPM's that is not what this protocol takes.
var ErrQuote = errors.New("attestation: the TPM's evidence is not acceptable")

func badQuote(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrQuote}, args...)...)
}

// Numbers of TCG's "Trusted Platform Module Library", revision 1.59, Part 2, 6.3, 6.4, 6.9 and 8.3.
const (
	generated = 0xFF544347 // TPM_GENERATED_VALUE: begins only what a TPM made itself
	attQuote  = 0x8018
	algECC    = 0x0023
	algECDSA  = 0x0018
	algSHA256 = 0x000B
	algNull   = 0x0010
	curveP256 = 0x0003

	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
)

// reader takes a structure apart. After a failure it gives zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if r.failed || n > len(r.b) {
		r.failed = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) number(n int) (v uint64) {
	for _, c := range r.bytes(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) sized() []byte { return r.bytes(int(r.number(2))) }

// AttestationKey is a key that signs only what its TPM made, and that never leaves it.
type AttestationKey struct {
	Key  *ecdsa.PublicKey
	Name []byte // what the TPM calls it (Part 1, 16)
}

// ParseAttestationKey reads a TPM2B_PUBLIC; ErrQuote unless it is a restricted ECDSA P-256 signing key, made in its TPM and fixed to it.
func ParseAttestationKey(b []byte) (AttestationKey, error) {
	if len(b) > MaxTPMPart {
		return AttestationKey{}, badQuote("a public area of %d bytes", len(b))
	}
	outer := reader{b: b}
	raw := outer.sized()
	if outer.failed || len(outer.b) > 0 {
		return AttestationKey{}, badQuote("the public area's size is wrong")
	}
	r := reader{b: raw}
	kind, names, attributes := r.number(2), r.number(2), r.number(4)
	r.sized() // policy: whoever has the key knows it
	symmetric, scheme, hash, curve, kdf := r.number(2), r.number(2), r.number(2), r.number(2), r.number(2)
	x, y := r.sized(), r.sized()
	const need = fixedTPM | fixedParent | sensitiveDataOrigin | restricted | sign
	switch {
	case r.failed || len(r.b) > 0:
		return AttestationKey{}, badQuote("the public area is no ECDSA key's")
	case kind != algECC || names != algSHA256 || symmetric != algNull || scheme != algECDSA || hash != algSHA256 || curve != curveP256 || kdf != algNull:
		return AttestationKey{}, badQuote("the attestation key is not ECDSA P-256 with SHA-256")
	case attributes&need != need || attributes&decrypt != 0:
		return AttestationKey{}, badQuote("the attestation key is not restricted to signing, or not fixed to its TPM (attributes %#x)", attributes)
	case len(x) > 32 || len(y) > 32:
		return AttestationKey{}, badQuote("the attestation key's point is too long")
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(x):], x)
	copy(point[65-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return AttestationKey{}, badQuote("the attestation key is not on its curve")
	}
	sum := sha256.Sum256(raw)
	return AttestationKey{Key: key, Name: append(binary.BigEndian.AppendUint16(nil, algSHA256), sum[:]...)}, nil
}

// Quote is what a TPM says of its PCR.
type Quote struct {
	Qualifying  []byte
	ResetCount  uint32 // starts of the machine
	PCRs        []int  // of the SHA-256 bank, ascending
	PCRDigest   []byte
	Restarts    uint32
	ClockMillis uint64
}

// ParseQuote reads a TPMS_ATTEST; ErrQuote unless it is a quote of one selection of the SHA-256 bank.
func ParseQuote(b []byte) (Quote, error) {
	if len(b) > MaxTPMPart {
		return Quote{}, badQuote("a quote of %d bytes", len(b))
	}
	r := reader{b: b}
	magic, kind := r.number(4), r.number(2)
	r.sized() // name of the signer: its signature says so better
	q := Quote{Qualifying: bytes.Clone(r.sized()), ClockMillis: r.number(8), ResetCount: uint32(r.number(4)), Restarts: uint32(r.number(4))}
	r.number(1) // safe
	r.number(8) // firmware
	if r.failed || magic != generated || kind != attQuote {
		return Quote{}, badQuote("it is no quote")
	}
	if n := r.number(4); n != 1 {
		return Quote{}, badQuote("%d selections of PCRs, want one", n)
	}
	bank, selection := r.number(2), r.bytes(int(r.number(1)))
	if bank != algSHA256 {
		return Quote{}, badQuote("the bank of PCRs is not SHA-256's")
	}
	for i, c := range selection {
		for bit := range 8 {
			if c&(1<<bit) != 0 {
				q.PCRs = append(q.PCRs, 8*i+bit)
			}
		}
	}
	q.PCRDigest = bytes.Clone(r.sized())
	if r.failed || len(r.b) > 0 {
		return Quote{}, badQuote("the quote's size is wrong")
	}
	return q, nil
}

// VerifyQuoteSignature checks a TPMT_SIGNATURE of a quote; ErrSignature, or ErrQuote for one of another kind.
func VerifyQuoteSignature(key *ecdsa.PublicKey, quote, signature []byte) error {
	r := reader{b: signature}
	alg, hash := r.number(2), r.number(2)
	rr, s := r.sized(), r.sized()
	if len(signature) > MaxTPMPart || r.failed || len(r.b) > 0 || alg != algECDSA || hash != algSHA256 || len(rr) > 32 || len(s) > 32 {
		return badQuote("its signature is not ECDSA P-256 with SHA-256")
	}
	sum := sha256.Sum256(quote)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(rr), new(big.Int).SetBytes(s)) {
		return fmt.Errorf("%w: of the attestation key", ErrSignature)
	}
	return nil
}

// Covers reports whether the quote is of this protocol's PCR alone and holds a value.
func (q *Quote) Covers(value []byte) bool {
	sum := sha256.Sum256(value)
	return slices.Equal(q.PCRs, []int{PCR}) && bytes.Equal(q.PCRDigest, sum[:])
}
