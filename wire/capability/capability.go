// Package capability reads and writes capability files (sphere §7.1): what one device, named in the file, is allowed
// beyond its everyday life, signed by the service it belongs to and good until a time that the file itself carries.
//
//	offset  bytes
//	     0      4  magic 0x5CFD5CFD
//	     4      4  version 1
//	     8      4  length of the body, 204
//	    12     64  device id
//	    76    128  32 capability ids, zeros behind the last one
//	   204    124  metadata: sections ID, SG and DB; 136 with EX
//	   328     64  signature, r and s of ECDSA P-256 over the SHA-256 of all before it
//
// All integers but the signature's are little-endian. Azure's files have these 392 bytes. Ours have a fourth section, EX, with
// the time the file expires (u64, seconds since 1970): 404 bytes. It stands in the metadata because readers find that from
// the end of the file and skip sections they do not know, and because the signature covers it.
package capability

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// Sizes in bytes. Nothing longer than MaxSize is looked at.
const (
	SizeWithoutExpiry = 392
	MaxSize           = SizeWithoutExpiry + expirySize
	DeviceIDSize      = 64

	bodySize      = 204
	signatureSize = 64
	expirySize    = 12
	maxIDs        = 32
)

// Header is the HTTP header that carries a file with each servicing request, in base64.
const Header = "AZSPHERE-CAPABILITIES"

// ID is one capability. The numbers and names are those of Microsoft's own reader
// (azure-sphere-tools, Python package, image metadata).
type ID uint32

// The capabilities that are given to customers.
const (
	AppDevelopment ID = 11 // sideload and debug applications signed with the SDK's key
	RFTest         ID = 12 // radio test tools
	FieldServicing ID = 13 // the whole servicing API on a finished device
)

var names = map[ID]string{AppDevelopment: "appDevelopment", RFTest: "rfTestMode", FieldServicing: "fieldServicing"}

// String is the name that tools show, or the number.
func (id ID) String() string {
	if n, ok := names[id]; ok {
		return n
	}
	return fmt.Sprint(uint32(id))
}

