package dps_test

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/dps"
	"github.com/vauban-iot/vauban/dps/dpstest"
	"github.com/vauban-iot/vauban/wire/sas"
)

// What a device's credentials lack is told of, by its reason, and nothing else is; so is who proved itself, and from where.
func TestAuthenticate_TellsOfRejections(t *testing.T) {
	var heard []string
	w := dpstest.NewWith(t, func(c *dps.Config) {
		c.Rejected = func(c dps.Credentials, device string, why dps.Rejection) {
			heard = append(heard, fmt.Sprintf("rejected %s %q %d", c.RegistrationID, device, why))
		}
		c.Connected = func(device string, from netip.Addr) { heard = append(heard, "connected "+device+" "+from.String()) }
	})
	key, old := decode(t, otherKey), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	root, stranger := dpstest.NewCA(t, "root"), dpstest.NewCA(t, "root")
	mine, other, lapsed := root.Leaf(t, "pinned", nil), root.Leaf(t, "pinned", nil), root.Leaf(t, "lapsed", old)
	put(t, w, false, "lamp", symmetric(otherKey, "", `,"deviceId":"lamp-1"`))
	put(t, w, false, "pinned", leaves(mine.PEM(), "", ""))
	put(t, w, false, "lapsed", leaves(lapsed.PEM(), "", ""))
	put(t, w, true, "keys", symmetric(groupKey, "", ""))
	put(t, w, true, "signed", authorities(root.PEM(), "", ""))
	signed := func(id string, key []byte, until time.Duration) dps.Credentials {
		return byToken(id, sas.Sign(dpstest.Scope+"/registrations/"+id, key, w.Clock.Now().Add(until), "registration"))
	}
	grown := sas.DeriveKey(decode(t, groupKey), "k1")
	for name, tc := range map[string]struct {
		c    dps.Credentials
		want []string
	}{
		"good":                           {signed("lamp", key, time.Hour), []string{"connected lamp-1 192.0.2.1"}},
		"good, of a group":               {signed("k1", grown, time.Hour), []string{"connected k1 192.0.2.1"}},
		"signed by another key":          {signed("lamp", grown, time.Hour), []string{`rejected lamp "lamp-1" 2`}},
		"not readable":                   {byToken("lamp", "nonsense"), []string{`rejected lamp "lamp-1" 2`}},
		"expired":                        {signed("lamp", key, -time.Hour), []string{`rejected lamp "lamp-1" 1`}},
		"expired, signed by another key": {signed("lamp", grown, -time.Hour), []string{`rejected lamp "lamp-1" 2`}},
		"expired, of a group":            {signed("k1", grown, -time.Hour), []string{`rejected k1 "k1" 1`}},
		"of no group":                    {signed("k1", key, time.Hour), []string{`rejected k1 "" 2`}},
		"no token":                       {byCertificate("lamp", mine.Chain(1)), nil},
		"the enrolled certificate":       {byCertificate("pinned", mine.Chain(1)), []string{"connected pinned 192.0.2.1"}},
		"another certificate":            {byCertificate("pinned", other.Chain(1)), []string{`rejected pinned "pinned" 3`}},
		"the enrolled one, expired":      {byCertificate("lapsed", lapsed.Chain(1)), []string{`rejected lapsed "lapsed" 4`}},
		"expired, of a group's CA":       {byCertificate("s1", root.Leaf(t, "s1", old).Chain(1)), []string{`rejected s1 "s1" 4`}},
		"expired, of a CA of that name":  {byCertificate("s1", stranger.Leaf(t, "s1", old).Chain(1)), nil},
		"of a CA nobody enrolled":        {byCertificate("s1", stranger.Leaf(t, "s1", nil).Chain(1)), nil},
		"nothing":                        {byToken("lamp", ""), nil},
	} {
		heard = nil
		tc.c.Address = netip.MustParseAddr("192.0.2.1")
		w.Authenticate(t.Context(), tc.c)
		if !slices.Equal(heard, tc.want) {
			t.Errorf("%s: heard %q, want %q", name, heard, tc.want)
		}
	}
}
