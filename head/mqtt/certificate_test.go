package mqtt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/head/mqtt/mqtttest"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
	wire "github.com/vauban-iot/vauban/wire/mqtt"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/topic"
)

const credentialFilter = "$iothub/credentials/res/#"

func certificateTopic(rid string) string { return string(topic.AppendCredentialRequest(nil, rid)) }

// renewing is h of the api-version that knows certificate requests.
func renewing(h wire.Connect) wire.Connect {
	h.Username = strings.Replace(h.Username, "api-version=2021-04-12", "api-version=2025-08-01-preview", 1)
	return h
}

// holder is a device that asks for certificates.
type holder struct {
	*server
	id    iot.ID
	shown []tls.Certificate // what it connects with
	token string            // or this
	key   *ecdsa.PrivateKey // of its requests
}

// holder creates a device whose certificate a CA of the test's signed.
func (s *server) holder(t *testing.T) *holder {
	t.Helper()
	return s.holderOf(t, newID())
}

func (s *server) holderOf(t *testing.T, id iot.ID) *holder {
	t.Helper()
	ca := pkitest.NewCA(t, "plant "+id.Device)
	s.Trust(ca.Cert)
	s.DeviceWith(t, id, registry.Authentication{Type: registry.CertificateAuthority})
	return &holder{server: s, id: id, shown: []tls.Certificate{ca.Leaf(t, id.String())}, key: newKey(t)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr is a certificate request in base64 of DER.
func csr(t testing.TB, name string, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// body is a sound request; replace may be empty.
func (h *holder) body(t testing.TB, replace string) []byte {
	t.Helper()
	m := map[string]string{"id": h.id.String(), "csr": csr(t, h.id.String(), h.key)}
	if replace != "" {
		m["replace"] = replace
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// join connects, without subscribing.
func (h *holder) join(t *testing.T, clean bool) *mqtttest.Client {
	t.Helper()
	c := h.dial(t, h.shown...)
	hi := renewing(hello(h.id, h.token))
	hi.CleanSession = clean
	if _, code := c.Connect(hi); code != 0 {
		t.Fatalf("CONNACK %d, want 0", code)
	}
	return c
}

// joined connects and subscribes at a QoS.
func (h *holder) joined(t *testing.T, qos byte) *mqtttest.Client {
	t.Helper()
	c := h.join(t, true)
	c.Subscribe(qos, credentialFilter)
	return c
}

// certificateReply is any answer on a response topic.
type certificateReply struct {
	Status        int    `json:"-"`
	RID           string `json:"-"`
	CorrelationID string
	Expires       string `json:"operationExpires"`
	Certificates  []string
	ErrorCode     int
	Message       string
	TrackingID    string
	TimestampUTC  string
	RetryAfter    int
	Info          *struct {
		RequestID, OperationExpires, CorrelationID, CredentialError, CredentialMessage string
	}
	packet wire.Publish
	text   string
}

// answered reads the next packet, which must answer a request.
func answered(t *testing.T, c *mqtttest.Client) certificateReply {
	t.Helper()
	p := c.NextPublish()
	r, err := topic.ParseResponse(string(p.Topic))
	if err != nil || r.Kind != topic.ResponseCredential {
		t.Fatalf("got %s, want the answer to a certificate request (%v)", p.Topic, err)
	}
	got := certificateReply{Status: r.Status, RID: r.RID, packet: p, text: string(p.Payload)}
	if err := json.Unmarshal(p.Payload, &got); err != nil {
		t.Fatalf("%s: %v", p.Payload, err)
	}
	return got
}

var (
	guid    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	nanoUTC = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$`)
)

// accepted asks and reads the 202.
func (h *holder) accepted(t *testing.T, c *mqtttest.Client, rid string, body []byte) certificateReply {
	t.Helper()
	c.Publish(certificateTopic(rid), body)
	return h.wantAccepted(t, c, rid)
}

func (h *holder) wantAccepted(t *testing.T, c *mqtttest.Client, rid string) certificateReply {
	t.Helper()
	got := answered(t, c)
	if got.Status != 202 || got.RID != rid || !guid.MatchString(got.CorrelationID) || !nanoUTC.MatchString(got.Expires) {
		t.Fatalf("got %d for %q: %s; want 202 for %q", got.Status, got.RID, got.text, rid)
	}
	if until, err := time.Parse(time.RFC3339Nano, got.Expires); err != nil || time.Until(until) < 23*time.Hour || time.Until(until) > 25*time.Hour {
		t.Errorf("operationExpires %s, want a day from now", got.Expires)
	}
	return got
}

// wantIssued reads the 200 of an accepted request and returns what the device connects with from then on.
func (h *holder) wantIssued(t *testing.T, c *mqtttest.Client, of certificateReply) tls.Certificate {
	t.Helper()
	got := answered(t, c)
	if got.Status != 200 || got.RID != of.RID || got.CorrelationID != of.CorrelationID || len(got.Certificates) != 3 {
		t.Fatalf("got %d for %q: %s; want 200 for %q with the correlation id %s and three certificates", got.Status, got.RID, got.text, of.RID, of.CorrelationID)
	}
	if got.packet.QoS > 0 {
		c.Send(wire.AppendPuback(nil, got.packet.PacketID))
	}
	cert := tls.Certificate{PrivateKey: h.key}
	var chain []*x509.Certificate
	for _, text := range got.Certificates {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain, cert.Certificate = append(chain, parsed), append(cert.Certificate, der)
	}
	if leaf := chain[0]; leaf.Subject.CommonName != h.id.String() || !leaf.PublicKey.(*ecdsa.PublicKey).Equal(h.key.Public()) {
		t.Errorf("issued to %q for another key or name", leaf.Subject)
	}
	if _, err := pki.VerifyChain(chain[:2], []*x509.Certificate{chain[2]}, time.Now()); err != nil {
		t.Errorf("the chain does not hold: %v", err)
	}
	return cert
}

// refusedWith reads an error for rid.
func refusedWith(t *testing.T, c *mqtttest.Client, rid string, status, code int) certificateReply {
	t.Helper()
	got := answered(t, c)
	if got.Status != status || got.RID != rid || got.ErrorCode != code {
		t.Errorf("got %d for %q: %s; want %d for %q with code %d", got.Status, got.RID, got.text, status, rid, code)
	}
	if got.Message == "" || got.TrackingID == "" || !nanoUTC.MatchString(got.TimestampUTC) || !strings.Contains(got.text, `"info":`) {
		t.Errorf("the body lacks a member: %s", got.text)
	}
	return got
}

func TestCertificate_Refusals(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-70")
	t.Run("bodies", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		id, good := h.id.Device, csr(t, h.id.Device, h.key)
		object := func(members ...string) string { return "{" + strings.Join(members, ",") + "}" }
		member := func(name, value string) string { return fmt.Sprintf("%q:%q", name, value) }
		with := func(replace string) string {
			return object(member("id", id), member("csr", good), `"replace":`+replace)
		}
		for i, tc := range []struct {
			name, body string
			code       int
		}{
			{"empty", "", 400004},
			{"white space", " \n", 400004},
			{"truncated", `{"id":"` + id + `","csr":`, 400006},
			{"no JSON", "certificate, please", 400006},
			{"two documents", "{}{}", 400006},
			{"an array", `["not","an","object"]`, 400004},
			{"a string", `"id"`, 400004},
			{"null", "null", 400004},
			{"nothing in it", "{}", 400004},
			{"no id", object(member("csr", good)), 400004},
			{"empty id", object(member("id", ""), member("csr", good)), 400004},
			{"id that is a number", object(`"id":1`, member("csr", good)), 400004},
			{"id that is null", object(`"id":null`, member("csr", good)), 400004},
			{"another device", object(member("id", "wrong-device"), member("csr", good)), 400004},
			{"id in another case", object(member("id", strings.ToUpper(id)), member("csr", good)), 400004},
			{"no csr", object(member("id", id)), 400004},
			{"empty csr", object(member("id", id), member("csr", "")), 400004},
			{"csr that is an array", object(member("id", id), `"csr":["`+good+`"]`), 400004},
			{"csr that is not base64", object(member("id", id), member("csr", "not-valid-base64!!@@##")), 400004},
			{"armoured csr", object(member("id", id), member("csr", "-----BEGIN CERTIFICATE REQUEST-----\n"+good)), 400004},
			{"csr over 8 KB", object(member("id", id), member("csr", strings.Repeat("QUFB", 2560))), 400004},
			{"csr a little over 8 KB", object(member("id", id), member("csr", strings.Repeat("QUFB", 2049))), 400004},
			{"unknown member", object(member("id", id), member("csr", good), member("unknownField", "value")), 400004},
			{"member in another case", object(member("ID", id), member("csr", good)), 400004},
			{"replace that is a number", with("1234"), 400004},
			{"empty replace", with(`""`), 400004},
			{"short replace", with(`"123"`), 400004},
			{"long replace", with(`"` + strings.Repeat("a", 37) + `"`), 400004},
			{"replace with a hyphen first", with(`"-1234"`), 400004},
			{"replace with a hyphen last", with(`"1234-"`), 400004},
			{"replace with another character", with(`"12_34"`), 400004},
		} {
			rid := fmt.Sprint("rid-", i)
			c.Publish(certificateTopic(rid), []byte(tc.body))
			if got := refusedWith(t, c, rid, 400, tc.code); t.Failed() {
				t.Fatalf("%s: %s", tc.name, got.text)
			} else if got.Info != nil {
				t.Errorf("%s: info %+v, want null", tc.name, got.Info)
			}
		}
		rid := strings.Repeat("r", 129)
		c.Publish(certificateTopic(rid), h.body(t, ""))
		refusedWith(t, c, rid, 400, 400004)
		c.Disconnect()
	})
	t.Run("a request that does not verify", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		damaged, _ := base64.StdEncoding.DecodeString(csr(t, h.id.Device, h.key))
		damaged[len(damaged)-1] ^= 1
		weak, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"structure": "TU9DSyBDU1I=", "signature": base64.StdEncoding.EncodeToString(damaged), "weak key": csr(t, h.id.Device, weak),
		} {
			body := fmt.Appendf(nil, `{"id":%q,"csr":%q}`, h.id.Device, text)
			of := h.accepted(t, c, name, body)
			got := refusedWith(t, c, name, 400, 400037)
			if i := got.Info; i == nil || i.CredentialError != "400000" || i.CredentialMessage == "" || i.RequestID != name ||
				i.CorrelationID != of.CorrelationID || i.OperationExpires != of.Expires {
				t.Errorf("%s: info is that of another request: %s", name, got.text)
			}
		}
		c.Disconnect()
	})
	t.Run("replace of what is not there", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		const other = "db8c0f73-ac73-4b90-bba4-8a26ae2fcb27"
		c.Publish(certificateTopic("a"), h.body(t, other))
		got := refusedWith(t, c, "a", 412, 412001)
		if got.Info == nil || got.Info.RequestID != other || got.Info.CorrelationID != "" {
			t.Errorf("info is not about the request that was named: %s", got.text)
		}
		// Nor is it there when another one is.
		of := h.accepted(t, c, "b", h.body(t, ""))
		c.Publish(certificateTopic("c"), h.body(t, other))
		refusedWith(t, c, "c", 412, 412001)
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
	t.Run("another request is under way", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		of := h.accepted(t, c, "304937152", h.body(t, ""))
		c.Publish(certificateTopic("304937153"), h.body(t, ""))
		got := refusedWith(t, c, "304937153", 409, 409004)
		if i := got.Info; i == nil || i.RequestID != "304937152" || i.CorrelationID != of.CorrelationID || i.OperationExpires != of.Expires {
			t.Errorf("info is not that of the request under way: %s", got.text)
		}
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		for i := range 10 {
			h.accepted(t, c, fmt.Sprint("n", i), h.body(t, "*"))
			if i < 9 {
				c.Publish(certificateTopic("none"), h.body(t, "")) // what is refused does not count
				refusedWith(t, c, "none", 409, 409004)
			}
		}
		c.Publish(certificateTopic("n10"), h.body(t, "*"))
		got := refusedWith(t, c, "n10", 429, 429002)
		if got.RetryAfter < 300 || got.RetryAfter > 360 || got.Info != nil {
			t.Errorf("retryAfter %d, want the six minutes until there is one more: %s", got.RetryAfter, got.text)
		}
		c.Disconnect()
	})
	t.Run("no rid", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		c.Publish0("$iothub/credentials/POST/issueCertificate/", h.body(t, ""))
		c.Closed()
	})
}

func TestCertificate_Issued(t *testing.T) { overBoth(t, testCertificate_Issued) }

func testCertificate_Issued(t *testing.T, shared *server) {
	t.Parallel()
	conform.Covers(t, "HD-71")
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			h := shared.holder(t)
			c := h.joined(t, qos)
			asked := h.accepted(t, c, "156089087", h.body(t, ""))
			cert := h.wantIssued(t, c, asked)
			// The session stays, and the next request is not the last one's: one after the other, both succeed.
			c.Publish(events(h.id), []byte("still here"))
			again := h.accepted(t, c, "156089088", h.body(t, ""))
			if again.CorrelationID == asked.CorrelationID {
				t.Error("two requests have one correlation id")
			}
			h.wantIssued(t, c, again)
			c.Disconnect()

			h.shown = []tls.Certificate{cert}
			c = h.joined(t, qos) // with what was issued
			h.wantIssued(t, c, h.accepted(t, c, "third", h.body(t, "")))
			c.Disconnect()
		})
	}
	t.Run("replace", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 1)
		first := h.accepted(t, c, "first-1", h.body(t, ""))
		c.Publish(certificateTopic("second-2"), h.body(t, ""))
		refusedWith(t, c, "second-2", 409, 409004)
		second := h.accepted(t, c, "second-2", h.body(t, "first-1"))
		if second.CorrelationID == first.CorrelationID {
			t.Error("the request that replaces another has its correlation id")
		}
		third := h.accepted(t, c, "third-3", h.body(t, "*"))
		h.wantIssued(t, c, third)
		c.Silent(50 * time.Millisecond) // those that were replaced are never answered
		fourth := h.accepted(t, c, "fourth-4", h.body(t, "*"))
		h.wantIssued(t, c, fourth)
		c.Disconnect()
	})
	t.Run("behind each other in one packet", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.join(t, true)
		var b []byte
		b = wire.AppendSubscribe(b, 1, []wire.Subscription{{Filter: credentialFilter}})
		for _, rid := range []string{"one", "two"} {
			b = wire.AppendPublish(b, &wire.Publish{Topic: []byte(certificateTopic(rid)), Payload: h.body(t, "")})
		}
		c.Send(b)
		c.Expect(wire.AppendSuback(nil, 1, []byte{0}))
		of := h.wantAccepted(t, c, "one")
		refusedWith(t, c, "two", 409, 409004)
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
	t.Run("the same request once more", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		body := h.body(t, "")
		of := h.accepted(t, c, "same", body)
		if again := h.accepted(t, c, "same", body); again.CorrelationID != of.CorrelationID || again.Expires != of.Expires {
			t.Errorf("the same request began anew: %s", again.text)
		}
		c.Publish(certificateTopic("same"), h.body(t, "")) // another signature
		refusedWith(t, c, "same", 409, 409004)
		h.wantIssued(t, c, of)
		c.Silent(50 * time.Millisecond)
		c.Disconnect()
	})
	t.Run("replace null", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		h.wantIssued(t, c, h.accepted(t, c, "n", fmt.Appendf(nil, `{"id":%q,"csr":%q,"replace":null}`, h.id.Device, csr(t, "any", h.key))))
		c.Disconnect()
	})
	t.Run("module", func(t *testing.T) {
		t.Parallel()
		id := newID()
		shared.Device(t, id)
		id.Module = "mod"
		h := shared.holderOf(t, id)
		c := h.joined(t, 0)
		h.shown = []tls.Certificate{h.wantIssued(t, c, h.accepted(t, c, "m", h.body(t, "")))}
		c.Disconnect()
		h.join(t, true).Disconnect()
	})
}

func TestCertificate_Delivery(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-72")
	for _, qos := range []byte{0, 1} {
		t.Run(fmt.Sprint("reconnect with clean session 0 and QoS ", qos), func(t *testing.T) {
			t.Parallel()
			h := shared.holder(t)
			c := h.join(t, false)
			c.Subscribe(qos, credentialFilter)
			of := h.accepted(t, c, "lost", h.body(t, ""))
			c.Drop()
			shared.connected(t, h.id, false)
			c = h.join(t, false)
			h.wantIssued(t, c, of)
			// It has it: it does not come again.
			c.Publish(events(h.id), []byte("the PUBACK before this one was read"))
			c.Disconnect()
			c = h.join(t, false)
			c.Silent(50 * time.Millisecond)
			c.Disconnect()
		})
		t.Run(fmt.Sprint("a link that is lost with the answer on it, QoS ", qos), func(t *testing.T) {
			t.Parallel()
			h := shared.holder(t)
			c := h.join(t, false)
			c.Subscribe(qos, credentialFilter)
			of := h.accepted(t, c, "lost", h.body(t, ""))
			if got := answered(t, c); got.Status != 200 {
				t.Fatalf("got %s", got.text)
			}
			c.Drop() // nobody can tell whether it was read
			shared.connected(t, h.id, false)
			c = h.join(t, false)
			h.wantIssued(t, c, of)
			// An answer that was written stands in nobody's way.
			h.wantIssued(t, c, h.accepted(t, c, "next", h.body(t, "")))
			c.Disconnect()
		})
	}
	t.Run("a refusal, too", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.join(t, false)
		c.Subscribe(1, credentialFilter)
		h.accepted(t, c, "bad", fmt.Appendf(nil, `{"id":%q,"csr":"TU9DSyBDU1I="}`, h.id.Device))
		c.Drop()
		shared.connected(t, h.id, false)
		c = h.join(t, false)
		refusedWith(t, c, "bad", 400, 400037)
		c.Disconnect()
	})
	t.Run("subscribe again", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		of := h.accepted(t, c, "again", h.body(t, ""))
		id := c.ID()
		c.Send(wire.AppendUnsubscribe(nil, id, []string{credentialFilter}))
		c.Expect(wire.AppendUnsuback(nil, id))
		c.Silent(hubtest.RenewalPause + 200*time.Millisecond)
		c.Subscribe(0, credentialFilter)
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
	t.Run("once on a connection", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 1)
		h.accepted(t, c, "once", h.body(t, ""))
		got := answered(t, c)
		c.Subscribe(1, credentialFilter) // before the PUBACK
		c.Silent(50 * time.Millisecond)
		c.Send(wire.AppendPuback(nil, got.packet.PacketID))
		c.Subscribe(1, credentialFilter)
		c.Silent(50 * time.Millisecond)
		c.Disconnect()
	})
	t.Run("reconnect with clean session 1", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 1)
		of := h.accepted(t, c, "clean", h.body(t, ""))
		c.Disconnect()
		c = h.join(t, true)
		c.Silent(hubtest.RenewalPause + 200*time.Millisecond) // never without a subscription
		c.Subscribe(1, "$iothub/twin/res/#")
		c.Silent(50 * time.Millisecond)
		c.Subscribe(1, credentialFilter)
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
	t.Run("a request without a subscription", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.join(t, true)
		c.Publish(certificateTopic("deaf"), h.body(t, ""))
		c.Publish(certificateTopic("deaf"), nil)
		c.Subscribe(1, credentialFilter)
		c.Silent(hubtest.RenewalPause + 200*time.Millisecond)
		h.wantIssued(t, c, h.accepted(t, c, "heard", h.body(t, ""))) // nothing had begun
		c.Disconnect()
	})
	t.Run("takeover", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		old := h.join(t, false)
		old.Subscribe(1, credentialFilter)
		of := h.accepted(t, old, "taken", h.body(t, ""))
		c := h.join(t, false)
		old.Closed()
		h.wantIssued(t, c, of)
		c.Disconnect()
	})
}

// Another process on the same store is what another server of a cluster is, too.
func TestCertificate_Restart(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "HD-72")
	s := start(t, hubtest.Options{})
	h := s.holder(t)
	c := h.join(t, false)
	c.Subscribe(1, credentialFilter)
	of := h.accepted(t, c, "restart", h.body(t, ""))
	s.restart(t)
	c = h.join(t, false)
	h.wantIssued(t, c, of)
	c.Disconnect()
}

// Devices that are known by their thumbprints get the new one registered, in the slot that they do not use.
func TestCertificate_Thumbprints(t *testing.T) {
	t.Parallel()
	for name, sum := range map[string]func(der []byte) string{
		"SHA-256": func(der []byte) string { s := sha256.Sum256(der); return hex.EncodeToString(s[:]) },
		"SHA-1":   func(der []byte) string { s := sha1.Sum(der); return hex.EncodeToString(s[:]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &holder{server: shared, id: newID(), key: newKey(t)}
			old := pkitest.SelfSigned(t, h.id.Device)
			spare := strings.Repeat("AB", 32)
			shared.DeviceWith(t, h.id, registry.Authentication{
				Type: registry.SelfSigned, PrimaryThumbprint: strings.ToUpper(sum(old.Certificate[0])), SecondaryThumbprint: spare,
			})
			h.shown = []tls.Certificate{old}
			before, err := shared.Hub.Device(t.Context(), h.id)
			if err != nil {
				t.Fatal(err)
			}
			renew := func(rid string) tls.Certificate {
				t.Helper()
				c := h.joined(t, 0)
				cert := h.wantIssued(t, c, h.accepted(t, c, rid, h.body(t, "")))
				c.Disconnect()
				return cert
			}
			registered := func(primary, secondary tls.Certificate) {
				t.Helper()
				d, err := shared.Hub.Device(t.Context(), h.id)
				if err != nil {
					t.Fatal(err)
				}
				a := d.Authentication
				for slot, want := range map[string]tls.Certificate{a.PrimaryThumbprint: primary, a.SecondaryThumbprint: secondary} {
					s := sha256.Sum256(want.Certificate[0])
					if !strings.EqualFold(slot, hex.EncodeToString(s[:])) && !strings.EqualFold(slot, sum(want.Certificate[0])) {
						t.Errorf("the slots hold %+v", a)
					}
				}
				if d.ETag == before.ETag || a.Type != registry.SelfSigned {
					t.Errorf("the identity was not written as a change: %+v", d)
				}
			}
			first := renew("first")
			registered(old, first)
			h.join(t, true).Disconnect() // the old one is good until the next renewal
			h.shown = []tls.Certificate{first}
			second := renew("second")
			registered(second, first)
			shared.refused(t, renewing(hello(h.id, "")), 5, old)
			h.shown = []tls.Certificate{second}
			h.join(t, true).Disconnect()
		})
	}
	t.Run("removed while it asks", func(t *testing.T) {
		t.Parallel()
		h := &holder{server: shared, id: newID(), key: newKey(t)}
		cert := pkitest.SelfSigned(t, h.id.Device)
		s := sha256.Sum256(cert.Certificate[0])
		shared.DeviceWith(t, h.id, registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.ToUpper(hex.EncodeToString(s[:]))})
		h.shown = []tls.Certificate{cert}
		c := h.joined(t, 0)
		h.accepted(t, c, "before", h.body(t, ""))
		other := registry.Authentication{Type: registry.SelfSigned, PrimaryThumbprint: strings.Repeat("CD", 32)}
		if _, err := shared.UpdateDevice(t.Context(), h.id, nil, registry.Change{Authentication: &other}); err != nil {
			t.Fatal(err)
		}
		refusedWith(t, c, "before", 400, 400037)
		c.Publish(certificateTopic("after"), h.body(t, ""))
		refusedWith(t, c, "after", 401, 401003)
		d, err := shared.Hub.Device(t.Context(), h.id)
		if err != nil || d.Authentication.PrimaryThumbprint != other.PrimaryThumbprint || d.Authentication.SecondaryThumbprint != "" {
			t.Errorf("a device that was shut out let itself in again: %+v, %v", d.Authentication, err)
		}
		c.Disconnect()
	})
}

func TestCertificate_Callers(t *testing.T) {
	t.Parallel()
	t.Run("own token", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		h := &holder{server: shared, id: d.ID, token: shared.Token(d), key: newKey(t)}
		c := h.joined(t, 0)
		cert := h.wantIssued(t, c, h.accepted(t, c, "sas", h.body(t, "")))
		c.Disconnect()
		// It proves the device as soon as the registry says that certificates do.
		shared.refused(t, renewing(hello(d.ID, "")), 5, cert)
		if _, err := shared.UpdateDevice(t.Context(), d.ID, nil, registry.Change{Authentication: &registry.Authentication{Type: registry.CertificateAuthority}}); err != nil {
			t.Fatal(err)
		}
		shared.accepted(t, renewing(hello(d.ID, "")), cert)
	})
	t.Run("own token, and the device authenticates otherwise by now", func(t *testing.T) {
		t.Parallel()
		d := shared.device(t)
		h := &holder{server: shared, id: d.ID, token: shared.Token(d), key: newKey(t)}
		c := h.joined(t, 0)
		if _, err := shared.UpdateDevice(t.Context(), d.ID, nil, registry.Change{Authentication: &registry.Authentication{Type: registry.CertificateAuthority}}); err != nil {
			t.Fatal(err)
		}
		c.Publish(certificateTopic("sas"), h.body(t, ""))
		refusedWith(t, c, "sas", 401, 401003)
		c.Disconnect()
	})
	t.Run("a policy's token", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		p := shared.Policies[0]
		h.shown, h.token = nil, sas.Sign(hubtest.Host, p.Primary.Reveal(), time.Now().Add(time.Hour), p.Name)
		c := h.joined(t, 0)
		c.Publish(certificateTopic("policy"), h.body(t, ""))
		refusedWith(t, c, "policy", 401, 401002)
		c.Disconnect()
	})
	t.Run("on behalf of another", func(t *testing.T) {
		t.Parallel()
		e := shared.edge(t)
		id := newID()
		if _, err := shared.CreateDevice(t.Context(), registry.Identity{
			ID: id, Scope: e.device.Scope, Authentication: registry.Authentication{Type: registry.CertificateAuthority},
		}); err != nil {
			t.Fatal(err)
		}
		h := &holder{server: shared, id: id, key: newKey(t)}
		c := shared.dial(t)
		hi := hello(id, shared.Token(e.hub))
		hi.Username = topic.Username{Host: hubtest.Host, Device: id.Device, APIVersion: "2025-08-01-preview", AuthChain: id.Device + ";" + e.device.ID.Device}.String()
		if _, code := c.Connect(hi); code != 0 {
			t.Fatalf("CONNACK %d", code)
		}
		c.Subscribe(0, credentialFilter)
		c.Publish(certificateTopic("chain"), h.body(t, ""))
		refusedWith(t, c, "chain", 401, 401002)
		c.Disconnect()
	})
	t.Run("an older api-version", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		for version, known := range map[string]bool{
			"": false, "2021-04-12": false, "2025-07-31-preview": false, "2025-08-01-preview": true, "2025-08-01": true, "2026-11-15-preview": true,
		} {
			c := h.dial(t, h.shown...)
			hi := hello(h.id, "")
			hi.Username = topic.Username{Host: hubtest.Host, Device: h.id.Device, APIVersion: version}.String()
			if _, code := c.Connect(hi); code != 0 {
				t.Fatalf("CONNACK %d", code)
			}
			c.Subscribe(0, credentialFilter)
			c.Publish(certificateTopic("v"), []byte("{}"))
			code := 400001
			if known {
				code = 400004
			}
			refusedWith(t, c, "v", 400, code)
			c.Disconnect()
		}
	})
	t.Run("a device whose CA was withdrawn", func(t *testing.T) {
		t.Parallel()
		s := start(t, hubtest.Options{})
		h := s.holder(t)
		c := h.joined(t, 0)
		h.accepted(t, c, "before", h.body(t, ""))
		s.Distrust()
		refusedWith(t, c, "before", 400, 400037)
		c.Publish(certificateTopic("after"), h.body(t, ""))
		refusedWith(t, c, "after", 401, 401003)
		c.Disconnect()
	})
	t.Run("a device made again", func(t *testing.T) {
		t.Parallel()
		h := shared.holder(t)
		c := h.joined(t, 0)
		cert := h.wantIssued(t, c, h.accepted(t, c, "one", h.body(t, "")))
		c.Disconnect()
		if err := shared.DeleteDevice(t.Context(), h.id, nil); err != nil {
			t.Fatal(err)
		}
		shared.DeviceWith(t, h.id, registry.Authentication{Type: registry.CertificateAuthority})
		shared.refused(t, renewing(hello(h.id, "")), 5, cert)
	})
}

// Whoever looks after the installation can tell who got which certificate.
func TestCertificate_Audit(t *testing.T) {
	t.Parallel()
	h := shared.holder(t)
	c := h.joined(t, 0)
	of := h.accepted(t, c, "audited", h.body(t, ""))
	cert := h.wantIssued(t, c, of)
	bad := h.accepted(t, c, "refused", fmt.Appendf(nil, `{"id":%q,"csr":"TU9DSyBDU1I="}`, h.id.Device))
	refusedWith(t, c, "refused", 400, 400037)
	c.Disconnect()
	sum := sha256.Sum256(cert.Certificate[0])
	for correlation, want := range map[string]map[string]string{
		of.CorrelationID:  {"outcome": "done", "status": "200", "thumbprint": strings.ToUpper(hex.EncodeToString(sum[:])), "request": "audited"},
		bad.CorrelationID: {"outcome": "refused", "status": "400", "request": "refused"},
	} {
		lines := slices.DeleteFunc(shared.Log.Lines(slog.LevelInfo, correlation), func(l hubtest.Line) bool { return l.Attr("audit") != "true" })
		if len(lines) != 1 {
			t.Fatalf("%d audit records of %s, want 1", len(lines), correlation)
		}
		want["who"], want["target"], want["what"] = h.id.Device, h.id.Device, "issueCertificate"
		for name, value := range want {
			if got := lines[0].Attr(name); got != value {
				t.Errorf("%s is %q, want %q: %s", name, got, value, lines[0].Text)
			}
		}
		if !strings.HasPrefix(lines[0].Attr("from"), "127.0.0.1:") {
			t.Errorf("the record does not tell from where: %s", lines[0].Text)
		}
	}
}

// issuing is a fake whose answer waits from the first moment.
type issuing struct {
	fake
	fail  error
	looks int
	taken []string
}

func (f *issuing) Connect(ctx context.Context, c iot.Credentials, o iot.Opening, link iot.Link) (iot.Opened, error) {
	opened, err := f.fake.Connect(ctx, c, o, link)
	opened.Session = f
	return opened, err
}

func (f *issuing) CertificateAnswer(context.Context) (iot.CertificateAnswer, time.Duration, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	if f.fail != nil && f.looks == 1 {
		return iot.CertificateAnswer{}, 0, false, f.fail
	}
	a := iot.CertificateAnswer{Certificates: [][]byte{{1}}}
	a.RequestID, a.CorrelationID = "r", "c"
	return a, 0, true, nil
}

func (f *issuing) CertificateTaken(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, id)
	return nil
}

func (f *issuing) took() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.taken)
}

// At QoS 0 nothing says that an answer arrived but a connection that outlives the keep-alive.
func TestCertificate_KeptUntilTheDeviceLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &issuing{}
		b := newBubble(t, f)
		c := b.dial()
		if _, code := c.Connect(wire.Connect{ClientID: "d", Username: "h/d/?api-version=2025-08-01-preview", HasUsername: true, CleanSession: true, KeepAlive: 60}); code != 0 {
			t.Fatal(code)
		}
		c.Subscribe(0, credentialFilter)
		c.NextPublish()
		for range 2 { // 80 s
			time.Sleep(40 * time.Second)
			if n := f.took(); n != 0 {
				t.Fatalf("taken %d times before the keep-alive was over", n)
			}
			c.Send(wire.AppendPingreq(nil))
			c.Expect(wire.AppendPingresp(nil))
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if n := f.took(); n != 1 {
			t.Errorf("taken %d times after the keep-alive, want once", n)
		}
		c.Drop()
		b.stop()
	})
}

// What fails on our side is tried again, and the device hears nothing of it.
func TestCertificate_TriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &issuing{fail: fmt.Errorf("the disk is full")}
		b := newBubble(t, f)
		c := b.dial()
		if _, code := c.Connect(wire.Connect{ClientID: "d", Username: "h/d/?api-version=2025-08-01-preview", HasUsername: true, CleanSession: true, KeepAlive: 60}); code != 0 {
			t.Fatal(code)
		}
		c.Subscribe(1, credentialFilter)
		begin := time.Now()
		time.Sleep(25 * time.Second)
		c.Send(wire.AppendPingreq(nil))
		c.Expect(wire.AppendPingresp(nil))
		p := c.NextPublish()
		if took := time.Since(begin); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("tried again after %v, want 30 s", took)
		}
		c.Send(wire.AppendPuback(nil, p.PacketID))
		synctest.Wait()
		if f.took() != 1 {
			t.Error("the PUBACK did not end the operation")
		}
		c.Drop()
		b.stop()
	})
}
