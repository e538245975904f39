package dps_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/conform"
	"github.com/vauban-iot/vauban/wire/sas"
	"github.com/vauban-iot/vauban/wire/tpm/tpmtest"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// enrolled makes the enrollment of a TPM.
func enrolled(t *testing.T, w *dpstest.World, id string, dev *tpmtest.TPM, more string) {
	t.Helper()
	put(t, w, false, id, fmt.Sprintf(`{"attestation":{"type":"tpm","tpm":{"endorsementKey":%q}}%s}`, b64(dev.Endorsement), more))
}

// tpmBody is what a device with a TPM asks to register with, both times.
func tpmBody(dev *tpmtest.TPM) []byte {
	return []byte(fmt.Sprintf(`{"tpm":{"endorsementKey":%q,"storageRootKey":%q}}`, b64(dev.Endorsement), b64(dev.Storage)))
}

// challenged asks for a challenge, has the TPM take the key out, and signs a token with it.
func challenged(t *testing.T, w *dpstest.World, id string, dev *tpmtest.TPM) string {
	t.Helper()
	r, err := w.Challenge(t.Context(), byToken(id, ""), tpmBody(dev))
	if err != nil {
		t.Fatalf("challenge: %v", err)
	}
	var c map[string]any
	if err := json.Unmarshal(r.Body, &c); err != nil || r.Status != 401 || c["keyName"] != "registration" || c["message"] == "" || c["status"] != nil {
		t.Fatalf("challenge %d %s: %v", r.Status, r.Body, err)
	}
	activate(t, dev, c["authenticationKey"])
	return tpmToken(t, w, id, dev)
}

func activate(t *testing.T, dev *tpmtest.TPM, blob any) {
	t.Helper()
	text, _ := blob.(string)
	if err := dev.Activate(decode(t, text)); err != nil {
		t.Fatalf("the TPM refuses the blob: %v", err)
	}
}

func tpmToken(t *testing.T, w *dpstest.World, id string, dev *tpmtest.TPM) string {
	t.Helper()
	unsigned := sas.Sign(dpstest.Scope+"/registrations/"+id, []byte("k"), w.Clock.Now().Add(time.Hour), "registration")
	token, err := sas.Parse(unsigned)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s\n%d", token.Resource, token.Expiry.Unix())
	return fmt.Sprintf("SharedAccessSignature sr=%s&se=%d&skn=registration&sig=%s", token.Resource, token.Expiry.Unix(), strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(b64(dev.MAC(t, []byte(text)))))
}

func TestTPM(t *testing.T) {
	conform.Covers(t, "DPS-25")
	w := dpstest.New(t)
	dev := tpmtest.New(t)
	enrolled(t, w, "Board-1", dev, `,"deviceId":"b1"`)
	d, err := w.Enrollment(t.Context(), false, "board-1")
	if err != nil || !strings.Contains(string(d.JSON), b64(dev.Endorsement)) {
		t.Errorf("the enrollment reads %s, %v; the endorsement key is no secret", d.JSON, err)
	}
	c := byToken("board-1", challenged(t, w, "board-1", dev))
	who := caller(t, w, c)
	r := w.Register(t.Context(), who, tpmBody(dev))
	if r.Status != 202 {
		t.Fatalf("register: %d %s (%v)", r.Status, r.Body, r.Err)
	}
	// The question for the outcome comes by itself, with the token the registration came with.
	s := answer{w.Status(t.Context(), caller(t, w, c), r.OperationID)}.state(t)
	state, _ := s["tpm"].(map[string]any)
	if s["status"] != "assigned" || s["deviceId"] != "b1" || state["authenticationKey"] == nil || s["symmetricKey"] != nil {
		t.Fatalf("assigned %v", s)
	}
	// The second blob holds the key of the hub.
	activate(t, dev, state["authenticationKey"])
	a, _ := w.Hub.Device("b1")
	if a.AuthType != dps.AuthSAS || len(a.PrimaryKey.Reveal()) != 32 {
		t.Fatalf("the hub knows %+v", a)
	}
	if want := sas.DeriveKey(a.PrimaryKey.Reveal(), "data"); string(dev.MAC(t, []byte("data"))) != string(want) {
		t.Error("the TPM holds another key than the hub knows")
	}
	// Nobody else reads the blob: not the record, not a lookup.
	rec, err := w.Registration(t.Context(), "board-1")
	if err != nil || strings.Contains(string(rec.JSON), "authenticationKey") {
		t.Errorf("the record shows %s, %v", rec.JSON, err)
	}

	// It comes again, and gets another key.
	w.Clock.Add(time.Minute)
	who = caller(t, w, byToken("board-1", challenged(t, w, "board-1", dev)))
	r = w.Register(t.Context(), who, tpmBody(dev))
	s = answer{w.Status(t.Context(), who, r.OperationID)}.state(t)
	activate(t, dev, s["tpm"].(map[string]any)["authenticationKey"])
	again, _ := w.Hub.Device("b1")
	if again.PrimaryKey.Matches(a.PrimaryKey.Reveal()) || string(dev.MAC(t, []byte("data"))) != string(sas.DeriveKey(again.PrimaryKey.Reveal(), "data")) {
		t.Error("the second registration gave no key of its own")
	}
}

