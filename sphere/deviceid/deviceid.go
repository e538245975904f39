// Package deviceid names devices of the Security Service: a device's id is the SHA-512 of its public key, the DER of a
// SubjectPublicKeyInfo, in 128 lower-case hex digits. So an id is no claim by itself but the fingerprint of the key that a
// device must prove to hold. (sphere §4.1 leaves the encoding of the original open; the length is the same.)
//
// Services and devices share this room. It does no I/O.
package deviceid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"

	"github.com/vauban-iot/vauban/fault"
)

// Len is the number of characters of an id.
const Len = 2 * sha512.Size

// MaxKey bounds the DER of a public key, in bytes: RSA-4096 has 550.
const MaxKey = 1024

// Of returns the id of the device with this public key. The error is fault.Invalid for a key that [CheckKey] refuses.
func Of(pub crypto.PublicKey) (string, error) {
	if err := CheckKey(pub); err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "the public key cannot be written as a SubjectPublicKeyInfo")
	}
	return ofDER(der), nil
}

func ofDER(der []byte) string {
	sum := sha512.Sum512(der)
	return hex.EncodeToString(sum[:])
}

// ParseKey reads a SubjectPublicKeyInfo in DER and returns the key and the id of its device. The error is fault.Invalid for
// what is longer than [MaxKey], is no such key, is not the one encoding DER has for it (one key must not have two ids), or is
// refused by [CheckKey].
func ParseKey(der []byte) (crypto.PublicKey, string, error) {
	if len(der) == 0 || len(der) > MaxKey {
		return nil, "", fault.New(fault.Invalid, "a public key has 1 to %d bytes of DER, not %d", MaxKey, len(der))
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, "", fault.Wrap(fault.Invalid, err, "the public key is no SubjectPublicKeyInfo")
	}
	id, err := Of(pub)
	if err != nil {
		return nil, "", err
	}
	if id != ofDER(der) {
		return nil, "", fault.New(fault.Invalid, "the public key is not encoded as Go, OpenSSL and others do; write it again with one of them")
	}
	return pub, id, nil
}

// CheckKey refuses keys that prove nothing: what is not ECDSA on P-256, P-384 or P-521, RSA of 2048 to 4096 bits, or Ed25519.
func CheckKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fault.New(fault.Invalid, "ECDSA keys are on P-256, P-384 or P-521")
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fault.New(fault.Invalid, "RSA keys have 2048 to 4096 bits, not %d", n)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fault.New(fault.Invalid, "keys are ECDSA, RSA or Ed25519")
}

// Parse returns the form in which ids are stored and compared: lower case. The error is fault.Invalid for what is not 128
// hex digits.
func Parse(s string) (string, error) {
	if len(s) != Len {
		return "", fault.New(fault.Invalid, "a device id has %d hex digits", Len)
	}
	b := []byte(s)
	for i, c := range b {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
		case 'A' <= c && c <= 'F':
			b[i] = c + 'a' - 'A'
		default:
			return "", fault.New(fault.Invalid, "a device id has %d hex digits", Len)
		}
	}
	return string(b), nil
}
