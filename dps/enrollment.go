package dps

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
)

// The attestation types this service takes (dps §10.3).
const (
	SymmetricKey = "symmetricKey"
	X509         = "x509"
)

// The allocation policies this service takes. It has one hub, so all give the same (dps §9.1).
var allocations = []string{"hashed", "geoLatency", "static"}

// Limits of what an enrollment may hold.
const (
	minKey     = 16 // bytes once decoded (dps §2.2)
	maxKey     = 64
	freshKey   = 64
	maxTwin    = 32 << 10 // of tags, and of desired properties
	maxInfo    = 8 << 10
	maxHubs    = 50
	maxGroups  = 100 // of either attestation type (dps §11): each costs a device four HMACs
	maxEntries = 10  // of a bulk operation
)

// enrollmentDoc is IndividualEnrollment and EnrollmentGroup as they are written (dps §10.3).
// What only the service sets is read over: clients send back what they got.
type enrollmentDoc struct {
	RegistrationID string          `json:"registrationId"`
	GroupID        string          `json:"enrollmentGroupId"`
	DeviceID       string          `json:"deviceId"`
	Info           json.RawMessage `json:"optionalDeviceInformation"`
	Attestation    *struct {
		Type         string          `json:"type"`
		TPM          json.RawMessage `json:"tpm"`
		SymmetricKey *keysJSON       `json:"symmetricKey"`
		X509         *struct {
			Client     *certificatesDoc `json:"clientCertificates"`
			Signing    *certificatesDoc `json:"signingCertificates"`
			References json.RawMessage  `json:"caReferences"`
		} `json:"x509"`
	} `json:"attestation"`
	Capabilities *struct {
		Edge bool `json:"iotEdge"`
	} `json:"capabilities"`
	HubName string `json:"iotHubHostName"`
	Twin    *struct {
		Tags       json.RawMessage `json:"tags"`
		Properties *struct {
			Desired json.RawMessage `json:"desired"`
		} `json:"properties"`
	} `json:"initialTwin"`
	ETag        string `json:"etag"`
	Status      string `json:"provisioningStatus"`
	Reprovision *struct {
		Update  *bool `json:"updateHubAssignment"`
		Migrate *bool `json:"migrateDeviceData"`
	} `json:"reprovisionPolicy"`
	Allocation string          `json:"allocationPolicy"`
	Hubs       []string        `json:"iotHubs"`
	Custom     json.RawMessage `json:"customAllocationDefinition"`
	Issuing    string          `json:"credentialPolicyName"`
}

type certificatesDoc struct {
	Primary   *certificateDoc `json:"primary"`
	Secondary *certificateDoc `json:"secondary"`
}

// certificateDoc is a certificate, or the information a read gave about one we hold.
type certificateDoc struct {
	Certificate string `json:"certificate"`
	Info        *struct {
		SHA1   string `json:"sha1Thumbprint"`
		SHA256 string `json:"sha256Thumbprint"`
	} `json:"info"`
}

type keysJSON struct {
	Primary   string `json:"primaryKey"`
	Secondary string `json:"secondaryKey"`
}

// draft is a checked document: the enrollment as far as it can be known without the one it replaces.
type draft struct {
	Enrollment
	match iot.ETag // member etag
	typed bool     // attestation names a type; otherwise it is kept

	// What the document says about keys and certificates. Unset keys are kept or made;
	// unset certificates are kept when kept says so.
	keys  [2]secret.Secret
	certs [2]certificateSlot
	kept  bool // the document holds no certificates at all
}

type certificateSlot struct {
	text         string // PEM
	known        bool   // no text, but information about the one we hold
	sha1, sha256 string
}

func absent(j json.RawMessage) bool { return len(j) == 0 || string(j) == "null" }

// parseEnrollment reads and checks a document; name is from the path, or empty in a bulk operation.
func parseEnrollment(group bool, name string, body []byte, host string) (draft, error) {
	var doc enrollmentDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return draft{}, fault.New(fault.Malformed, "the body is not the JSON of an enrollment: %v", err)
	}
	return doc.check(group, name, host)
}