func TestTPM_EnrolledStorageRootKey(t *testing.T) {
	w := dpstest.New(t)
	dev := tpmtest.New(t)
	put(t, w, false, "d", fmt.Sprintf(`{"attestation":{"type":"tpm","tpm":{"endorsementKey":%q,"storageRootKey":%q}}}`, b64(dev.Endorsement), b64(dev.Storage)))
	only := []byte(fmt.Sprintf(`{"tpm":{"endorsementKey":%q}}`, b64(dev.Endorsement)))
	r, err := w.Challenge(t.Context(), byToken("d", ""), only)
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ AuthenticationKey string }
	if err := json.Unmarshal(r.Body, &c); err != nil {
		t.Fatal(err)
	}
	activate(t, dev, c.AuthenticationKey)
	who := caller(t, w, byToken("d", tpmToken(t, w, "d", dev)))
	r = w.Register(t.Context(), who, nil)
	if s := (answer{w.Status(t.Context(), who, r.OperationID)}).state(t); s["status"] != "assigned" {
		t.Errorf("it ended as %v", s)
	}
}

// Every refusal of a challenge or its answer is 401002 with one text; the reason is for the log.
func TestTPM_Refusals(t *testing.T) {
	w := dpstest.New(t)
	dev, thief := tpmtest.New(t), tpmtest.New(t)
	enrolled(t, w, "d", dev, "")
	enrolled(t, w, "off", dev, disabled)
	put(t, w, false, "keys", symmetric(groupKey, otherKey, ""))
	refused := func(what string, err error, reason string) {
		t.Helper()
		reply := dps.ErrorReply(err)
		if err == nil || reply.Status != 401 || reply.ErrorCode != 401002 || fault.Public(err) != "the credentials are not accepted" {
			t.Errorf("%s: %d %s (%v)", what, reply.Status, reply.Body, err)
			return
		}
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: the log has %q, want %q", what, err, reason)
		}
	}
	foreign := byToken("d", "")
	foreign.IDScope = "0neOther"
	for _, test := range []struct {
		name   string
		c      dps.Credentials
		body   string
		reason string
	}{
		{"a foreign scope", foreign, string(tpmBody(dev)), "unknown id scope"},
		{"no id", byToken("", ""), string(tpmBody(dev)), "registration id"},
		{"nothing at all", byToken("d", ""), ``, "neither a token"},
		{"no endorsement key", byToken("d", ""), `{"tpm":{}}`, "endorsementKey is missing"},
		{"an endorsement key that is no base64", byToken("d", ""), `{"tpm":{"endorsementKey":"?"}}`, "not base64"},
		{"a cut endorsement key", byToken("d", ""), `{"tpm":{"endorsementKey":"` + b64(dev.Endorsement[:100]) + `"}}`, "ends early"},
		{"a signing key", byToken("d", ""), `{"tpm":{"endorsementKey":"` + b64(append([]byte{0, 4}, 0, 1, 0, 11)) + `"}}`, "ends early"},
		{"another TPM", byToken("d", ""), string(tpmBody(thief)), "not the enrolled one"},
		{"an unknown device", byToken("x", ""), string(tpmBody(dev)), "no enrollment"},
		{"a device with keys", byToken("keys", ""), string(tpmBody(dev)), "symmetricKey"},
		{"a disabled one", byToken("off", ""), string(tpmBody(dev)), "disabled"},
	} {
		_, err := w.Challenge(t.Context(), test.c, []byte(test.body))
		refused(test.name, err, test.reason)
	}
	for _, test := range []struct{ name, body, message string }{
		{"no storage root key", `{"tpm":{"endorsementKey":"` + b64(dev.Endorsement) + `"}}`, "tpm.storageRootKey is missing"},
		{"a broken storage root key", `{"tpm":{"endorsementKey":"` + b64(dev.Endorsement) + `","storageRootKey":"AA=="}}`, "tpm.storageRootKey is no TPM2B_PUBLIC"},
		{"another id", `{"registrationId":"e"}`, "registrationId"},
	} {
		if _, err := w.Challenge(t.Context(), byToken("d", ""), []byte(test.body)); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Public(err), test.message) {
			t.Errorf("%s: %v, want %q", test.name, err, test.message)
		}
	}

	try := func(token string, noTPM bool) (*dps.Caller, error) {
		c := byToken("d", token)
		c.NoTPM = noTPM
		return w.Authenticate(t.Context(), c)
	}
	token := challenged(t, w, "d", dev)
	_, err := try(token, true)
	refused("over MQTT", err, "this protocol has no attestation by TPM")
	_, err = try(sas.Sign(dpstest.Scope+"/registrations/d", []byte("guess"), w.Clock.Now().Add(time.Hour), "registration"), false)
	refused("a token of another key", err, "no challenge that is open")
	_, err = w.Authenticate(t.Context(), byToken("off", token))
	refused("a token of another device", err, "no challenge that is open")
	who, err := try(token, false)
	if err != nil {
		t.Fatal(err)
	}
	reply := w.Register(t.Context(), who, tpmBody(thief))
	refused("another TPM's key at the registration", reply.Err, "not the enrolled one")
	stale, err := try(token, false) // while the challenge is still open
	if err != nil {
		t.Fatal(err)
	}
	if reply = w.Register(t.Context(), who, tpmBody(dev)); reply.Status != 202 {
		t.Fatalf("register: %d %s (%v)", reply.Status, reply.Body, reply.Err)
	}

	// Replays. The outcome may be asked for; nothing can be registered any more.
	again, err := try(token, false)
	if err != nil {
		t.Fatalf("the outcome may not be asked for: %v", err)
	}
	if r := w.Status(t.Context(), again, reply.OperationID); r.Status != 200 {
		t.Errorf("the outcome is %d %s", r.Status, r.Body)
	}
	for what, c := range map[string]*dps.Caller{"a replayed answer": again, "an answer that was checked before it was used": stale} {
		r := w.Register(t.Context(), c, tpmBody(dev))
		if r.Status != 401 || r.ErrorCode != 401002 {
			t.Errorf("%s: %d %s", what, r.Status, r.Body)
		}
		refused(what, r.Err, "has been used")
	}
	w.Clock.Add(20 * time.Minute) // operations are forgotten by now, and with them the last use of the token
	_, err = try(token, false)
	refused("a replayed answer, later", err, "no challenge that is open")

	// An answer that comes late.
	token = challenged(t, w, "d", dev)
	w.Clock.Add(4 * time.Minute)
	if _, err := try(token, false); err != nil {
		t.Errorf("an answer after 4 minutes: %v", err)
	}
	w.Clock.Add(6 * time.Minute)
	_, err = try(token, false)
	refused("an answer after 10 minutes", err, "no challenge that is open")
}

// Servers of a cluster share the secret, so the answer may come to another one than the challenge came from; one with another
// secret, such as another installation's, takes no answer.
func TestTPM_AnyServerOfTheCluster(t *testing.T) {
	dev := tpmtest.New(t)
	one := dpstest.New(t)
	enrolled(t, one, "d", dev, "")
	token := challenged(t, one, "d", dev)
	other, err := dps.New(dps.Config{IDScope: dpstest.Scope, Store: one.Store, Hub: one.Hub, Now: one.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authenticate(t.Context(), byToken("d", token)); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("with another secret: %v", err)
	}
	if other, err = dps.New(dps.Config{IDScope: dpstest.Scope, Store: one.Store, Hub: one.Hub, Now: one.Clock.Now, Secret: dpstest.Secret}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Authenticate(t.Context(), byToken("d", token)); err != nil {
		t.Errorf("with the same secret: %v", err)
	}
}
