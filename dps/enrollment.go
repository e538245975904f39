package dps

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/pki"
	"github.com/vauban-iot/vauban/wire/tpm"
)

// The attestation types this service takes (dps §10.3).
const (
	SymmetricKey = "symmetricKey"
	X509         = "x509"
	TPM          = "tpm" // of individuals
)

// The allocation policies (dps §9.1).
const (
	hashed     = "hashed"
	geoLatency = "geoLatency"
	static     = "static"
	custom     = "custom"
)

var allocations = []string{hashed, geoLatency, static, custom}

// place is what enrollments may name, as it is when one is written.
type place struct {
	hubs     []string // linked
	cas      []string // uploaded, verified or not
	policies []string // by which certificates are issued
}

func (p place) hub(host string) bool {
	return slices.ContainsFunc(p.hubs, func(h string) bool { return same(h, host) })
}

// Limits of what an enrollment may hold.
const (
	minKey     = 16 // bytes once decoded (dps §2.2)
	maxKey     = 64
	freshKey   = 64
	maxTwin    = 32 << 10 // of tags, and of desired properties
	maxInfo    = 8 << 10
	maxHubs    = 50
	maxURL     = 2048
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
		Type         string    `json:"type"`
		TPM          *tpmJSON  `json:"tpm"`
		SymmetricKey *keysJSON `json:"symmetricKey"`
		X509         *struct {
			Client     *certificatesDoc `json:"clientCertificates"`
			Signing    *certificatesDoc `json:"signingCertificates"`
			References *referencesJSON  `json:"caReferences"`
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
	Allocation string   `json:"allocationPolicy"`
	Hubs       []string `json:"iotHubs"`
	Custom     *Webhook `json:"customAllocationDefinition"`
	Issuing    string   `json:"credentialPolicyName"`
}

// tpmJSON holds the public areas of a TPM's keys in base64; they are no secrets.
type tpmJSON struct {
	Endorsement string `json:"endorsementKey"`
	Storage     string `json:"storageRootKey,omitempty"`
}

type referencesJSON struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
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
	kept  bool // the document holds no certificates or TPM keys at all
}

type certificateSlot struct {
	text         string // PEM
	known        bool   // no text, but information about the one we hold
	sha1, sha256 string
}

func absent(j json.RawMessage) bool { return len(j) == 0 || string(j) == "null" }

// parseEnrollment reads and checks a document; name is from the path, or empty in a bulk operation.
func parseEnrollment(group bool, name string, body []byte, at place) (draft, error) {
	var doc enrollmentDoc
	if err := json.Unmarshal(body, &doc); err != nil {
		return draft{}, fault.New(fault.Malformed, "the body is not the JSON of an enrollment: %v", err)
	}
	return doc.check(group, name, at)
}

// check makes a draft of the document.
func (doc *enrollmentDoc) check(group bool, name string, at place) (d draft, err error) {
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
	if err := doc.checkAllocation(&d, at); err != nil {
		return d, err
	}
	if err := doc.checkTwin(&d); err != nil {
		return d, err
	}
	return d, doc.checkAttestation(&d, at)
}

