package dps

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/wire/connstr"
)

// Hub is a hub as provisioning needs it.
type Hub interface {
	// Host is the name devices are told to connect to.
	Host() string
	// Assign creates or updates a device; created tells whether it is new. What the hub refuses for good is a fault of a kind
	// that says so, and [ErrHubRefuses] when it does not know us.
	Assign(ctx context.Context, a Assignment) (created bool, err error)
	// Twin reads what a device that goes to another hub takes along: objects without $metadata and $version, or nil; fault.NotFound.
	Twin(ctx context.Context, deviceID string) (tags, desired json.RawMessage, err error)
	// Remove deletes a device that went to another hub. One that is not there is no error.
	Remove(ctx context.Context, deviceID string) error
}

// Issuer is a [Hub] that signs certificates for its devices.
type Issuer interface {
	// Issue signs a request of a device that was assigned, and returns the chain in DER, from the leaf to the root.
	Issue(ctx context.Context, r *x509.CertificateRequest, deviceID string) (chain [][]byte, err error)
}

// linked is a linked hub ready for use.
type linked struct {
	LinkedHub
	hub      Hub
	networks []netip.Prefix
}

// linkedHubs reads the hubs, in order of their names. This installation's own is always among them.
func (s *Service) linkedHubs(ctx context.Context) ([]*linked, error) {
	return s.hubs.get(ctx, s.now(), func(ctx context.Context) ([]*linked, error) {
		saved, err := s.cfg.Store.LinkedHubs(ctx)
		if err != nil {
			return nil, fmt.Errorf("list linked hubs: %w", err)
		}
		own := &linked{LinkedHub: LinkedHub{Host: s.cfg.Hub.Host(), Weight: 1}, hub: s.cfg.Hub}
		all := []*linked{own}
		for _, h := range saved {
			l := &linked{LinkedHub: h}
			switch {
			case same(h.Host, own.Host):
				l.Host, l.hub = own.Host, s.cfg.Hub
				all[0] = l
			case h.ConnectionString.IsZero(): // this installation had that name once
				continue
			default:
				if l.hub, err = s.dialed(h); err != nil {
					return nil, fmt.Errorf("linked hub %s: %w", h.Host, err)
				}
				all = append(all, l)
			}
			for _, text := range h.Networks {
				p, err := netip.ParsePrefix(text)
				if err != nil {
					return nil, fmt.Errorf("linked hub %s: %w", h.Host, err)
				}
				l.networks = append(l.networks, p)
			}
		}
		slices.SortFunc(all, func(a, b *linked) int { return strings.Compare(fold(a.Host), fold(b.Host)) })
		return all, nil
	})
}

// dialed returns the client of a linked hub: the one it had, unless it is reached in another way now.
func (s *Service) dialed(h LinkedHub) (Hub, error) {
	way := h.ConnectionString.Base64() + "\n" + h.Address + "\n" + h.Authority
	s.dialMu.Lock()
	defer s.dialMu.Unlock()
	old, ok := s.clients[fold(h.Host)]
	if ok && old.way == way {
		return old.Hub, nil
	}
	if s.cfg.Dial == nil {
		return nil, fault.New(fault.Invalid, "this service assigns devices to its own hub only")
	}
	hub, err := s.cfg.Dial(h)
	if err != nil {
		return nil, err
	}
	if ok {
		old.close()
	}
	s.clients[fold(h.Host)] = client{hub, way}
	return hub, nil
}

// client is a hub with the way it is reached.
type client struct {
	Hub
	way string
}

func (c client) close() {
	if c, ok := c.Hub.(io.Closer); ok {
		_ = c.Close() // it ends idle connections
	}
}

// place reads what an enrollment that is written now may name.
func (s *Service) place(ctx context.Context) (p place, err error) {
	hubs, err := s.linkedHubs(ctx)
	if err != nil {
		return p, err
	}
	for _, h := range hubs {
		p.hubs = append(p.hubs, h.Host)
	}
	cas, err := s.cfg.Store.CAs(ctx)
	if err != nil {
		return p, fmt.Errorf("list certificates: %w", err)
	}
	for _, ca := range cas {
		p.cas = append(p.cas, ca.Name)
	}
	if _, ok := s.cfg.Hub.(Issuer); ok {
		p.policies = []string{CredentialPolicy}
	}
	return p, nil
}

// LinkedHubs lists the hubs that devices are assigned to, in order of their names; this installation's own is always among them.
func (s *Service) LinkedHubs(ctx context.Context) ([]LinkedHub, error) {
	all, err := s.linkedHubs(ctx)
	if err != nil {
		return nil, err
	}
	hubs := make([]LinkedHub, len(all))
	for i, h := range all {
		hubs[i] = h.LinkedHub
	}
	return hubs, nil
}

// Limits of linked hubs.
const (
	maxLinked   = 50 // dps §11
	maxWeight   = 1000
	maxNetworks = 256
)

