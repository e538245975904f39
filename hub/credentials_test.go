package hub_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/iot"
)

// An answer that nobody comes for is swept away.
func TestCertificate_Expires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := memory(t)
		o, _ := connect(t, w, w.Device(t, lamp), iot.Opening{})
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		begun := w.Clock.Now()
		body := fmt.Appendf(nil, `{"id":"lamp","csr":%q}`, base64.StdEncoding.EncodeToString(csr))
		if _, err := o.Session.RequestCertificate(t.Context(), "rid", body, ""); err != nil {
			t.Fatal(err)
		}
		o.Session.End(t.Context())
		time.Sleep(31 * time.Second)
		if _, err := w.Store.Credential(t.Context(), lamp, begun); err != nil {
			t.Errorf("swept away before its time: %v", err)
		}
		w.Clock.Add(credential.Life)
		time.Sleep(31 * time.Second)
		if _, err := w.Store.Credential(t.Context(), lamp, begun); !fault.Is(err, fault.NotFound) {
			t.Errorf("after a day the operation is still there (%v)", err)
		}
	})
}
