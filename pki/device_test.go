package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/pki/pkitest"
)

// chain parses what a device presents.
func chain(t *testing.T, c tls.Certificate) []*x509.Certificate {
	t.Helper()
	var cs []*x509.Certificate
	for _, der := range c.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, x)
	}
	return cs
}

func TestVerifyChain(t *testing.T) {
	t.Parallel()
	root := pkitest.NewCA(t, "root")
	middle := root.Intermediate(t, "middle")
	low := middle.Intermediate(t, "low")
	stranger := pkitest.NewCA(t, "root")
	only := func(c tls.Certificate) tls.Certificate { c.Certificate = c.Certificate[:1]; return c }
	withRoot := func(c tls.Certificate) tls.Certificate {
		c.Certificate = append(c.Certificate, root.Cert.Raw)
		return c
	}
	now := time.Now()
	for name, tc := range map[string]struct {
		cert    tls.Certificate
		anchors []*x509.Certificate
		at      time.Time
		length  int // of the chain found; 0: an error
		want    error
	}{
		"signed by the root":         {root.Leaf(t, "d"), []*x509.Certificate{root.Cert}, now, 2, nil},
		"two intermediates":          {low.Leaf(t, "d"), []*x509.Certificate{root.Cert}, now, 4, nil},
		"root sent, too":             {withRoot(low.Leaf(t, "d")), []*x509.Certificate{root.Cert}, now, 4, nil},
		"an intermediate is trusted": {low.Leaf(t, "d"), []*x509.Certificate{low.Cert}, now, 2, nil},
		"the anchor is one of many":  {low.Leaf(t, "d"), []*x509.Certificate{stranger.Cert, middle.Cert}, now, 3, nil},
		"for clients":                {root.Leaf(t, "d", pkitest.WithEKU(x509.ExtKeyUsageClientAuth)), []*x509.Certificate{root.Cert}, now, 2, nil},
		"intermediates missing":      {only(low.Leaf(t, "d")), []*x509.Certificate{root.Cert}, now, 0, pki.ErrUntrusted},
		"another root, same name":    {stranger.Leaf(t, "d"), []*x509.Certificate{root.Cert}, now, 0, pki.ErrUntrusted},
		"a root it brought itself":   {withRoot(root.Leaf(t, "d")), []*x509.Certificate{stranger.Cert}, now, 0, pki.ErrUntrusted},
		"no anchors":                 {root.Leaf(t, "d"), nil, now, 0, pki.ErrUntrusted},
		"self-signed":                {pkitest.SelfSigned(t, "d"), []*x509.Certificate{root.Cert}, now, 0, pki.ErrUntrusted},
		"signed by a leaf":           {root.ByLeaf(t, "d"), []*x509.Certificate{root.Cert}, now, 0, pki.ErrUntrusted},
		"for servers only":           {root.Leaf(t, "d", pkitest.WithEKU(x509.ExtKeyUsageServerAuth)), []*x509.Certificate{root.Cert}, now, 0, pki.ErrUntrusted},
		"expired":                    {root.Leaf(t, "d", pkitest.Expired()), []*x509.Certificate{root.Cert}, now, 0, pki.ErrExpired},
		"not yet valid":              {root.Leaf(t, "d", pkitest.NotYetValid()), []*x509.Certificate{root.Cert}, now, 0, pki.ErrExpired},
		"in a week":                  {root.Leaf(t, "d"), []*x509.Certificate{root.Cert}, now.Add(7 * 24 * time.Hour), 0, pki.ErrExpired},
		"no certificate":             {tls.Certificate{}, []*x509.Certificate{root.Cert}, now, 0, pki.ErrNoCertificate},
	} {
		got, err := pki.VerifyChain(chain(t, tc.cert), tc.anchors, tc.at)
		if len(got) != tc.length || !errors.Is(err, tc.want) {
			t.Errorf("%s: chain of %d, %v; want %d, %v", name, len(got), err, tc.length, tc.want)
		}
	}
}

func TestThumbprints(t *testing.T) {
	t.Parallel()
	c := pkitest.SelfSigned(t, "d").Leaf
	one, two := pki.Thumbprints(c)
	if len(one) != 40 || len(two) != 64 {
		t.Errorf("got %q and %q", one, two)
	}
	other, _ := pki.Thumbprints(pkitest.SelfSigned(t, "d").Leaf)
	if other == one {
		t.Error("two certificates have one thumbprint")
	}
}
