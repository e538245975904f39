package dps

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Running tells the tests whether a registration of c is on its way.
func Running(s *Service, c *Caller) bool {
	s.ops.mu.Lock()
	defer s.ops.mu.Unlock()
	for _, op := range s.ops.byDevice[fold(c.RegistrationID())] {
		if op.body == nil {
			return true
		}
	}
	return false
}

func TestCodeOf_EveryKind(t *testing.T) {
	seen := 0
	for _, k := range fault.Kinds() {
		r := ErrorReply(fault.New(k, "why"))
		if r.ErrorCode < 400000 || r.ErrorCode > 599999 || r.Status != r.ErrorCode/1000 {
			t.Errorf("%v: status %d, code %d", k, r.Status, r.ErrorCode)
		}
		if k != fault.Internal && r.ErrorCode == codeOf(fault.Internal) {
			t.Errorf("%v has no row", k)
		}
		if wait := r.Status == 429 || r.Status >= 500; wait != (r.RetryAfter > 0) {
			t.Errorf("%v: status %d with retry-after %d", k, r.Status, r.RetryAfter)
		}
		var body struct {
			ErrorCode                         int
			TrackingID, Message, TimestampUtc string
		}
		if err := json.Unmarshal(r.Body, &body); err != nil || body.ErrorCode != r.ErrorCode || len(body.TrackingID) != 36 ||
			body.Message == "" || !strings.HasSuffix(body.TimestampUtc, "Z") {
			t.Errorf("%v: body %s: %v", k, r.Body, err)
		}
		seen++
	}
	if seen < 19 {
		t.Errorf("only %d kinds", seen)
	}
	if r := ErrorReply(&fault.Error{Kind: fault.Throttled, RetryAfter: 1500 * time.Millisecond}); r.RetryAfter != 2 {
		t.Errorf("retry-after %d, want 2", r.RetryAfter)
	}
}

func TestOperations_Bounded(t *testing.T) {
	now := time.Now()
	o := newOperations(3)
	var ops []*operation
	for i := range 3 {
		op, mine, err := o.begin(fmt.Sprint(i), nil, now)
		if err != nil || !mine {
			t.Fatal(err, mine)
		}
		ops = append(ops, op)
	}
	if op, mine, _ := o.begin("1", nil, now); mine || op != ops[1] {
		t.Error("a device that registers already got another operation")
	}
	if _, _, err := o.begin("3", nil, now); !fault.Is(err, fault.Throttled) {
		t.Errorf("with all of them running: %v, want Throttled", err)
	}
	o.finish(ops[0], []byte("{}"))
	if _, _, err := o.begin("3", nil, now); err != nil {
		t.Errorf("the oldest has ended: %v", err)
	}
	if _, _, ok := o.find(ops[0].id, "0", now); ok {
		t.Error("the oldest is still there")
	}
	o.drop(ops[0]) // twice is harmless
	o.drop(ops[1])
	o.finish(ops[2], []byte("{}"))
	o.prune(now.Add(operationLife + 1))
	if n := o.order.Len(); n != 1 || len(o.byID) != n || len(o.byDevice) != n {
		t.Errorf("%d, %d, %d left, want the running one", n, len(o.byID), len(o.byDevice))
	}
}

// fuzzedKey is a TPM2B_PUBLIC of an RSA-2048 storage key.
var fuzzedKey = func() string {
	b, _ := hex.DecodeString("011a" + "0001000b00030472" + "0000" + "0006008000430010" + "0800" + "00000000" + "0100")
	return base64.StdEncoding.EncodeToString(append(b, bytes.Repeat([]byte{0xC3}, 256)...))
}()

func TestFuzzedKey(t *testing.T) {
	if _, err := parseTPMKey("endorsementKey", fuzzedKey); err != nil {
		t.Fatal(err)
	}
}

// fuzzed is what enrollments may name there.
var fuzzed = place{hubs: []string{"hub"}, cas: []string{"ca"}, policies: []string{"default"}}

func FuzzCheckBody(f *testing.F) {
	for _, s := range []string{"", " ", `{"registrationId":"d1"}`, `{"payload":null,"registrationId":"D1"}`, `{"registrationId":"d2"}`, `{"csr":""}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if CheckBody("d1", body) != nil || strings.TrimSpace(string(body)) == "" {
			return
		}
		var r struct {
			ID *string `json:"registrationId"`
		}
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatalf("accepted %q: %v", body, err)
		}
		if r.ID != nil && !same(*r.ID, "d1") {
			t.Fatalf("accepted the id %q", *r.ID)
		}
	})
}

// What is read and written back changes nothing, and what is read holds no key.
func FuzzEnrollment(f *testing.F) {
	for _, s := range []string{
		`{"attestation":{"type":"symmetricKey"}}`,
		`{"registrationId":"d1","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"b3RoZXIga2V5IG90aGVyIGtleSBvdGhlciBrZXk="}},"deviceId":"x",
			"initialTwin":{"tags":{"$version":1,"a":{}},"properties":{"desired":{"b":[1]}}},"iotHubs":["hub"],"allocationPolicy":"static",
			"provisioningStatus":"disabled","reprovisionPolicy":{"updateHubAssignment":false},"capabilities":{"iotEdge":true},"optionalDeviceInformation":{"c":1}}`,
		`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"MIIB"}}}}}`,
		`{"attestation":{"type":"tpm"}}`, `{"initialTwin":null}`,
		`{"attestation":{"type":"tpm","tpm":{"endorsementKey":"` + fuzzedKey + `"}}}`,
		`{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"ca","secondary":"ca"}}},"credentialPolicyName":"default"}`,
		`{"attestation":{"type":"symmetricKey"},"allocationPolicy":"custom","customAllocationDefinition":{"webhookUrl":"https://x/y","apiVersion":"1"}}`,
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	spare := [2]secret.Secret{secret.New([]byte("spare key one, 24 bytes.")), secret.New([]byte("spare key two, 24 bytes."))}
	f.Fuzz(func(t *testing.T, body []byte, group bool) {
		d, err := parseEnrollment(group, "d1", body, fuzzed)
		if err != nil {
			return
		}
		e, err := d.over(nil, spare)
		if err != nil {
			return
		}
		j, err := render(e, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := marshal(j)
		var read struct {
			Attestation map[string]json.RawMessage `json:"attestation"`
		}
		if err := json.Unmarshal(text, &read); err != nil {
			t.Fatal(err)
		}
		if read.Attestation["symmetricKey"] != nil {
			t.Fatalf("a read shows a key: %s", text)
		}
		back, err := parseEnrollment(group, "d1", text, fuzzed)
		if err != nil {
			t.Fatalf("%s cannot be written back: %v", text, err)
		}
		again, err := back.over(&e, [2]secret.Secret{})
		if err != nil {
			t.Fatal(err)
		}
		twice, err := render(again, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), string(marshal(twice))); diff != "" {
			t.Fatalf("written back it changes:\n%s", diff)
		}
		if !e.Attestation.PrimaryKey.Matches(again.Attestation.PrimaryKey.Reveal()) || !e.Attestation.SecondaryKey.Matches(again.Attestation.SecondaryKey.Reveal()) {
			t.Fatal("written back it loses a key")
		}
	})
}
