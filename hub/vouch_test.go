package hub_test

import (
	"context"
	"crypto/x509"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki/pkitest"
)

// A certificate that somebody else answers for opens a session that ends soon after it does, and none when he changes his mind while it opens.
func TestConnect_Vouched(t *testing.T) {
	t.Parallel()
	asked := 0
	var second func() error // what becomes of the question once the session has its route
	w := hubtest.New(t, hubtest.Options{Memory: true, Vouch: func(context.Context, []*x509.Certificate) (bool, error) {
		if asked++; asked == 2 {
			return true, second()
		}
		return true, nil
	}})
	ca := pkitest.NewCA(t, "plant")
	w.Trust(ca.Cert)
	w.DeviceWith(t, lamp, registry.Authentication{Type: registry.CertificateAuthority})
	leaf := ca.Leaf(t, lamp.Device).Leaf
	open := func(at func() error) (*link, iot.Opened, error) {
		asked, second = 0, at
		l := new(link)
		o, err := w.Connect(t.Context(), iot.Credentials{ID: lamp, Host: hubtest.Host, Certificates: []*x509.Certificate{leaf}}, iot.Opening{Clean: true}, l)
		return l, o, err
	}
	if _, _, err := open(func() error { return fault.New(fault.Disabled, "the device is disabled") }); !fault.Is(err, fault.Disabled) {
		t.Errorf("disabled while it connects: %v", err)
	}
	// The certificate is at its end, and its grace nearly, when the session is open.
	const left, grace = 200 * time.Millisecond, 10 * time.Minute
	l, o, err := open(func() error {
		w.Clock.Add(leaf.NotAfter.Add(grace - left).Sub(w.Clock.Now()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "the session to end", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return fault.Is(l.closed, fault.Unauthorized)
	})
	o.Session.End(t.Context())
}
