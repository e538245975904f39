package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// read reads all rows: documents, or refusals with "!" before them; an error ends it.
func read(next func() (json.RawMessage, error, error)) (rows []string, err error) {
	for {
		row, refusal, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return rows, nil
		case err != nil:
			return rows, err
		case refusal != nil:
			rows = append(rows, "!"+refusal.Error())
		default:
			rows = append(rows, string(row))
		}
	}
}

func TestJSONRows(t *testing.T) {
	for _, test := range []struct {
		name, in, want, err string
		k                   kind
	}{
		{"nothing", "", "", "", individuals},
		{"only space", " \n ", "", "", individuals},
		{"an empty array", " [ ] ", "", "", individuals},
		{"an array", `[{"a":1}, {"b":2}]`, `{"a":1}|{"b":2}`, "", individuals},
		{"lines", "{\"a\":1}\n{\"b\":2}\n\n", `{"a":1}|{"b":2}`, "", individuals},
		{"one", `{"registrationId":"x"}`, `{"registrationId":"x"}`, "", individuals},
		{"an object with an array", `{"enrollments":[{"a":1},{"b":2}]}`, `{"a":1}|{"b":2}`, "", individuals},
		{"an object with groups", `{"enrollmentGroups":[{"a":1}]}`, `{"a":1}`, "", groups},
		{"an array that is cut", `[{"a":1},`, `{"a":1}`, "unexpected EOF", individuals},
		{"an array without end", `[{"a":1}`, `{"a":1}`, "unexpected EOF", individuals},
		{"no JSON", `{"a":1} x`, `{"a":1}`, "invalid character", individuals},
		{"an object whose list is none", `{"enrollments":{}}`, "", "cannot unmarshal", individuals},
	} {
		t.Run(test.name, func(t *testing.T) {
			rows, err := read(jsonRows(strings.NewReader(test.in), test.k))
			if got := strings.Join(rows, "|"); got != test.want {
				t.Errorf("rows %s, want %s", got, test.want)
			}
			if fmt.Sprint(err) != "<nil>" && test.err == "" || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestCSVRows(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(pem, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, in string
		want     []string
		err      string
		k        kind
	}{
		{"nothing", "", nil, "", individuals},
		{"only a header", "registrationId\n", nil, "", individuals},
		{"names alone", "\ufeffregistrationId\na\nb\n", []string{
			`{"attestation":{"type":"symmetricKey"},"registrationId":"a"}`, `{"attestation":{"type":"symmetricKey"},"registrationId":"b"}`,
		}, "", individuals},
		{"everything", "REGISTRATIONID, deviceId,primaryKey,provisioningStatus,iotEdge,iotHubs,tags,desired,reprovision,allocationPolicy,credentialPolicyName\n" +
			`a,d,k,disabled,true,x y,"{""s"":1}","{""n"":2}",reset,static,default`, []string{
			`{"allocationPolicy":"static","attestation":{"symmetricKey":{"primaryKey":"k","secondaryKey":""},"type":"symmetricKey"},"capabilities":{"iotEdge":true},"credentialPolicyName":"default","deviceId":"d",` +
				`"initialTwin":{"properties":{"desired":{"n":2}},"tags":{"s":1}},"iotHubs":["x","y"],"provisioningStatus":"disabled","registrationId":"a","reprovisionPolicy":{"migrateDeviceData":false,"updateHubAssignment":true}}`,
		}, "", individuals},
		{"a TPM", "registrationId,endorsementKey,storageRootKey\na,ek,\n", []string{`{"attestation":{"tpm":{"endorsementKey":"ek"},"type":"tpm"},"registrationId":"a"}`}, "", individuals},
		{"a certificate", "registrationId,primaryCertificate\na,MII\n", []string{`{"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"MII"}}}},"registrationId":"a"}`}, "", individuals},
		{"a CA in a file", "enrollmentGroupId,primaryCertificate\ng,@" + pem + "\n", []string{`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":"-----BEGIN"}}}},"enrollmentGroupId":"g"}`}, "", groups},
		{"CAs by name", "enrollmentGroupId,primaryCA,secondaryCA\ng,a,b\n", []string{`{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"a","secondary":"b"}}},"enrollmentGroupId":"g"}`}, "", groups},
		{"a webhook", "enrollmentGroupId,webhookUrl\ng,https://h\n", []string{`{"allocationPolicy":"custom","attestation":{"type":"symmetricKey"},"customAllocationDefinition":{"apiVersion":"2021-10-01","webhookUrl":"https://h"},"enrollmentGroupId":"g"}`}, "", groups},
		{"rows that are wrong", "registrationId,tags,iotEdge,provisioningStatus,reprovision\na,{,,,\nb,,maybe,,\nc,,,on,\nd,,,,often\ne\nf,,,,\n", []string{
			"!tags is not JSON", "!iotEdge must be true or false", "!provisioningStatus must be enabled or disabled", `!unknown reprovisioning "often" (want "migrate", "reset" or "never")`,
			"!record on line 6: wrong number of fields", `{"attestation":{"type":"symmetricKey"},"registrationId":"f"}`,
		}, "", individuals},
		{"an unknown column", "registrationId,colour\na,red\n", nil, `unknown column "colour"`, individuals},
		{"a column of the other kind", "registrationId,primaryCA\na,x\n", nil, `unknown column "primaryCA"`, individuals},
		{"no name", "deviceId\na\n", nil, "does not name the column registrationId", individuals},
		{"a quote that does not end", "registrationId\n\"a\n", nil, "quote", individuals},
	} {
		t.Run(test.name, func(t *testing.T) {
			rows, err := read(csvRows(strings.NewReader(test.in), test.k))
			if strings.Join(rows, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("rows\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(test.want, "\n"))
			}
			if err == nil != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}
