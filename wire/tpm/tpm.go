// Package tpm reads and writes the structures of TPM 2.0 that provisioning carries (dps §8.4): public areas of
// endorsement and storage root keys, and activation blobs, which hand a key to one TPM and to nobody else.
//
// Part and section numbers are those of TCG's "Trusted Platform Module Library", revision 1.59.
package tpm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Algorithms, of Part 2, 6.3.
const (
	algRSA       = 0x0001
	algHMAC      = 0x0005
	algAES       = 0x0006
	algKeyedHash = 0x0008
	algSHA256    = 0x000B
	algNull      = 0x0010
	algCFB       = 0x0043
)

// Attributes of objects, of Part 2, 8.3.
const (
	userWithAuth = 1 << 6
	noDA         = 1 << 10
	restricted   = 1 << 16
	decrypt      = 1 << 17
	sign         = 1 << 18
)

// MaxPublic is the size beyond which a public area is not read: those of RSA-4096 keys have less.
const MaxPublic = 1024

// Bits of the RSA keys that are taken. Templates of TPMs make 2048 (dps §8.4).
const (
	minBits = 2048
	maxBits = 4096
)

// Public is a storage key: one under which a TPM unwraps what others encrypt.
type Public struct {
	raw  []byte // TPMT_PUBLIC, without the size before it
	key  rsa.PublicKey
	aes  int // bits
	name []byte
}

// Bytes is the TPM2B_PUBLIC.
func (p *Public) Bytes() []byte { return sized(p.raw) }

// Name is what a TPM calls the key (Part 1, 16).
func (p *Public) Name() []byte { return bytes.Clone(p.name) }

// Equal reports whether both are the same key with the same attributes.
func (p *Public) Equal(q *Public) bool { return bytes.Equal(p.raw, q.raw) }

// RegistrationID is the registration id of devices that were given none: made of the endorsement key's TPM2B_PUBLIC (dps §8.4).
func RegistrationID(endorsement *Public) string {
	sum := sha256.Sum256(endorsement.Bytes())
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}

var errShort = errors.New("tpm: the structure ends early")

// reader takes a structure apart. After a failure it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errShort
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u16() int {
	b := r.bytes(2)
	if b == nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

func (r *reader) u32() uint32 {
	b := r.bytes(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) sized() []byte { return r.bytes(r.u16()) }

// ParsePublic reads the TPM2B_PUBLIC of an endorsement or storage root key: a restricted RSA decryption key with
// SHA-256 names and AES in CFB mode. Any other kind is an error.
func ParsePublic(b []byte) (*Public, error) {
	if len(b) > MaxPublic {
		return nil, fmt.Errorf("tpm: a public area has at most %d bytes, this one %d", MaxPublic, len(b))
	}
	outer := reader{b: b}
	raw := outer.sized()
	if outer.err != nil {
		return nil, outer.err
	}
	if len(outer.b) > 0 {
		return nil, fmt.Errorf("tpm: %d bytes follow the public area", len(outer.b))
	}
	r := reader{b: raw}
	kind, names, attributes := r.u16(), r.u16(), r.u32()
	r.sized() // policy: whoever has the key knows it
	if r.err == nil && kind != algRSA {
		return nil, fmt.Errorf("tpm: the key's algorithm is %#04x; RSA (0x0001) is wanted", kind)
	}
	symmetric := r.u16()
	var keyBits, mode int
	if symmetric != algNull {
		keyBits, mode = r.u16(), r.u16()
	}
	scheme := r.u16()
	if r.err == nil && scheme != algNull {
		return nil, errors.New("tpm: a storage key has no scheme")
	}
	bits, exponent := r.u16(), r.u32()
	modulus := r.sized()
	switch {
	case r.err != nil:
		return nil, r.err
	case len(r.b) > 0:
		return nil, errors.New("tpm: bytes follow the key inside the public area")
	case names != algSHA256:
		return nil, fmt.Errorf("tpm: the key's name algorithm is %#04x; SHA-256 (0x000b) is wanted", names)
	case attributes&(restricted|decrypt) != restricted|decrypt || attributes&sign != 0:
		return nil, errors.New("tpm: the key is no storage key: it must be restricted to decryption")
	case symmetric != algAES || mode != algCFB || keyBits != 128 && keyBits != 256:
		return nil, errors.New("tpm: the key protects its children by other means than AES in CFB mode")
	case bits < minBits || bits > maxBits || len(modulus)*8 != bits || modulus[0] < 0x80 || modulus[len(modulus)-1]&1 == 0:
		return nil, fmt.Errorf("tpm: an RSA key of %d to %d bits is wanted", minBits, maxBits)
	}
	if exponent == 0 { // means the usual one (Part 2, 12.2.3.5)
		exponent = 65537
	}
	if exponent < 65537 || exponent&1 == 0 || exponent > 1<<31-1 {
		return nil, fmt.Errorf("tpm: the RSA exponent %d is refused", exponent)
	}
	p := &Public{raw: bytes.Clone(raw), aes: keyBits, key: rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(exponent)}}
	p.name = nameOf(p.raw)
	return p, nil
}

// nameOf is the name of an object with SHA-256 names.
func nameOf(public []byte) []byte {
	sum := sha256.Sum256(public)
	return append(binary.BigEndian.AppendUint16(nil, algSHA256), sum[:]...)
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
}

// kdf is KDFa (Part 1, 11.4.10.2) with SHA-256, for up to one digest.
func kdf(key []byte, label string, context []byte, bits int) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{0, 0, 0, 1})
	h.Write([]byte(label))
	h.Write([]byte{0})
	h.Write(context)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
	return h.Sum(nil)[:bits/8]
}