// checkAllocation refuses what could not be done: an enrollment must not promise an assignment that will not happen.
func (doc *enrollmentDoc) checkAllocation(d *draft, at place) error {
	if doc.Allocation != "" {
		d.Allocation = ""
		for _, a := range allocations {
			if strings.EqualFold(a, doc.Allocation) {
				d.Allocation = a
			}
		}
	}
	if doc.Custom != nil {
		d.Webhook = *doc.Custom
		if err := checkWebhook(d.Webhook.URL); err != nil {
			return err
		}
	}
	switch {
	case d.Allocation == "":
		return fault.New(fault.Invalid, "allocationPolicy must be %s", strings.Join(allocations, ", "))
	case d.Allocation == custom && d.Webhook.URL == "":
		return fault.New(fault.Invalid, "custom allocation needs customAllocationDefinition with a webhookUrl")
	case len(doc.Hubs) > maxHubs:
		return fault.New(fault.Invalid, "iotHubs names more than %d hubs", maxHubs)
	case doc.Issuing != "" && len(at.policies) == 0:
		return fault.New(fault.Invalid, "credentialPolicyName is not supported: this service issues no certificates")
	case doc.Issuing != "" && !slices.Contains(at.policies, doc.Issuing):
		return fault.New(fault.Invalid, "there is no credential policy %q; there is %s", doc.Issuing, strings.Join(at.policies, ", "))
	}
	d.Issuing = doc.Issuing
	hubs := doc.Hubs
	if doc.HubName != "" {
		hubs = append(hubs[:len(hubs):len(hubs)], doc.HubName)
	}
	for _, h := range hubs {
		if !at.hub(h) {
			return fault.New(fault.Invalid, "hub %q is not linked to this service; linked are %s", h, strings.Join(at.hubs, ", "))
		}
	}
	return nil
}

// checkWebhook wants HTTPS, or HTTP on this machine.
func checkWebhook(text string) error {
	u, err := url.Parse(text)
	ok := err == nil && len(text) <= maxURL && u.Host != "" && u.User == nil && u.Fragment == ""
	if ok && u.Scheme == "http" {
		ip := net.ParseIP(u.Hostname())
		ok = u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	} else if ok {
		ok = u.Scheme == "https"
	}
	if !ok {
		return fault.New(fault.Invalid, "customAllocationDefinition.webhookUrl must be https://host/path, without a password")
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

func (doc *enrollmentDoc) checkAttestation(d *draft, at place) error {
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
		if a.X509.References != nil {
			if a.X509.Client != nil || a.X509.Signing != nil {
				return fault.New(fault.Invalid, "attestation.x509 must hold either caReferences or certificates")
			}
			return a.X509.References.check(d, at)
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
	case strings.EqualFold(a.Type, TPM):
		d.typed, d.Attestation.Type = true, TPM
		if d.Group {
			return fault.New(fault.Invalid, "a group cannot have attestation by TPM: every TPM has keys of its own")
		}
		if a.TPM == nil {
			d.kept = true
			return nil
		}
		return a.TPM.check(&d.Attestation)
	case a.Type == "":
		return fault.New(fault.Invalid, "attestation.type must be %s", attestationTypes)
	}
	return fault.New(fault.Invalid, "attestation by %q is not supported; attestation.type may be %s", a.Type, attestationTypes)
}

const attestationTypes = SymmetricKey + ", " + X509 + " or " + TPM

func (r *referencesJSON) check(d *draft, at place) error {
	switch {
	case !d.Group:
		return fault.New(fault.Invalid, "attestation by caReferences is for groups; an individual enrollment wants clientCertificates")
	case r.Primary == "" && r.Secondary == "":
		return fault.New(fault.Invalid, "attestation.x509.caReferences must name a primary certificate")
	}
	for _, name := range []string{r.Primary, r.Secondary} {
		if name != "" && !slices.Contains(at.cas, name) {
			return fault.New(fault.Invalid, "there is no certificate %q; upload it first", name)
		}
	}
	d.Attestation.PrimaryReference, d.Attestation.SecondaryReference = r.Primary, r.Secondary
	return nil
}

func (t *tpmJSON) check(a *Attestation) error {
	ek, err := parseTPMKey("endorsementKey", t.Endorsement)
	if err != nil {
		return err
	}
	a.EndorsementKey = ek.Bytes()
	if t.Storage == "" {
		return nil
	}
	srk, err := parseTPMKey("storageRootKey", t.Storage)
	if err != nil {
		return err
	}
	a.StorageRootKey = srk.Bytes()
	return nil
}

// parseTPMKey reads the public area of a TPM's key.
func parseTPMKey(what, text string) (*tpm.Public, error) {
	if text == "" {
		return nil, fault.New(fault.Invalid, "tpm.%s is missing", what)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "tpm.%s is not base64", what)
	}
	p, err := tpm.ParsePublic(b)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "tpm.%s is no TPM2B_PUBLIC of an RSA storage key: %v", what, err)
	}
	return p, nil
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
	if ca {
		if err := authority(cert); err != nil {
			return s, err
		}
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
		switch {
		case d.kept:
			a.PrimaryCertificate, a.SecondaryCertificate = old.PrimaryCertificate, old.SecondaryCertificate
			a.PrimaryReference, a.SecondaryReference = old.PrimaryReference, old.SecondaryReference
		case a.PrimaryReference == "" && a.SecondaryReference == "":
			var err error
			if a.PrimaryCertificate, err = d.certs[0].over(old, old.PrimaryCertificate); err != nil {
				return next, err
			}
			if a.SecondaryCertificate, err = d.certs[1].over(old, old.SecondaryCertificate); err != nil {
				return next, err
			}
		}
		if a.PrimaryCertificate+a.SecondaryCertificate+a.PrimaryReference+a.SecondaryReference == "" {
			return next, fault.New(fault.Invalid, "attestation.x509 must hold a certificate")
		}
	case TPM:
		if d.kept {
			a.EndorsementKey, a.StorageRootKey = old.EndorsementKey, old.StorageRootKey
		}
		if len(a.EndorsementKey) == 0 {
			return next, fault.New(fault.Invalid, "attestation.tpm must hold an endorsementKey")
		}
	default:
		return next, fault.New(fault.Invalid, "attestation is missing; its type may be %s", attestationTypes)
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
	Custom         *Webhook         `json:"customAllocationDefinition,omitempty"`
	Issuing        string           `json:"credentialPolicyName,omitempty"`
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
	TPM          *tpmJSON  `json:"tpm,omitempty"`
}