// LinkHub adds a hub, or changes one that is linked. Of the name of this installation's own hub, everything but how it is reached may be
// changed. An unset connection string, address and authority of a hub that is linked stay.
func (s *Service) LinkHub(ctx context.Context, h LinkedHub) (LinkedHub, error) {
	own := same(h.Host, s.cfg.Hub.Host())
	if err := s.checkHub(&h, own); err != nil {
		return LinkedHub{}, err
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	all, err := s.linkedHubs(ctx)
	if err != nil {
		return LinkedHub{}, err
	}
	if len(all) >= maxLinked && !slices.ContainsFunc(all, func(l *linked) bool { return same(l.Host, h.Host) }) {
		return LinkedHub{}, fault.New(fault.Invalid, "%d hubs are linked, which is the limit", maxLinked)
	}
	defer s.hubs.changed()
	now := s.now()
	return s.cfg.Store.PutLinkedHub(ctx, h.Host, func(old *LinkedHub) (LinkedHub, error) {
		next := h
		next.Created, next.Updated = now, now
		if old != nil {
			next.Host, next.Created = old.Host, old.Created
			if next.ConnectionString.IsZero() {
				next.ConnectionString = old.ConnectionString
			}
			if next.Address == "" {
				next.Address = old.Address
			}
			if next.Authority == "" {
				next.Authority = old.Authority
			}
		}
		if own {
			next.Host = s.cfg.Hub.Host()
			return next, nil
		}
		if next.ConnectionString.IsZero() {
			return next, fault.New(fault.Invalid, "the connection string of hub %s is missing", h.Host)
		}
		if s.cfg.Dial == nil {
			return next, fault.New(fault.Invalid, "this service assigns devices to its own hub only")
		}
		hub, err := s.cfg.Dial(next)
		if err != nil {
			return next, fault.Wrap(fault.Invalid, err, "hub %s cannot be linked: %v", h.Host, err)
		}
		client{Hub: hub}.close()
		return next, nil
	})
}

func (s *Service) checkHub(h *LinkedHub, own bool) error {
	if !h.ConnectionString.IsZero() {
		cs, err := connstr.Parse(string(h.ConnectionString.Reveal()))
		switch {
		case own:
			return fault.New(fault.Invalid, "%s is this installation's own hub; it needs no connection string", h.Host)
		case err != nil || cs.SharedAccessKeyName == "" || cs.SharedAccessKey == "" || cs.DeviceID != "":
			return fault.New(fault.Invalid, "the connection string must be that of a policy: HostName=...;SharedAccessKeyName=...;SharedAccessKey=...")
		case h.Host == "":
			h.Host = cs.HostName
		case !same(h.Host, cs.HostName):
			return fault.New(fault.Invalid, "the connection string is that of %s, not of %s", cs.HostName, h.Host)
		}
		if same(h.Host, s.cfg.Hub.Host()) {
			return fault.New(fault.Invalid, "%s is this installation's own hub; it needs no connection string", h.Host)
		}
	}
	switch {
	case h.Host == "" || len(h.Host) > netxName || !plain(h.Host):
		return fault.New(fault.Invalid, "the name of a hub has 1 to %d letters, digits, dots and dashes: NetX Duo devices have no room for more", netxName)
	case own && (h.Address != "" || h.Authority != ""):
		return fault.New(fault.Invalid, "%s is this installation's own hub; it is not reached over the network", h.Host)
	case h.Weight < 0 || h.Weight > maxWeight:
		return fault.New(fault.Invalid, "the weight of a hub is 1 to %d", maxWeight)
	case len(h.Networks) > maxNetworks:
		return fault.New(fault.Invalid, "a hub has at most %d networks", maxNetworks)
	}
	if h.Weight == 0 {
		h.Weight = 1
	}
	if h.Address != "" {
		if _, _, err := net.SplitHostPort(h.Address); err != nil {
			return fault.New(fault.Invalid, "the address %q is not host:port", h.Address)
		}
	}
	if h.Authority != "" {
		if _, err := pki.ParseCertificates([]byte(h.Authority)); err != nil {
			return fault.Wrap(fault.Invalid, err, "the CA of hub %s cannot be read: %v", h.Host, err)
		}
	}
	for i, text := range h.Networks {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fault.New(fault.Invalid, "%q is no network in the form of 10.1.0.0/16", text)
		}
		h.Networks[i] = p.Masked().String()
	}
	return nil
}

// UnlinkHub forgets a hub. Devices that were assigned to it stay there until they register again. Of this installation's own hub it
// forgets the weight and networks; the hub stays.
func (s *Service) UnlinkHub(ctx context.Context, host string) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	for _, group := range []bool{false, true} {
		by, err := s.namesHub(ctx, group, host)
		if err != nil {
			return err
		}
		if by != "" && !same(host, s.cfg.Hub.Host()) {
			return fault.New(fault.AlreadyExists, "enrollment %q names hub %s; change it first", by, host)
		}
	}
	if err := s.cfg.Store.DeleteLinkedHub(ctx, host); err != nil {
		return err
	}
	s.hubs.changed()
	s.dialMu.Lock()
	defer s.dialMu.Unlock()
	if c, ok := s.clients[fold(host)]; ok {
		c.close()
	}
	delete(s.clients, fold(host))
	return nil
}

// namesHub finds an enrollment that names a hub.
func (s *Service) namesHub(ctx context.Context, group bool, host string) (string, error) {
	for after := ""; ; {
		es, err := s.cfg.Store.Enrollments(ctx, group, after, maxPage)
		if err != nil {
			return "", err
		}
		for _, e := range es {
			after = fold(e.Name)
			if same(e.HubName, host) || slices.ContainsFunc(e.Hubs, func(h string) bool { return same(h, host) }) {
				return e.Name, nil
			}
		}
		if len(es) < maxPage {
			return "", nil
		}
	}
}