// check makes a draft of the document.
func (doc *enrollmentDoc) check(group bool, name, host string) (d draft, err error) {
	given, what := doc.RegistrationID, "registrationId"
	if group {
		given, what = doc.GroupID, "enrollmentGroupId"
	}
	switch {
	case name == "":
		name = given
	case given != "" && !same(given, name):
		return d, fault.New(fault.Invalid, "the %s of the body is not the one of the path", what)
	case given != "":
		name = given
	}
	if err := checkName(what, name); err != nil {
		return d, err
	}
	d.Enrollment = Enrollment{
		Name: name, Group: group, Enabled: true, DeviceID: doc.DeviceID, HubName: doc.HubName, Hubs: doc.Hubs,
		Reprovision: ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}, Allocation: allocations[0],
	}
	d.match = iot.ETag(strings.Trim(doc.ETag, `"`))
	switch {
	case group:
		d.DeviceID = ""
	case d.DeviceID != "":
		if err := iot.ValidateID("deviceId", d.DeviceID); err != nil {
			return d, err
		}
	}
	switch doc.Status {
	case "", "enabled":
	case "disabled":
		d.Enabled = false
	default:
		return d, fault.New(fault.Invalid, "provisioningStatus must be enabled or disabled")
	}
	if doc.Capabilities != nil {
		d.Edge = doc.Capabilities.Edge
	}
	if r := doc.Reprovision; r != nil {
		if r.Update != nil {
			d.Reprovision.UpdateHubAssignment = *r.Update
		}
		if r.Migrate != nil {
			d.Reprovision.MigrateDeviceData = *r.Migrate
		}
	}
	if !group && !absent(doc.Info) {
		if d.Info, err = object("optionalDeviceInformation", doc.Info, maxInfo); err != nil {
			return d, err
		}
	}
	if err := doc.checkAllocation(&d, host); err != nil {
		return d, err
	}
	if err := doc.checkTwin(&d); err != nil {
		return d, err
	}
	return d, doc.checkAttestation(&d)
}

// checkAllocation refuses what would need a second hub or a webhook: an enrollment must not
// promise an assignment that will not happen.
func (doc *enrollmentDoc) checkAllocation(d *draft, host string) error {
	if doc.Allocation != "" {
		d.Allocation = ""
		for _, a := range allocations {
			if strings.EqualFold(a, doc.Allocation) {
				d.Allocation = a
			}
		}
	}
	switch {
	case strings.EqualFold(doc.Allocation, "custom") || !absent(doc.Custom):
		return fault.New(fault.Invalid, "custom allocation is not supported; allocationPolicy may be %s", strings.Join(allocations, ", "))
	case d.Allocation == "":
		return fault.New(fault.Invalid, "allocationPolicy must be %s", strings.Join(allocations, ", "))
	case doc.Issuing != "":
		return fault.New(fault.Invalid, "credentialPolicyName is not supported: this service issues no certificates")
	case len(doc.Hubs) > maxHubs:
		return fault.New(fault.Invalid, "iotHubs names more than %d hubs", maxHubs)
	}
	hubs := doc.Hubs
	if doc.HubName != "" {
		hubs = append(hubs[:len(hubs):len(hubs)], doc.HubName)
	}
	for _, h := range hubs {
		if !strings.EqualFold(h, host) {
			return fault.New(fault.Invalid, "hub %q is not linked to this service; its hub is %s", h, host)
		}
	}
	return nil
}

func (doc *enrollmentDoc) checkTwin(d *draft) (err error) {
	if doc.Twin == nil {
		return nil
	}
	if t := doc.Twin.Tags; !absent(t) {
		if d.Twin.Tags, err = object("initialTwin.tags", t, maxTwin); err != nil {
			return err
		}
	}
	if p := doc.Twin.Properties; p != nil && !absent(p.Desired) {
		if d.Twin.Desired, err = object("initialTwin.properties.desired", p.Desired, maxTwin); err != nil {
			return err
		}
	}
	return nil
}

