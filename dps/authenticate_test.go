package dps_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/sas"
)

// The vector of dps §2.2.
const (
	groupKey = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	groupID  = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
	derived  = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
	otherKey = "b3RoZXIga2V5IG90aGVyIGtleSBvdGhlciBrZXk="
)

func decode(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, w *dpstest.World, group bool, name, body string) {
	t.Helper()
	if _, err := w.PutEnrollment(t.Context(), group, name, []byte(body), nil); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func symmetric(primary, secondary, more string) string {
	return fmt.Sprintf(`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q,"secondaryKey":%q}}%s}`, primary, secondary, more)
}

func authorities(primary, secondary, more string) string {
	return fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":%q}%s}}}%s}`, primary, slot(secondary), more)
}

func leaves(primary, secondary, more string) string {
	return fmt.Sprintf(`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":%q}%s}}}%s}`, primary, slot(secondary), more)
}

func slot(secondary string) string {
	if secondary == "" {
		return ""
	}
	return fmt.Sprintf(`,"secondary":{"certificate":%q}`, secondary)
}

const disabled = `,"provisioningStatus":"disabled"`

// token is a device's token as most clients make it.
func token(w *dpstest.World, id string, key []byte) string {
	return sas.Sign(dpstest.Scope+"/registrations/"+id, key, w.Clock.Now().Add(time.Hour), "registration")
}

func byToken(id, token string) dps.Credentials {
	return dps.Credentials{IDScope: dpstest.Scope, RegistrationID: id, Token: token}
}

func byCertificate(id string, chain []*x509.Certificate) dps.Credentials {
	return dps.Credentials{IDScope: dpstest.Scope, RegistrationID: id, Certificates: chain}
}

// wantKind checks the outcome of an authentication; admitted for none.
const admitted = fault.Kind(-1)

func wantKind(t *testing.T, w *dpstest.World, c dps.Credentials, want fault.Kind) {
	t.Helper()
	_, err := w.Authenticate(t.Context(), c)
	got := admitted
	if err != nil {
		got = fault.KindOf(err)
	}
	if got != want {
		t.Errorf("Authenticate(%q): kind %v (%v), want %v", c.RegistrationID, got, err, want)
	}
	if err != nil && fault.Public(err) != "the credentials are not accepted" {
		t.Errorf("a refused device learns %q", fault.Public(err))
	}
}

func TestAuthenticate_GroupKey(t *testing.T) {
	conform.Covers(t, "DPS-17", "DPS-18")
	w := dpstest.New(t)
	put(t, w, true, "line-1", symmetric(groupKey, otherKey, ""))
	mine := decode(t, derived)
	wantKind(t, w, byToken(groupID, token(w, groupID, mine)), admitted)
	wantKind(t, w, byToken(groupID, token(w, groupID, decode(t, groupKey))), fault.Unauthorized)
	wantKind(t, w, byToken(groupID, token(w, groupID, decode(t, otherKey))), fault.Unauthorized)
	wantKind(t, w, byToken("another", token(w, "another", mine)), fault.Unauthorized)
	secondary := sas.DeriveKey(decode(t, otherKey), groupID)
	wantKind(t, w, byToken(groupID, token(w, groupID, secondary)), admitted)

	reply := register(t, w, byToken(groupID, token(w, groupID, mine)))
	if reply.Status != 200 {
		t.Fatalf("registration ended with %d %s", reply.Status, reply.Body)
	}
	a, ok := w.Hub.Device(groupID)
	if !ok || a.AuthType != dps.AuthSAS || !a.PrimaryKey.Matches(mine) || !a.SecondaryKey.Matches(secondary) {
		t.Errorf("the hub knows %+v, want the two derived keys", a)
	}
}

func TestAuthenticate_UnsetGroupKeyDerivesNothing(t *testing.T) {
	w := dpstest.New(t)
	put(t, w, true, "line-1", symmetric(groupKey, otherKey, ""))
	wantKind(t, w, byToken("d", token(w, "d", sas.DeriveKey(nil, "d"))), fault.Unauthorized)
}

// sign makes a token as it stands on the wire: sr exactly as given, fields in the given order.
func sign(sr, order string, key []byte, expiry time.Time) string {
	se := fmt.Sprint(expiry.Unix())
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	fields := map[rune]string{
		'r': "sr=" + sr, 'g': "sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), 'e': "se=" + se, 'n': "skn=registration",
	}
	var parts []string
	for _, c := range order {
		parts = append(parts, fields[c])
	}
	return "SharedAccessSignature " + strings.Join(parts, "&")
}

func permutations(s string) []string {
	if len(s) == 1 {
		return []string{s}
	}
	var all []string
	for i := range s {
		for _, p := range permutations(s[:i] + s[i+1:]) {
			all = append(all, s[i:i+1]+p)
		}
	}
	return all
}

func TestAuthenticate_Token(t *testing.T) {
	conform.Covers(t, "DPS-16")
	w := dpstest.New(t)
	key := decode(t, otherKey)
	put(t, w, false, "Dev-1", symmetric(groupKey, otherKey, ""))
	later := w.Clock.Now().Add(time.Hour)
	plain := dpstest.Scope + "/registrations/Dev-1"
	tests := []struct {
		name, sr string
		key      []byte
		expiry   time.Time
		want     fault.Kind
	}{
		{"as Node sends it, not encoded", plain, key, later, admitted},
		{"as azure-sdk-for-c sends it", strings.ReplaceAll(plain, "/", "%2f"), key, later, admitted},
		{"as .NET sends it", strings.ReplaceAll(plain, "/", "%2F"), key, later, admitted},
		{"as IoT Edge sends it, in lower case", strings.ToLower(strings.ReplaceAll(plain, "/", "%2f")), key, later, admitted},
		{"primary key", plain, decode(t, groupKey), later, admitted},
		{"wrong key", plain, []byte("0123456789abcdef"), later, fault.Unauthorized},
		{"another device", dpstest.Scope + "/registrations/dev-2", key, later, fault.Unauthorized},
		{"another scope", "0ne0/registrations/Dev-1", key, later, fault.Unauthorized},
		{"a letter Unicode folds", dpstest.Scope + "/registrations/Dev-1%E2%84%AA", key, later, fault.Unauthorized},
		{"only the scope", dpstest.Scope, key, later, fault.Unauthorized},
		{"more than the device", plain + "/register", key, later, fault.Unauthorized},
		{"expired within the skew", plain, key, w.Clock.Now().Add(-4 * time.Minute), admitted},
		{"expired", plain, key, w.Clock.Now().Add(-6 * time.Minute), fault.Unauthorized},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantKind(t, w, byToken("Dev-1", sign(test.sr, "rgen", test.key, test.expiry)), test.want)
		})
	}
	for _, order := range permutations("rgen") {
		wantKind(t, w, byToken("Dev-1", sign(plain, order, key, later)), admitted)
	}
	// Signed over the decoded resource, sent encoded: the signature is over what is sent.
	decoded := sign(plain, "rgen", key, later)
	wantKind(t, w, byToken("Dev-1", strings.Replace(decoded, plain, url.QueryEscape(plain), 1)), fault.Unauthorized)
	wantKind(t, w, byToken("Dev-1", "nonsense"), fault.Unauthorized)
	wantKind(t, w, byToken("Dev-1", ""), fault.Unauthorized)
}

