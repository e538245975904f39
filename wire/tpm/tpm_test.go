package tpm_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/wire/tpm"
	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

// public is a TPM2B_PUBLIC of an RSA-2048 storage key, changed by change before its size is put before it.
func public(change func(b []byte) []byte) []byte {
	var b []byte
	u16 := func(vs ...uint16) {
		for _, v := range vs {
			b = binary.BigEndian.AppendUint16(b, v)
		}
	}
	u16(0x0001, 0x000B)                           // RSA, SHA-256
	b = binary.BigEndian.AppendUint32(b, 0x30472) // restricted, decrypt, noDA, userWithAuth, sensitiveDataOrigin, fixedParent, fixedTPM
	u16(0)                                        // no policy
	u16(0x0006, 128, 0x0043, 0x0010, 2048)        // AES-128 CFB, no scheme, bits
	b = binary.BigEndian.AppendUint32(b, 0)
	u16(256)
	b = append(b, bytes.Repeat([]byte{0xC3}, 256)...)
	if change != nil {
		b = change(b)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func TestParsePublic(t *testing.T) {
	good, err := tpm.ParsePublic(public(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(good.Bytes(), public(nil)) {
		t.Error("the bytes changed on the way")
	}
	if id := tpm.RegistrationID(good); len(id) != 52 || strings.ToLower(id) != id || strings.Contains(id, "=") {
		t.Errorf("registration id %q", id)
	}
	set := func(at int, vs ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], vs); return b }
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "ends early"},
		{"only a size", []byte{1, 0}, "ends early"},
		{"cut", public(nil)[:100], "ends early"},
		{"bytes behind", append(public(nil), 0), "follow the public area"},
		{"bytes inside", public(func(b []byte) []byte { return append(b, 0) }), "inside the public area"},
		{"a modulus longer than the structure", public(set(24, 0xff, 0xff)), "ends early"},
		{"too large", public(func(b []byte) []byte { return append(b, make([]byte, 2048)...) }), "at most 1024"},
		{"an elliptic curve", public(set(0, 0, 0x23)), "RSA (0x0001) is wanted"},
		{"SHA-1 names", public(set(2, 0, 4)), "SHA-256 (0x000b) is wanted"},
		{"a signing key", public(set(4, 0, 7, 4, 0x72)), "no storage key"},
		{"not restricted", public(set(4, 0, 2, 4, 0x72)), "no storage key"},
		{"AES-CBC", public(set(14, 0, 0x42)), "other means than AES"},
		{"AES-64", public(set(12, 0, 64)), "other means than AES"},
		{"a scheme", public(set(16, 0, 0x17)), "no scheme"},
		{"1024 bits", public(func(b []byte) []byte {
			b = append(b[:24:24], 0, 128)
			return set(18, 4, 0)(append(b, bytes.Repeat([]byte{0xC3}, 128)...))
		}), "2048 to 4096 bits"},
		{"bits that are not the modulus's", public(set(18, 16, 0)), "2048 to 4096 bits"},
		{"a modulus that begins with zero", public(set(26, 0)), "2048 to 4096 bits"},
		{"an even modulus", public(func(b []byte) []byte { b[len(b)-1] = 2; return b }), "2048 to 4096 bits"},
		{"exponent 3", public(set(20, 0, 0, 0, 3)), "exponent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := tpm.ParsePublic(test.b)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, %v; want an error with %q", p, err, test.want)
			}
		})
	}
}

// A TPM is the judge: it opens what was made for it, and MACs with the key inside.
func TestActivation(t *testing.T) {
	dev := tpmtest.New(t)
	endorsement, err := tpm.ParsePublic(dev.Endorsement)
	if err != nil {
		t.Fatal(err)
	}
	storage, err := tpm.ParsePublic(dev.Storage)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{bytes.Repeat([]byte{7}, 32), []byte("another key")} {
		blob, err := tpm.Activation(endorsement, storage, key, "scope/registrations/d")
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Activate(blob); err != nil {
			t.Fatalf("the TPM refuses: %v", err)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte("data"))
		if got := dev.MAC(t, []byte("data")); !bytes.Equal(got, mac.Sum(nil)) {
			t.Error("the TPM holds another key")
		}
		for _, at := range []int{3, 40, 80, 340, 400, len(blob) - 60} { // in each part
			bad := bytes.Clone(blob)
			bad[at] ^= 1
			if at < len(blob)-60 && dev.Activate(bad) == nil {
				t.Errorf("with bit %d changed the TPM takes it", at*8)
			}
		}
	}

	// One that was made for other keys opens nowhere else.
	other := tpmtest.New(t)
	blob, err := tpm.Activation(endorsement, storage, []byte("key"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Activate(blob); err == nil {
		t.Error("another TPM opens it")
	}
	foreign, err := tpm.ParsePublic(other.Storage)
	if err != nil {
		t.Fatal(err)
	}
	if blob, err = tpm.Activation(endorsement, foreign, []byte("key"), ""); err != nil {
		t.Fatal(err)
	}
	if err := dev.Activate(blob); err == nil {
		t.Error("it opens beside another storage root key than it was made for")
	}
	if err := other.Activate(blob); err == nil {
		t.Error("it opens without the endorsement key")
	}
}

func TestActivation_Limits(t *testing.T) {
	p, err := tpm.ParsePublic(public(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		key []byte
		uri string
	}{{nil, ""}, {make([]byte, 65), ""}, {make([]byte, 32), strings.Repeat("x", 513)}} {
		if _, err := tpm.Activation(p, p, test.key, test.uri); err == nil {
			t.Errorf("a key of %d bytes with a URI of %d is taken", len(test.key), len(test.uri))
		}
	}
}

func FuzzParsePublic(f *testing.F) {
	f.Add(public(nil))
	f.Add(public(func(b []byte) []byte { b[0] = 9; return b }))
	f.Add([]byte{0, 4, 0, 1, 0, 11})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := tpm.ParsePublic(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Bytes(), b) {
			t.Fatal("what was read is not what is written")
		}
		q, err := tpm.ParsePublic(p.Bytes())
		if err != nil || !p.Equal(q) || !bytes.Equal(p.Name(), q.Name()) {
			t.Fatalf("read again it is another: %v", err)
		}
		if _, err := tpm.Activation(p, p, []byte("key"), "uri"); err != nil {
			t.Fatalf("a key that was read cannot be used: %v", err)
		}
	})
}

func FuzzParseBlob(f *testing.F) {
	p, err := tpm.ParsePublic(public(nil))
	if err != nil {
		f.Fatal(err)
	}
	blob, err := tpm.Activation(p, p, []byte("key"), "uri")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := tpm.ParseBlob(b)
		if err != nil {
			return
		}
		n := 0
		for _, part := range [][]byte{parts.Credential, parts.CredentialSeed, parts.Duplicate, parts.DuplicateSeed, parts.Public, parts.URI} {
			n += 2 + len(part)
		}
		if n > len(b)+2 {
			t.Fatalf("%d bytes out of %d", n, len(b))
		}
	})
}
