package hub

import (
	"crypto/x509"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/credential"
	"github.com/vauban-iot/vauban/hub/registry"
)

// Issuer is the authority that gives devices certificates, when they register and later.
type Issuer interface {
	Root() *x509.Certificate
	credential.Issuer
}

// checkIssued judges a device that an authority of the hub's own vouches for: the certificate must be of this very device, not of one
// that had its id before.
func (h *Hub) checkIssued(chain []*x509.Certificate, d registry.Identity) error {
	if h.cfg.Issuer == nil || !chain[len(chain)-1].Equal(h.cfg.Issuer.Root()) {
		return nil
	}
	if chain[0].Subject.SerialNumber != d.Generation {
		return fault.New(fault.Unauthorized, "the certificate was issued to a device that had this id before")
	}
	return nil
}