func TestAuthenticate_NamesKnowNoCase(t *testing.T) {
	w := dpstest.New(t)
	key := decode(t, otherKey)
	put(t, w, false, "Dev-1", symmetric(groupKey, otherKey, ""))
	c := byToken("DEV-1", token(w, "dEv-1", key))
	c.IDScope = strings.ToLower(dpstest.Scope)
	wantKind(t, w, c, admitted)
	if got := register(t, w, c).state(t); got["deviceId"] != "Dev-1" {
		t.Errorf("device id %v, want the spelling of the enrollment", got["deviceId"])
	}
	c.IDScope = "0neOther"
	wantKind(t, w, c, fault.Unauthorized)
	c.IDScope, c.RegistrationID = dpstest.Scope, "dev/1"
	wantKind(t, w, c, fault.Unauthorized)
	wantKind(t, w, byToken("unknown", token(w, "unknown", key)), fault.Unauthorized)
}

func TestAuthenticate_GroupKeepsFirstSpelling(t *testing.T) {
	w := dpstest.New(t)
	put(t, w, true, "g", symmetric(groupKey, otherKey, ""))
	for _, id := range []string{"Lamp-1", "LAMP-1"} {
		got := register(t, w, byToken(id, token(w, id, sas.DeriveKey(decode(t, groupKey), id)))).state(t)
		if got["deviceId"] != "Lamp-1" || got["registrationId"] != "Lamp-1" {
			t.Errorf("%s registered as %v, device %v; want Lamp-1", id, got["registrationId"], got["deviceId"])
		}
		if a, _ := w.Hub.Device("Lamp-1"); !a.PrimaryKey.Matches(sas.DeriveKey(decode(t, groupKey), id)) {
			t.Errorf("%s: the hub does not know the key the device uses", id)
		}
	}
	id := "LAMP-1" // with a key its maker derived from the lower-cased id
	wantKind(t, w, byToken(id, token(w, id, sas.DeriveKey(decode(t, groupKey), "lamp-1"))), admitted)
}

