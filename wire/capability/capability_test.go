package capability_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vauban-iot/vauban/wire/capability"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func signer(t testing.TB, curve elliptic.Curve) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func device(b byte) (id [64]byte) {
	copy(id[:], bytes.Repeat([]byte{b}, 64))
	return id
}

func file() *capability.File {
	return &capability.File{
		DeviceID: device(0xd1), Capabilities: []capability.ID{capability.AppDevelopment, capability.FieldServicing},
		Built: now, Expires: now.Add(time.Hour),
	}
}

// The offsets are those of the dissected file (sphere §7.1).
func TestSign_Layout(t *testing.T) {
	cert, key := signer(t, elliptic.P256())
	for _, expires := range []time.Time{{}, now.Add(time.Hour)} {
		f := file()
		f.Expires = expires
		b, err := f.Sign(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		size, length, sections := 392, 124, 3
		if !expires.IsZero() {
			size, length, sections = 404, 136, 4
			if got := b[size-64-4-12 : size-64-4]; !bytes.Equal(got[:4], []byte("EX\x08\x00")) || le.Uint64(got[4:]) != uint64(expires.Unix()) {
				t.Errorf("the expiry is %x", got)
			}
		}
		if len(b) != size {
			t.Fatalf("%d bytes, want %d", len(b), size)
		}
		// The reading rule of sphere §5.1.
		if got := int(le.Uint32(b[size-64-4:])); got != length {
			t.Errorf("metadata has %d bytes, want %d", got, length)
		}
		m := b[size-64-length:]
		if string(m[:4]) != "4X4M" || int(le.Uint32(m[4:])) != sections || size-64-length != 204 {
			t.Errorf("metadata begins %x at %d", m[:8], size-64-length)
		}
		for _, want := range []struct {
			at  int
			hex string
		}{
			{0, "fd5cfd5c01000000cc000000"}, {12, strings.Repeat("d1", 64)}, {76, "0b0000000d00000000000000"},
			{212, "494424000d000000" + "d8b52841c2ab55419a338a1f31ed67ec"}, {252, "53471800" + hex.EncodeToString(thumb(cert)) + "01000000"},
			{280, "44422800"}, {292, hex.EncodeToString([]byte("fw_config\x00"))},
		} {
			if got := hex.EncodeToString(b[want.at : want.at+len(want.hex)/2]); got != want.hex {
				t.Errorf("at %d stands %s, want %s", want.at, got, want.hex)
			}
		}
		got, err := capability.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(f, got, cmpopts.IgnoreUnexported(capability.File{})); d != "" {
			t.Errorf("read back it is another:\n%s", d)
		}
	}
}

func thumb(c *x509.Certificate) []byte { s := sha1.Sum(c.Raw); return s[:] }

func TestVerify(t *testing.T) {
	cert, key := signer(t, elliptic.P256())
	other, otherKey := signer(t, elliptic.P256())
	check := capability.Check{DeviceID: device(0xd1), Now: now, Signers: []*x509.Certificate{other, cert}}
	for _, test := range []struct {
		name   string
		file   func(*capability.File)
		check  func(*capability.Check)
		signed func(b []byte)
		want   error
	}{
		{name: "good"},
		{name: "another device's", file: func(f *capability.File) { f.DeviceID = device(2) }, want: capability.ErrOtherDevice},
		{name: "one bit of the device id differs", file: func(f *capability.File) { f.DeviceID[63] ^= 1 }, want: capability.ErrOtherDevice},
		{name: "at the second it expires", check: func(c *capability.Check) { c.Now = now.Add(time.Hour) }, want: capability.ErrExpired},
		{name: "a second before", check: func(c *capability.Check) { c.Now = now.Add(time.Hour - time.Second) }},
		{name: "a clock a little behind", check: func(c *capability.Check) { c.Now = now.Add(-capability.Skew) }},
		{name: "a clock far behind", check: func(c *capability.Check) { c.Now = now.Add(-time.Hour) }, want: capability.ErrNotYet},
		{name: "without end", file: func(f *capability.File) { f.Expires = time.Time{} }, want: capability.ErrEndless},
		{name: "without end, where that is taken", file: func(f *capability.File) { f.Expires = time.Time{} }, check: func(c *capability.Check) { c.Endless = true }},
		{name: "nobody is trusted", check: func(c *capability.Check) { c.Signers = nil }, want: capability.ErrSigner},
		{name: "an unknown signer", check: func(c *capability.Check) { c.Signers = []*x509.Certificate{other} }, want: capability.ErrSigner},
		{name: "the name of a trusted signer on another's signature", signed: func(b []byte) { copy(b[256:], thumb(other)) }, want: capability.ErrSignature},
		{name: "a later expiry written in", signed: func(b []byte) { b[404-64-4-8+2]++ }, want: capability.ErrSignature},
		{name: "a capability written in", signed: func(b []byte) { b[84] = 12 }, want: capability.ErrSignature},
		{name: "no signature", signed: func(b []byte) { clear(b[404-64:]) }, want: capability.ErrSignature},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, c := file(), check
			if test.file != nil {
				test.file(f)
			}
			if test.check != nil {
				test.check(&c)
			}
			b, err := f.Sign(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			if test.signed != nil {
				test.signed(b)
			}
			got, err := capability.ParseHeader(capability.EncodeHeader(b))
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Verify(c); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	b, err := file().Sign(other, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 { // every flipped bit is noticed
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if f, err := capability.Parse(bad); err == nil && f.Verify(check) == nil {
			t.Fatalf("with bit %d flipped the file still counts", i)
		}
	}
}

func TestSign_Refuses(t *testing.T) {
	cert, key := signer(t, elliptic.P256())
	weak, weakKey := signer(t, elliptic.P224())
	other, _ := signer(t, elliptic.P256())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file().Sign(cert, rsaKey); err == nil {
		t.Error("signed with RSA")
	}
	if _, err := file().Sign(weak, weakKey); err == nil {
		t.Error("signed on P-224")
	}
	if _, err := file().Sign(other, key); err == nil {
		t.Error("signed with a key that is not the certificate's")
	}
	for name, change := range map[string]func(*capability.File){
		"33 capabilities": func(f *capability.File) { f.Capabilities = make([]capability.ID, 33) },
		"a zero":          func(f *capability.File) { f.Capabilities = []capability.ID{0} },
		"one twice":       func(f *capability.File) { f.Capabilities = []capability.ID{11, 11} },
		"a long name":     func(f *capability.File) { f.Name = strings.Repeat("x", 33) },
		"before 1970":     func(f *capability.File) { f.Built = time.Unix(-1, 0) },
		"expiry in 1970":  func(f *capability.File) { f.Expires = time.Unix(0, 0) },
	} {
		f := file()
		change(f)
		if _, err := f.Sign(cert, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestParse_Refuses(t *testing.T) {
	cert, key := signer(t, elliptic.P256())
	good, err := file().Sign(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	set := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "this one 0"},
		{"short", good[:403], "this one 403"},
		{"long", append(bytes.Clone(good), 0), "this one 405"},
		{"magic", set(0, 0), "magic"},
		{"version", set(4, 2), "version 2"},
		{"body length", set(8, 0xcd), "the body has 205"},
		{"gap", set(76, 0), "gap"},
		{"twice", set(80, 11), "twice"},
		{"metadata magic", set(204, 0), "follow the body"},
		{"metadata length", set(404-64-4, 124), "follow the body"},
		{"metadata length overflows", set(404-64-4, 0xff, 0xff, 0xff, 0xff), "follow the body"},
		{"section count", set(208, 3), "3 sections"},
		{"section size", set(214, 0xff, 0xff), "sections are not"},
		{"section order", set(212, 'S', 'G'), "sections are not"},
		{"another image", set(216, 10), "another kind"},
		{"another component", set(220, 0), "another kind"},
		{"signature type", set(276, 2), "not ECDSA"},
		{"hidden behind the name", set(323, 1), "end of the name"},
		{"year 10000", set(284, 0xff, 0xff, 0xff, 0xff, 0xff), "build is out of range"},
		{"expiry zero", set(328, 0, 0, 0, 0, 0, 0, 0, 0), "expiry is out of range"},
	} {
		if _, err := capability.Parse(test.b); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		}
	}
	for _, h := range []string{"", "%%%", strings.Repeat("A", 1<<20), capability.EncodeHeader(good) + "\n"} {
		if _, err := capability.ParseHeader(h); err == nil {
			t.Errorf("a header of %d bytes is taken", len(h))
		}
	}
}

func TestParseID(t *testing.T) {
	for s, want := range map[string]capability.ID{"appDevelopment": 11, "ApplicationDevelopment": 11, "FieldServicing": 13, "fieldservicing": 13} {
		if got, err := capability.ParseID(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := capability.ParseID("7"); err == nil {
		t.Error("a number is a name")
	}
	if s := capability.ID(7).String(); s != "7" {
		t.Errorf("7 reads %q", s)
	}
}

func FuzzParse(f *testing.F) {
	cert, key := signer(f, elliptic.P256())
	for _, expires := range []time.Time{{}, now} {
		c := file()
		c.Expires = expires
		b, err := c.Sign(cert, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := capability.Parse(b)
		if err != nil {
			if c != nil {
				t.Fatal("half a file comes with an error")
			}
			return
		}
		if len(c.Capabilities) > 32 || len(c.Name) > 32 {
			t.Fatal("over its limits")
		}
		again, err := c.Sign(cert, key)
		if err != nil {
			if c.Name == "" {
				return
			}
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := capability.Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, back, cmpopts.IgnoreUnexported(capability.File{})); d != "" {
			t.Fatal(d)
		}
	})
}