type x509JSON struct {
	Client     *certificatesJSON `json:"clientCertificates,omitempty"`
	Signing    *certificatesJSON `json:"signingCertificates,omitempty"`
	References *referencesJSON   `json:"caReferences,omitempty"`
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
		Created: iot.FormatTime(e.Created), Updated: iot.FormatTime(e.Updated), Allocation: e.Allocation, Hubs: e.Hubs, Issuing: e.Issuing,
	}
	if e.Webhook != (Webhook{}) {
		j.Custom = &e.Webhook
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
	case TPM:
		a.TPM = &tpmJSON{Endorsement: base64.StdEncoding.EncodeToString(e.Attestation.EndorsementKey)}
		if len(e.Attestation.StorageRootKey) > 0 {
			a.TPM.Storage = base64.StdEncoding.EncodeToString(e.Attestation.StorageRootKey)
		}
	case X509:
		if one, two := e.Attestation.PrimaryReference, e.Attestation.SecondaryReference; one+two != "" {
			a.X509 = &x509JSON{References: &referencesJSON{one, two}}
			break
		}
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
	return &certificateJSON{infoOf(c)}, nil
}

func infoOf(c *x509.Certificate) infoJSON {
	one, two := pki.Thumbprints(c)
	return infoJSON{
		Subject: c.Subject.String(), SHA1: strings.ToUpper(one), SHA256: strings.ToUpper(two), Issuer: c.Issuer.String(),
		NotBefore: iot.FormatTime(c.NotBefore), NotAfter: iot.FormatTime(c.NotAfter),
		Serial: strings.ToUpper(c.SerialNumber.Text(16)), Version: c.Version,
	}
}

// shareCA reports whether a group holds one of these CAs, or refers to one of the same name as the attestation does.
func shareCA(a []*x509.Certificate, of Attestation, g *group) bool {
	for _, name := range []string{of.PrimaryReference, of.SecondaryReference} {
		if name != "" && (name == g.Attestation.PrimaryReference || name == g.Attestation.SecondaryReference) {
			return true
		}
	}
	for _, c := range a {
		for _, ca := range g.authorities {
			if bytes.Equal(c.Raw, ca.Raw) {
				return true
			}
		}
	}
	return false
}