func TestAuthenticate_Order(t *testing.T) {
	conform.Covers(t, "DPS-19")
	w := dpstest.New(t)
	root := dpstest.NewCA(t, "root")
	mid := root.CA(t, "mid")
	leaf := mid.Leaf(t, "d1", nil)
	chain := leaf.Chain(2)

	put(t, w, true, "a-root", authorities(root.PEM(), "", `,"initialTwin":{"tags":{"by":"root"}}`))
	wantKind(t, w, byCertificate("d1", chain), admitted)
	put(t, w, true, "b-mid", authorities(mid.PEM(), "", `,"initialTwin":{"tags":{"by":"mid"}}`))
	register(t, w, byCertificate("d1", chain))
	if a, _ := w.Hub.Device("d1"); string(a.Tags) != `{"by":"mid"}` {
		t.Errorf("admitted with tags %s, want the nearest issuer's group", a.Tags)
	}
	put(t, w, true, "b-mid", authorities(mid.PEM(), "", disabled))
	wantKind(t, w, byCertificate("d1", chain), fault.Disabled)
	wantKind(t, w, byCertificate("d2", root.Leaf(t, "d2", nil).Chain(1)), admitted)

	// An individual enrollment decides before any group, whatever it says.
	put(t, w, false, "D1", leaves(leaf.PEM(), "", ""))
	wantKind(t, w, byCertificate("d1", chain), admitted)
	put(t, w, false, "D1", leaves(leaf.PEM(), "", disabled))
	wantKind(t, w, byCertificate("d1", chain), fault.Disabled)
	put(t, w, false, "D1", symmetric(groupKey, "", ""))
	wantKind(t, w, byCertificate("d1", chain), fault.Unauthorized)

	put(t, w, true, "keys", symmetric(groupKey, otherKey, ""))
	mine := token(w, "k1", sas.DeriveKey(decode(t, groupKey), "k1"))
	wantKind(t, w, byToken("k1", mine), admitted)
	put(t, w, false, "k1", symmetric(derivedOf(t, "k1"), "", disabled))
	wantKind(t, w, byToken("k1", mine), fault.Disabled)
	wantKind(t, w, byToken("k1", token(w, "k1", []byte("wrong"))), fault.Unauthorized)
}

func derivedOf(t testing.TB, id string) string {
	return base64.StdEncoding.EncodeToString(sas.DeriveKey(decode(t, groupKey), id))
}