// ParseID takes the names of tools (appDevelopment) and of ARM (ApplicationDevelopment), without case.
func ParseID(s string) (ID, error) {
	if strings.EqualFold(s, "ApplicationDevelopment") {
		return AppDevelopment, nil
	}
	for id, n := range names {
		if strings.EqualFold(s, n) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("capability: there is no capability %q (want appDevelopment or fieldServicing)", s)
}

// Errors of Verify. Each means that the file gives nothing.
var (
	ErrOtherDevice = errors.New("capability: the file is for another device")
	ErrSigner      = errors.New("capability: the signer is not trusted")
	ErrSignature   = errors.New("capability: the signature does not verify")
	ErrExpired     = errors.New("capability: the file has expired")
	ErrNotYet      = errors.New("capability: the file is from the future")
	ErrEndless     = errors.New("capability: the file does not expire")
)

// File is a capability file.
type File struct {
	DeviceID     [DeviceIDSize]byte
	Capabilities []ID // at most 32, none twice
	ImageID      [16]byte
	Signer       [sha1.Size]byte // SHA-1 of the signer's certificate; Sign fills it
	Built        time.Time       // whole seconds
	Expires      time.Time       // whole seconds; zero: never, as in Azure's files
	Name         string          // "fw_config"

	reserved  uint16
	signed    []byte // what the signature covers
	signature [signatureSize]byte
}

const (
	magic         = 0x5CFD5CFD
	version       = 1
	metadataMagic = 0x4D345834 // "4X4M"
	imageType     = 13         // firmware configuration (sphere §5.3)
	signatureType = 1          // ECDSA P-256

	sectionID = 0x4449 // "ID"
	sectionSG = 0x4753 // "SG"
	sectionDB = 0x4244 // "DB"
	sectionEX = 0x5845 // "EX": ours

	nameSize = 32
	maxTime  = 1 << 36 // seconds since 1970; a later year has five digits and breaks whoever prints it
)

// component is the component GUID of every capability file, as its text reads.
var component = [16]byte{0x41, 0x28, 0xb5, 0xd8, 0xab, 0xc2, 0x41, 0x55, 0x9a, 0x33, 0x8a, 0x1f, 0x31, 0xed, 0x67, 0xec}

// mixed turns a GUID between its text's order and the one in files: the first three groups are little-endian.
func mixed(g [16]byte) [16]byte {
	slices.Reverse(g[0:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

// Parse reads a file. It checks the form only; see [File.Verify].
func Parse(b []byte) (*File, error) {
	if len(b) != SizeWithoutExpiry && len(b) != MaxSize {
		return nil, fmt.Errorf("capability: a file has %d or %d bytes, this one %d", SizeWithoutExpiry, MaxSize, len(b))
	}
	le := binary.LittleEndian
	switch {
	case le.Uint32(b) != magic:
		return nil, errors.New("capability: the magic number is another")
	case le.Uint32(b[4:]) != version:
		return nil, fmt.Errorf("capability: version %d is unknown", le.Uint32(b[4:]))
	case le.Uint32(b[8:]) != bodySize:
		return nil, fmt.Errorf("capability: the body has %d bytes, want %d", le.Uint32(b[8:]), bodySize)
	}
	f := &File{signed: bytes.Clone(b[:len(b)-signatureSize])}
	copy(f.signature[:], b[len(f.signed):])
	copy(f.DeviceID[:], b[12:])
	ended := false
	for i := range maxIDs {
		id := ID(le.Uint32(b[76+4*i:]))
		switch {
		case id == 0:
			ended = true
		case ended:
			return nil, errors.New("capability: there is a gap in the list of capabilities")
		case slices.Contains(f.Capabilities, id):
			return nil, fmt.Errorf("capability: %s is listed twice", id)
		default:
			f.Capabilities = append(f.Capabilities, id)
		}
	}
	if err := f.metadata(f.signed[bodySize:]); err != nil {
		return nil, err
	}
	return f, nil
}

// metadata reads the sections, whose number and sizes the length of the file leaves no choice about.
func (f *File) metadata(m []byte) error {
	le := binary.LittleEndian
	expiry := len(f.signed) == MaxSize-signatureSize
	count := 3
	if expiry {
		count++
	}
	if le.Uint32(m) != metadataMagic || int64(le.Uint32(m[len(m)-4:])) != int64(len(m)) {
		return errors.New("capability: the metadata does not follow the body")
	}
	if got := le.Uint32(m[4:]); got != uint32(count) {
		return fmt.Errorf("capability: the metadata has %d sections, want %d", got, count)
	}
	m = m[8:]
	section := func(id uint16, size int) []byte {
		if m == nil || le.Uint16(m) != id || int(le.Uint16(m[2:])) != size {
			m = nil
			return make([]byte, size)
		}
		data := m[4 : 4+size]
		m = m[4+size:]
		return data
	}
	identity, signer, debug := section(sectionID, 36), section(sectionSG, 24), section(sectionDB, 40)
	var expires []byte
	if expiry {
		expires = section(sectionEX, 8)
	}
	if m == nil {
		return errors.New("capability: the sections are not ID, SG, DB and EX, in this order and of their sizes")
	}
	if le.Uint16(identity) != imageType || mixed([16]byte(identity[4:20])) != component {
		return errors.New("capability: the metadata is another kind of image's")
	}
	f.reserved = le.Uint16(identity[2:])
	f.ImageID = mixed([16]byte(identity[20:]))
	f.Signer = [sha1.Size]byte(signer)
	if le.Uint32(signer[sha1.Size:]) != signatureType {
		return errors.New("capability: the signature is not ECDSA P-256")
	}
	name, padding, _ := bytes.Cut(debug[8:], []byte{0})
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return errors.New("capability: bytes follow the end of the name")
	}
	f.Name = string(name)
	built := le.Uint64(debug)
	if built > maxTime {
		return errors.New("capability: the time of build is out of range")
	}
	f.Built = time.Unix(int64(built), 0).UTC()
	if expiry {
		at := le.Uint64(expires)
		if at == 0 || at > maxTime {
			return errors.New("capability: the time of expiry is out of range")
		}
		f.Expires = time.Unix(int64(at), 0).UTC()
	}
	return nil
}

// encode is all but the signature.
func (f *File) encode() ([]byte, error) {
	switch {
	case len(f.Capabilities) > maxIDs:
		return nil, fmt.Errorf("capability: %d capabilities are more than %d", len(f.Capabilities), maxIDs)
	case len(f.Name) > nameSize || strings.IndexByte(f.Name, 0) >= 0:
		return nil, fmt.Errorf("capability: the name %q does not fit", f.Name)
	case f.Built.Unix() < 0 || f.Built.Unix() > maxTime:
		return nil, errors.New("capability: the time of build is out of range")
	case !f.Expires.IsZero() && (f.Expires.Unix() <= 0 || f.Expires.Unix() > maxTime):
		return nil, errors.New("capability: the time of expiry is out of range")
	}
	le := binary.LittleEndian
	b := make([]byte, 0, MaxSize)
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, version)
	b = le.AppendUint32(b, bodySize)
	b = append(b, f.DeviceID[:]...)
	for i, id := range f.Capabilities {
		if id == 0 || slices.Contains(f.Capabilities[:i], id) {
			return nil, fmt.Errorf("capability: %s is listed twice, or no capability", id)
		}
		b = le.AppendUint32(b, uint32(id))
	}
	b = append(b, make([]byte, bodySize-len(b))...)

	count := uint32(3)
	if !f.Expires.IsZero() {
		count++
	}
	b = le.AppendUint32(b, metadataMagic)
	b = le.AppendUint32(b, count)
	section := func(id, size uint16) {
		b = le.AppendUint16(b, id)
		b = le.AppendUint16(b, size)
	}
	guid := func(g [16]byte) {
		g = mixed(g)
		b = append(b, g[:]...)
	}
	section(sectionID, 36)
	b = le.AppendUint16(b, imageType)
	b = le.AppendUint16(b, f.reserved)
	guid(component)
	guid(f.ImageID)
	section(sectionSG, 24)
	b = append(b, f.Signer[:]...)
	b = le.AppendUint32(b, signatureType)
	section(sectionDB, 40)
	b = le.AppendUint64(b, uint64(f.Built.Unix()))
	b = append(b, f.Name...)
	b = append(b, make([]byte, nameSize-len(f.Name))...)
	if !f.Expires.IsZero() {
		section(sectionEX, 8)
		b = le.AppendUint64(b, uint64(f.Expires.Unix()))
	}
	return le.AppendUint32(b, uint32(len(b)+4-bodySize)), nil
}

// Sign writes the file, signed with the key of certificate, an ECDSA one on P-256. ImageID and Name are made when they are
// empty. f itself becomes what was written.
func (f *File) Sign(certificate *x509.Certificate, key crypto.Signer) ([]byte, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || !public.Equal(certificate.PublicKey) {
		return nil, errors.New("capability: a file is signed with an ECDSA P-256 key and its certificate")
	}
	if f.ImageID == [16]byte{} {
		rand.Read(f.ImageID[:])
		f.ImageID[6], f.ImageID[8] = f.ImageID[6]&0x0f|0x40, f.ImageID[8]&0x3f|0x80
	}
	if f.Name == "" {
		f.Name = "fw_config"
	}
	f.Signer = sha1.Sum(certificate.Raw)
	b, err := f.encode()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(b)
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("capability: sign: %w", err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 {
		return nil, errors.New("capability: the key gave no ECDSA signature")
	}
	rs.R.FillBytes(f.signature[:32])
	rs.S.FillBytes(f.signature[32:])
	f.signed = b
	return append(bytes.Clone(b), f.signature[:]...), nil
}

// Skew is how far a clock may be behind the signer's.
const Skew = 5 * time.Minute

// Check says under which conditions a file counts.
type Check struct {
	DeviceID [DeviceIDSize]byte
	Now      time.Time
	Signers  []*x509.Certificate // those that are trusted
	Endless  bool                // take files without expiry, as Azure's are
}

// Verify reports why the file does not count, if it does not. Of several reasons it gives the one that tells least about
// the file: the signature is judged first.
func (f *File) Verify(c Check) error {
	var key *ecdsa.PublicKey
	for _, s := range c.Signers {
		if p, ok := s.PublicKey.(*ecdsa.PublicKey); ok && p.Curve == elliptic.P256() && sha1.Sum(s.Raw) == f.Signer {
			key = p
		}
	}
	if key == nil {
		return fmt.Errorf("%w: %s", ErrSigner, hex.EncodeToString(f.Signer[:]))
	}
	digest := sha256.Sum256(f.signed)
	r, s := new(big.Int).SetBytes(f.signature[:32]), new(big.Int).SetBytes(f.signature[32:])
	if len(f.signed) == 0 || !ecdsa.Verify(key, digest[:], r, s) {
		return ErrSignature
	}
	switch {
	case f.DeviceID != c.DeviceID:
		return ErrOtherDevice
	case f.Expires.IsZero() && !c.Endless:
		return ErrEndless
	case !f.Expires.IsZero() && !c.Now.Before(f.Expires):
		return fmt.Errorf("%w at %s", ErrExpired, f.Expires.Format(time.RFC3339))
	case f.Built.After(c.Now.Add(Skew)):
		return fmt.Errorf("%w: it was made at %s", ErrNotYet, f.Built.Format(time.RFC3339))
	}
	return nil
}

// Has reports whether the file gives a capability.
func (f *File) Has(id ID) bool { return slices.Contains(f.Capabilities, id) }

// EncodeHeader is the value of [Header] for a file.
func EncodeHeader(file []byte) string { return base64.StdEncoding.EncodeToString(file) }

// ParseHeader reads the value of [Header].
func ParseHeader(value string) (*File, error) {
	if len(value) > base64.StdEncoding.EncodedLen(MaxSize) {
		return nil, fmt.Errorf("capability: the header is longer than a file of %d bytes makes it", MaxSize)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, fmt.Errorf("capability: the header is not base64: %w", err)
	}
	return Parse(b)
}