// cfb encrypts with a key that is used once, so that the zero IV of the library does no harm.
func cfb(key, plain []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, len(plain))
	cipher.NewCFBEncrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(sealed, plain) //nolint:staticcheck // TPMs know no other mode (Part 1, 11.4.9)
	return sealed, nil
}

// wrap protects what for the TPM that holds parent: it gives the integrity value and what, encrypted, and the seed for parent
// alone (Part 1, 23.3.2.4 and 24.4).
func wrap(parent *Public, label string, name, what []byte) (protected, seed []byte, err error) {
	plain := make([]byte, sha256.Size)
	rand.Read(plain)
	if seed, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &parent.key, plain, []byte(label+"\x00")); err != nil {
		return nil, nil, err
	}
	sealed, err := cfb(kdf(plain, "STORAGE", name, parent.aes), what)
	if err != nil {
		return nil, nil, err
	}
	mac := hmac.New(sha256.New, kdf(plain, "INTEGRITY", nil, 256))
	mac.Write(sealed)
	mac.Write(name)
	return append(sized(mac.Sum(nil)), sealed...), seed, nil
}

// Duplicate needs a policy, and this is its only branch: what left for one TPM does not leave that one again, but by this command.
var duplicatePolicy = func() []byte {
	h := sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write([]byte{0, 0, 1, 0x6C, 0, 0, 1, 0x4B}) // TPM_CC_PolicyCommandCode, TPM_CC_Duplicate
	return h.Sum(nil)
}()

// Limits of what an activation blob carries.
const (
	maxKey = 64 // block size of SHA-256: a longer key of HMAC is hashed first
	maxURI = 512
)

// Activation makes the blob by which the TPM that holds both keys, and no other, comes to hold key as an HMAC key
// (dps §8.4): the credential opens with the endorsement key if the storage root key is loaded beside it, and gives the inner
// wrapper of the duplicate. uri says what the key is for; SDKs skip it.
func Activation(endorsement, storage *Public, key []byte, uri string) ([]byte, error) {
	if len(key) == 0 || len(key) > maxKey || len(uri) > maxURI {
		return nil, errors.New("tpm: the key or its URI is too long")
	}
	inner, obfuscation := make([]byte, 16), make([]byte, sha256.Size)
	rand.Read(inner)
	rand.Read(obfuscation)

	// The public area of the key (Part 2, 12.2.4).
	unique := sha256.Sum256(append(bytes.Clone(obfuscation), key...))
	var public []byte
	public = binary.BigEndian.AppendUint16(public, algKeyedHash)
	public = binary.BigEndian.AppendUint16(public, algSHA256)
	public = binary.BigEndian.AppendUint32(public, sign|userWithAuth|noDA)
	public = append(public, sized(duplicatePolicy)...)
	public = binary.BigEndian.AppendUint16(public, algHMAC)
	public = binary.BigEndian.AppendUint16(public, algSHA256)
	public = append(public, sized(unique[:])...)
	name := nameOf(public)

	// Its sensitive area (Part 2, 12.3.2.4) in the inner wrapper (Part 1, 23.3.2.3).
	sensitive := binary.BigEndian.AppendUint16(nil, algKeyedHash)
	sensitive = append(sensitive, sized(nil)...) // no authorization value
	sensitive = append(sensitive, sized(obfuscation)...)
	sensitive = sized(append(sensitive, sized(key)...))
	integrity := sha256.Sum256(append(bytes.Clone(sensitive), name...))
	wrapped, err := cfb(inner, append(sized(integrity[:]), sensitive...))
	if err != nil {
		return nil, err
	}

	duplicate, duplicateSeed, err := wrap(storage, "DUPLICATE", name, wrapped)
	if err != nil {
		return nil, err
	}
	credential, credentialSeed, err := wrap(endorsement, "IDENTITY", storage.name, sized(inner))
	if err != nil {
		return nil, err
	}
	about, err := cfb(inner, []byte(uri))
	if err != nil {
		return nil, err
	}
	var blob []byte
	for _, part := range [...][]byte{credential, credentialSeed, duplicate, duplicateSeed, public, about} {
		blob = append(blob, sized(part)...)
	}
	return blob, nil
}

// Blob is an activation blob taken apart, as a client hands it to its TPM. The sizes before the parts are gone.
type Blob struct {
	Credential     []byte // TPMS_ID_OBJECT
	CredentialSeed []byte // encrypted to the endorsement key
	Duplicate      []byte // _PRIVATE
	DuplicateSeed  []byte // encrypted to the storage root key
	Public         []byte // TPMT_PUBLIC
	URI            []byte // encrypted; empty when there is none
}

// MaxBlob is the size beyond which an activation blob is not read.
const MaxBlob = 8 << 10

// ParseBlob takes an activation blob apart. What follows its six parts is ignored, as clients do.
func ParseBlob(b []byte) (Blob, error) {
	if len(b) > MaxBlob {
		return Blob{}, fmt.Errorf("tpm: an activation blob has at most %d bytes, this one %d", MaxBlob, len(b))
	}
	r := reader{b: b}
	blob := Blob{Credential: r.sized(), CredentialSeed: r.sized(), Duplicate: r.sized(), DuplicateSeed: r.sized(), Public: r.sized()}
	if r.err == nil && len(r.b) > 0 {
		blob.URI = r.sized()
	}
	return blob, r.err
}