// object checks that j is an object and leaves out $metadata and $version, which SDKs add to
// twins. Other objects keep their text.
func object(what string, j json.RawMessage, limit int) (json.RawMessage, error) {
	if len(j) > limit {
		return nil, fault.New(fault.TooLarge, "%s is over %d bytes", what, limit)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(j, &m); err != nil || m == nil {
		return nil, fault.New(fault.Invalid, "%s must be an object", what)
	}
	_, a := m["$metadata"]
	_, b := m["$version"]
	if !a && !b {
		return j, nil
	}
	delete(m, "$metadata")
	delete(m, "$version")
	return marshal(m), nil
}

func (doc *enrollmentDoc) checkAttestation(d *draft) error {
	a := doc.Attestation
	if a == nil {
		d.kept = true
		return nil // kept on update; refused on create
	}
	switch {
	case strings.EqualFold(a.Type, SymmetricKey):
		d.typed, d.Attestation.Type = true, SymmetricKey
		if a.SymmetricKey == nil {
			return nil
		}
		for i, text := range []string{a.SymmetricKey.Primary, a.SymmetricKey.Secondary} {
			if text == "" {
				continue
			}
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil || len(b) < minKey || len(b) > maxKey {
				return fault.New(fault.Invalid, "symmetric keys must be base64 of %d to %d bytes", minKey, maxKey)
			}
			d.keys[i] = secret.New(b)
		}
		return nil
	case strings.EqualFold(a.Type, X509):
		d.typed, d.Attestation.Type = true, X509
		if a.X509 == nil {
			d.kept = true
			return nil
		}
		if !absent(a.X509.References) {
			return fault.New(fault.Invalid, "attestation by caReferences is not supported; give the CA in signingCertificates")
		}
		certs, wrong, want := a.X509.Client, a.X509.Signing, "clientCertificates"
		if d.Group {
			certs, wrong, want = a.X509.Signing, a.X509.Client, "signingCertificates"
		}
		if wrong != nil || certs == nil || certs.Primary == nil && certs.Secondary == nil {
			return fault.New(fault.Invalid, "attestation.x509 must hold %s with a primary certificate", want)
		}
		for i, c := range []*certificateDoc{certs.Primary, certs.Secondary} {
			var err error
			if d.certs[i], err = c.slot(d.Group); err != nil {
				return err
			}
		}
		return nil
	case a.Type == "":
		return fault.New(fault.Invalid, "attestation.type must be %s or %s", SymmetricKey, X509)
	}
	return fault.New(fault.Invalid, "attestation by %q is not supported; attestation.type may be %s or %s", a.Type, SymmetricKey, X509)
}

func (c *certificateDoc) slot(ca bool) (s certificateSlot, err error) {
	switch {
	case c == nil:
		return s, nil
	case c.Certificate == "" && c.Info == nil:
		return s, fault.New(fault.Invalid, "a certificate is missing")
	case c.Certificate == "":
		return certificateSlot{known: true, sha1: c.Info.SHA1, sha256: c.Info.SHA256}, nil
	}
	cert, err := parseCertificate(c.Certificate)
	if err != nil {
		return s, err
	}
	if ca && (!cert.BasicConstraintsValid || !cert.IsCA) {
		return s, fault.New(fault.Invalid, "certificate %q is no CA: a group wants the CA that issues its devices' certificates", cert.Subject)
	}
	s.text = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	return s, nil
}

// over completes the draft with what it keeps of the enrollment it replaces, nil for none;
// spare are keys for the ones nobody gave. It is pure.
func (d draft) over(now *Enrollment, spare [2]secret.Secret) (Enrollment, error) {
	next := d.Enrollment
	var old Attestation
	if now != nil {
		next.Name, next.Created = now.Name, now.Created // the first spelling stays
		if !d.typed || d.Attestation.Type == now.Attestation.Type {
			old = now.Attestation
			next.Attestation.Type = old.Type
		}
	}
	a := &next.Attestation
	switch a.Type {
	case SymmetricKey:
		for i, k := range []*secret.Secret{&a.PrimaryKey, &a.SecondaryKey} {
			kept := old.PrimaryKey
			if i == 1 {
				kept = old.SecondaryKey
			}
			switch {
			case !d.keys[i].IsZero():
				*k = d.keys[i]
			case !kept.IsZero():
				*k = kept
			default:
				*k = spare[i]
			}
		}
	case X509:
		if d.kept {
			a.PrimaryCertificate, a.SecondaryCertificate = old.PrimaryCertificate, old.SecondaryCertificate
		} else {
			var err error
			if a.PrimaryCertificate, err = d.certs[0].over(old, old.PrimaryCertificate); err != nil {
				return next, err
			}
			if a.SecondaryCertificate, err = d.certs[1].over(old, old.SecondaryCertificate); err != nil {
				return next, err
			}
		}
		if a.PrimaryCertificate == "" && a.SecondaryCertificate == "" {
			return next, fault.New(fault.Invalid, "attestation.x509 must hold a certificate")
		}
	default:
		return next, fault.New(fault.Invalid, "attestation is missing; its type may be %s or %s", SymmetricKey, X509)
	}
	return next, nil
}

// over resolves a slot: a client that read an enrollment and writes it back sends information in place of
// certificates, perhaps swapped.
func (s certificateSlot) over(old Attestation, same string) (string, error) {
	switch {
	case !s.known:
		return s.text, nil
	case s.sha1 == "" && s.sha256 == "" && same != "":
		return same, nil
	}
	for _, text := range []string{old.PrimaryCertificate, old.SecondaryCertificate} {
		if text == "" {
			continue
		}
		c, err := parseCertificate(text)
		if err != nil {
			return "", err
		}
		one, two := pki.Thumbprints(c)
		if strings.EqualFold(s.sha256, two) || s.sha256 == "" && strings.EqualFold(s.sha1, one) {
			return text, nil
		}
	}
	return "", fault.New(fault.Invalid, "a certificate is missing, and its info names none this enrollment holds")
}

// enrollmentJSON is an enrollment as it is read: no keys, and of certificates what they say (dps §10.3).
type enrollmentJSON struct {
	RegistrationID string           `json:"registrationId,omitempty"`
	GroupID        string           `json:"enrollmentGroupId,omitempty"`
	DeviceID       string           `json:"deviceId,omitempty"`
	State          *stateJSON       `json:"registrationState,omitempty"`
	Info           json.RawMessage  `json:"optionalDeviceInformation,omitempty"`
	Attestation    *attestationJSON `json:"attestation"`
	Capabilities   edgeJSON         `json:"capabilities"`
	HubName        string           `json:"iotHubHostName,omitempty"`
	Twin           *twinJSON        `json:"initialTwin,omitempty"`
	ETag           string           `json:"etag"`
	Status         string           `json:"provisioningStatus"`
	Reprovision    reprovisionJSON  `json:"reprovisionPolicy"`
	Created        string           `json:"createdDateTimeUtc"`
	Updated        string           `json:"lastUpdatedDateTimeUtc"`
	Allocation     string           `json:"allocationPolicy"`
	Hubs           []string         `json:"iotHubs,omitempty"`
}

type reprovisionJSON struct {
	Update  bool `json:"updateHubAssignment"`
	Migrate bool `json:"migrateDeviceData"`
}

type edgeJSON struct {
	Edge bool `json:"iotEdge"`
}

type twinJSON struct {
	Tags       json.RawMessage `json:"tags,omitempty"`
	Properties *desiredJSON    `json:"properties,omitempty"`
}

type desiredJSON struct {
	Desired json.RawMessage `json:"desired"`
}

type attestationJSON struct {
	Type         string    `json:"type"`
	SymmetricKey *keysJSON `json:"symmetricKey,omitempty"`
	X509         *x509JSON `json:"x509,omitempty"`
}

type x509JSON struct {
	Client  *certificatesJSON `json:"clientCertificates,omitempty"`
	Signing *certificatesJSON `json:"signingCertificates,omitempty"`
}

type certificatesJSON struct {
	Primary   *certificateJSON `json:"primary,omitempty"`
	Secondary *certificateJSON `json:"secondary,omitempty"`
}

type certificateJSON struct {
	Info infoJSON `json:"info"`
}

type infoJSON struct {
	Subject   string `json:"subjectName"`
	SHA1      string `json:"sha1Thumbprint"`
	SHA256    string `json:"sha256Thumbprint"`
	Issuer    string `json:"issuerName"`
	NotBefore string `json:"notBeforeUtc"`
	NotAfter  string `json:"notAfterUtc"`
	Serial    string `json:"serialNumber"`
	Version   int    `json:"version"`
}

// render writes an enrollment as reads give it. state is the record of its device, if there is one.
func render(e Enrollment, state *stateJSON) (*enrollmentJSON, error) {
	a, err := renderAttestation(e)
	if err != nil {
		return nil, err
	}
	a.SymmetricKey = nil
	j := &enrollmentJSON{
		DeviceID: e.DeviceID, State: state, Info: e.Info, Attestation: a, Capabilities: edgeJSON{e.Edge}, HubName: e.HubName,
		ETag: string(e.ETag), Status: "enabled", Reprovision: reprovisionJSON{e.Reprovision.UpdateHubAssignment, e.Reprovision.MigrateDeviceData},
		Created: iot.FormatTime(e.Created), Updated: iot.FormatTime(e.Updated), Allocation: e.Allocation, Hubs: e.Hubs,
	}
	if e.Group {
		j.GroupID = e.Name
	} else {
		j.RegistrationID = e.Name
	}
	if !e.Enabled {
		j.Status = "disabled"
	}
	if e.Twin.Tags != nil || e.Twin.Desired != nil {
		j.Twin = &twinJSON{Tags: e.Twin.Tags}
		if e.Twin.Desired != nil {
			j.Twin.Properties = &desiredJSON{e.Twin.Desired}
		}
	}
	return j, nil
}

// renderAttestation writes the attestation with its keys.
func renderAttestation(e Enrollment) (*attestationJSON, error) {
	a := &attestationJSON{Type: e.Attestation.Type}
	switch a.Type {
	case SymmetricKey:
		a.SymmetricKey = &keysJSON{e.Attestation.PrimaryKey.Base64(), e.Attestation.SecondaryKey.Base64()}
	case X509:
		var certs certificatesJSON
		var err error
		if certs.Primary, err = renderCertificate(e.Attestation.PrimaryCertificate); err != nil {
			return nil, err
		}
		if certs.Secondary, err = renderCertificate(e.Attestation.SecondaryCertificate); err != nil {
			return nil, err
		}
		if e.Group {
			a.X509 = &x509JSON{Signing: &certs}
		} else {
			a.X509 = &x509JSON{Client: &certs}
		}
	}
	return a, nil
}

func renderCertificate(text string) (*certificateJSON, error) {
	if text == "" {
		return nil, nil
	}
	c, err := parseCertificate(text)
	if err != nil {
		return nil, err
	}
	one, two := pki.Thumbprints(c)
	return &certificateJSON{infoJSON{
		Subject: c.Subject.String(), SHA1: strings.ToUpper(one), SHA256: strings.ToUpper(two), Issuer: c.Issuer.String(),
		NotBefore: iot.FormatTime(c.NotBefore), NotAfter: iot.FormatTime(c.NotAfter),
		Serial: strings.ToUpper(c.SerialNumber.Text(16)), Version: c.Version,
	}}, nil
}

// shareCA reports whether two attestations hold one CA.
func shareCA(a []*x509.Certificate, g *group) bool {
	for _, c := range a {
		for _, ca := range g.authorities {
			if bytes.Equal(c.Raw, ca.Raw) {
				return true
			}
		}
	}
	return false
}