func TestAuthenticate_Chain(t *testing.T) {
	conform.Covers(t, "DPS-20")
	w := dpstest.New(t)
	root := dpstest.NewCA(t, "root")
	mid := root.CA(t, "mid")
	low := mid.CA(t, "low")
	leaf := low.Leaf(t, "d1", nil)
	put(t, w, true, "g", authorities(mid.PEM(), "", ""))
	for n, want := range []fault.Kind{fault.Unauthorized, admitted, admitted, admitted} {
		wantKind(t, w, byCertificate("d1", leaf.Chain(n)), want) // low must be shown; mid and root need not
	}
	wantKind(t, w, byCertificate("d3", mid.Leaf(t, "d3", nil).Chain(0)), admitted)
	wantKind(t, w, byCertificate("d4", root.Leaf(t, "d4", nil).Chain(1)), fault.Unauthorized)
	wantKind(t, w, byCertificate("mid", mid.Chain(1)), fault.Unauthorized) // the CA is no device
	fake := dpstest.NewCA(t, "mid").Leaf(t, "d5", nil)
	wantKind(t, w, byCertificate("d5", fake.Chain(1)), fault.Unauthorized)

	change := func(name string, want fault.Kind, f func(*x509.Certificate)) {
		wantKind(t, w, byCertificate(name, mid.Leaf(t, name, f).Chain(1)), want)
	}
	change("old", fault.Unauthorized, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	change("server", fault.Unauthorized, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	change("client", admitted, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
}

func TestAuthenticate_CommonName(t *testing.T) {
	conform.Covers(t, "DPS-21")
	w := dpstest.New(t)
	root := dpstest.NewCA(t, "root")
	put(t, w, true, "g", authorities(root.PEM(), "", ""))
	wantKind(t, w, byCertificate("d1", root.Leaf(t, "d2", nil).Chain(1)), fault.Unauthorized)
	wantKind(t, w, byCertificate("k", root.Leaf(t, "\u212a", nil).Chain(1)), fault.Unauthorized) // Kelvin
	long := strings.Repeat("0123456789abcdef", 8)
	wantKind(t, w, byCertificate(long, root.Leaf(t, long, nil).Chain(1)), admitted)
	upper := strings.ToUpper(long)
	got := register(t, w, byCertificate(long, root.Leaf(t, upper, nil).Chain(1))).state(t)
	if got["deviceId"] != upper {
		t.Errorf("device id %v, want the common name", got["deviceId"])
	}
	leaf := dpstest.SelfSigned(t, "other")
	put(t, w, false, "d3", leaves(leaf.PEM(), "", ""))
	wantKind(t, w, byCertificate("d3", leaf.Chain(0)), fault.Unauthorized)
}

func TestAuthenticate_PrimaryAndSecondary(t *testing.T) {
	w := dpstest.New(t)
	one, two := dpstest.NewCA(t, "one"), dpstest.NewCA(t, "two")
	put(t, w, true, "g", authorities(one.PEM(), two.PEM(), ""))
	for _, ca := range []*dpstest.Certificate{one, two} {
		wantKind(t, w, byCertificate("d", ca.Leaf(t, "d", nil).Chain(1)), admitted)
	}
	a, b, c := dpstest.SelfSigned(t, "i"), dpstest.SelfSigned(t, "i"), dpstest.SelfSigned(t, "i")
	put(t, w, false, "i", leaves(a.PEM(), b.PEM(), ""))
	wantKind(t, w, byCertificate("i", a.Chain(0)), admitted)
	wantKind(t, w, byCertificate("i", c.Chain(0)), fault.Unauthorized)
	register(t, w, byCertificate("i", b.Chain(0)))
	d, _ := w.Hub.Device("i")
	if d.AuthType != dps.AuthSelfSigned || d.PrimaryThumbprint != print256(a) || d.SecondaryThumbprint != print256(b) {
		t.Errorf("the hub knows %+v, want both thumbprints", d)
	}
	w.Clock.Add(48 * time.Hour)
	wantKind(t, w, byCertificate("i", a.Chain(0)), fault.Unauthorized)
}

func print256(c *dpstest.Certificate) string { return fmt.Sprintf("%X", sha256.Sum256(c.Raw)) }

func TestAuthorities(t *testing.T) {
	w := dpstest.New(t)
	one, two := dpstest.NewCA(t, "one"), dpstest.NewCA(t, "two")
	put(t, w, true, "g1", authorities(one.PEM(), "", disabled))
	put(t, w, true, "g2", authorities(two.PEM(), "", ""))
	cas, err := w.Authorities(t.Context())
	if err != nil || len(cas) != 2 {
		t.Fatalf("%d authorities, %v; want 2", len(cas), err)
	}
	if err := w.DeleteEnrollment(t.Context(), true, "G1", nil); err != nil {
		t.Fatal(err)
	}
	if cas, _ = w.Authorities(t.Context()); len(cas) != 1 || !cas[0].Equal(two.Certificate) {
		t.Errorf("after the deletion %d authorities, want the other one at once", len(cas))
	}
}
