package deviceid_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere/deviceid"
)

func keys(t testing.TB) map[string]crypto.PublicKey {
	t.Helper()
	all := map[string]crypto.PublicKey{}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all[c.Params().Name] = k.Public()
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	all["RSA"] = k.Public()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all["Ed25519"] = pub
	return all
}

func TestOf(t *testing.T) {
	t.Parallel()
	for name, pub := range keys(t) {
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha512.Sum512(der)
		want := hex.EncodeToString(sum[:])
		id, err := deviceid.Of(pub)
		if err != nil || id != want || len(id) != deviceid.Len {
			t.Errorf("%s: got %q, %v", name, id, err)
		}
		back, id, err := deviceid.ParseKey(der)
		if err != nil || id != want || !back.(interface {
			Equal(x crypto.PublicKey) bool
		}).Equal(pub) {
			t.Errorf("%s: parsed %q, %v", name, id, err)
		}
		if again, err := deviceid.Parse(strings.ToUpper(id)); err != nil || again != id {
			t.Errorf("%s: %q, %v", name, again, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	k, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for what, pub := range map[string]crypto.PublicKey{"P-224": k.Public(), "RSA-1024": weak.Public(), "nothing": nil, "no pointer": rsa.PublicKey{}} {
		if _, err := deviceid.Of(pub); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, s := range []string{"", strings.Repeat("0", 127), strings.Repeat("0", 129), strings.Repeat("g", 128), strings.Repeat("é", 64)} {
		if _, err := deviceid.Parse(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	good, err := x509.MarshalPKIXPublicKey(keys(t)["RSA"])
	if err != nil {
		t.Fatal(err)
	}
	for what, der := range map[string][]byte{
		"nothing": nil, "something after it": append(bytes.Clone(good), 0), "cut": good[:len(good)-1], "too long": make([]byte, deviceid.MaxKey+1),
		// The NULL that an RSA algorithm has may be left out by a sloppy encoder: the same key, another hash.
		"RSA without NULL": withoutNull(good),
	} {
		if _, _, err := deviceid.ParseKey(der); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// withoutNull removes the parameters of the algorithm in an RSA key.
func withoutNull(der []byte) []byte {
	b := bytes.Replace(der, []byte{0x30, 0x0d, 0x06, 0x09}, []byte{0x30, 0x0b, 0x06, 0x09}, 1)
	at := bytes.Index(b, []byte{0x05, 0x00, 0x03})
	b = append(b[:at:at], b[at+2:]...)
	b[3] -= 2
	return b
}

func FuzzParseKey(f *testing.F) {
	for _, pub := range keys(f) {
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, id, err := deviceid.ParseKey(der)
		if err != nil {
			return
		}
		if again, err := deviceid.Of(pub); err != nil || again != id {
			t.Errorf("one key has ids %s and %s, %v", id, again, err)
		}
		back, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil || !bytes.Equal(back, der) {
			t.Errorf("one id for two encodings: %x and %x", der, back)
		}
	})
}
