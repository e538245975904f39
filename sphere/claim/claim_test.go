package claim_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/sphere/claim"
)

const tenant, other = "0a1b2c3d-0000-4000-8000-00000000000f", "0a1b2c3d-0000-4000-8000-00000000000e"

var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func TestMinter(t *testing.T) {
	t.Parallel()
	key := secret.Random(32)
	m, same, stranger := claim.NewMinter(key), claim.NewMinter(key), claim.NewMinter(secret.Random(32))
	text, err := m.Mint(tenant, now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := same.Open(text, strings.ToUpper(tenant), now) // on another server
	if err != nil || !c.Expires.Equal(now.Add(claim.Life)) || len(c.Nonce) != 32 {
		t.Errorf("got %+v, %v", c, err)
	}
	next, err := m.Mint(tenant, now)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := m.Open(next, tenant, now); err != nil || d.Nonce == c.Nonce {
		t.Errorf("the next is %+v, %v", d, err)
	}
	bad := func(what string, m *claim.Minter, text, tenant string, at time.Time) {
		t.Helper()
		if c, err := m.Open(text, tenant, at); !fault.Is(err, fault.Invalid) || c != (claim.Challenge{}) {
			t.Errorf("%s: got %+v, %v", what, c, err)
		}
	}
	bad("of another key", stranger, text, tenant, now)
	bad("for another tenant", m, text, other, now)
	bad("for no tenant", m, text, "x", now)
	bad("at its end", m, text, tenant, now.Add(claim.Life))
	if _, err := m.Open(text, tenant, now.Add(claim.Life-time.Second)); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 1
		bad("changed", m, base64.RawURLEncoding.EncodeToString(raw), tenant, now)
		raw[i] ^= 1
	}
	for n := range len(text) {
		bad("cut", m, text[:n], tenant, now)
	}
	for _, id := range []string{"", "x", tenant[:35], strings.Repeat("-", 36), "0a1b2c3d000040008000000000000000000f"} {
		if _, err := m.Mint(id, now); !fault.Is(err, fault.Invalid) {
			t.Errorf("for %q: %v", id, err)
		}
	}
}

func signers(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ECDSA": ec, "RSA": rs, "Ed25519": ed}
}

func TestSign(t *testing.T) {
	t.Parallel()
	all := signers(t)
	for name, key := range all {
		signature, err := claim.Sign(key, "challenge")
		if err != nil {
			t.Fatal(err)
		}
		voucher, err := claim.SignVoucher(key, strings.ToUpper(tenant))
		if err != nil {
			t.Fatal(err)
		}
		if err := claim.Verify(key.Public(), "challenge", signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := claim.VerifyVoucher(key.Public(), tenant, voucher); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, err := range map[string]error{
			"another challenge":      claim.Verify(key.Public(), "other", signature),
			"no signature":           claim.Verify(key.Public(), "challenge", nil),
			"a long signature":       claim.Verify(key.Public(), "challenge", make([]byte, 600)),
			"a voucher as signature": claim.Verify(key.Public(), tenant, voucher),
			"a signature as voucher": claim.VerifyVoucher(key.Public(), "challenge", signature),
			"another tenant":         claim.VerifyVoucher(key.Public(), other, voucher),
			"no key":                 claim.Verify(nil, "challenge", signature),
		} {
			if !fault.Is(err, fault.Unauthorized) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for other, k := range all {
			if err := claim.Verify(k.Public(), "challenge", signature); other != name && !fault.Is(err, fault.Unauthorized) {
				t.Errorf("the signature of %s is taken for one of %s", name, other)
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	m := claim.NewMinter(secret.New(make([]byte, 32)))
	text, err := m.Mint(tenant, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, tenant)
	f.Add("", "")
	f.Fuzz(func(t *testing.T, challenge, id string) {
		c, err := m.Open(challenge, id, now)
		if err == nil && (challenge != text && challenge == "" || c.Nonce == "") {
			t.Errorf("got %+v", c)
		}
		if err == nil && challenge != text && len(challenge) != len(text) {
			t.Errorf("%q was taken", challenge)
		}
	})
}
