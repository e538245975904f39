package posture

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/iot"
)

// When certificates are soon to expire, and when they are old.
const (
	certificateNotice = 30 * 24 * time.Hour
	authorityNotice   = 90 * 24 * time.Hour
	oldCertificate    = 2 * 365 * 24 * time.Hour
)

// weakSuites are those of crypto/tls's list of insecure ones: without forward secrecy, with RC4, 3DES or a MAC before the cipher.
var weakSuites = func() map[uint16]bool {
	m := make(map[uint16]bool)
	for _, s := range tls.InsecureCipherSuites() {
		m[s.ID] = true
	}
	return m
}()

// link judges how somebody connected last.
func (p *pass) link(f *Fact) (found []Finding) {
	k := &f.Link
	if k.Version != 0 && (k.Version < tls.VersionTLS12 || k.Version == tls.VersionTLS12 && weakSuites[k.CipherSuite]) {
		found = append(found, Finding{Type: VulnerableTLSCipherSuite, About: f.ID, Data: struct{ Version, CipherSuite string }{
			tls.VersionName(k.Version), tls.CipherSuiteName(k.CipherSuite),
		}})
	}
	// Certificates of a day or so are renewed all the time; that they end soon is as it should be.
	if k.NotAfter.IsZero() {
		return found
	}
	left, whole := k.NotAfter.Sub(p.at), k.NotAfter.Sub(k.NotBefore)
	if left < min(certificateNotice, whole/3) {
		found = append(found, Finding{Type: ExpiringCertificate, About: f.ID, Data: struct{ NotAfter time.Time }{k.NotAfter.UTC()}})
	}
	if p.at.Sub(k.NotBefore) > oldCertificate {
		found = append(found, Finding{Type: OldCertificate, About: f.ID, Data: struct{ NotBefore time.Time }{k.NotBefore.UTC()}})
	}
	return found
}

// sharing finds credentials that several devices have. It keeps a keyed hash of each, whose key lives no longer than the look: what is
// remembered tells nobody the credential.
type sharing struct {
	key  []byte
	who  map[[16]byte]int32 // of each credential, the first who has it, or its group
	same [][]sharer         // groups of those who share one
	ids  []iot.ID           // who has a credential
}

type sharer struct {
	id   int32
	kind string
}

func newSharing() sharing {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return sharing{key: key, who: make(map[[16]byte]int32)}
}

const (
	keyKind        = "symmetric key"
	thumbprintKind = "certificate thumbprint"
)

func (s *sharing) add(f *Fact) {
	own := make(map[[16]byte]bool, 2)
	me := int32(-1)
	note := func(kind string, credential []byte) {
		if len(credential) == 0 {
			return
		}
		h := hmac.New(sha256.New, s.key)
		h.Write([]byte(kind))
		h.Write(credential)
		sum := [16]byte(h.Sum(nil))
		if own[sum] {
			return // both of one identity
		}
		own[sum] = true
		if me < 0 {
			me = int32(len(s.ids))
			s.ids = append(s.ids, f.ID)
		}
		switch first, ok := s.who[sum]; {
		case !ok:
			s.who[sum] = me
		case first >= 0:
			s.same = append(s.same, []sharer{{first, kind}, {me, kind}})
			s.who[sum] = -int32(len(s.same))
		default:
			s.same[-first-1] = append(s.same[-first-1], sharer{me, kind})
		}
	}
	a := &f.Authentication
	switch a.Type {
	case registry.SAS:
		note(keyKind, a.PrimaryKey.Reveal())
		note(keyKind, a.SecondaryKey.Reveal())
	case registry.SelfSigned:
		note(thumbprintKind, []byte(strings.ToUpper(a.PrimaryThumbprint)))
		note(thumbprintKind, []byte(strings.ToUpper(a.SecondaryThumbprint)))
	}
}

// shownSharers is how many of the others are named.
const shownSharers = 10

func (s *sharing) findings() []Finding {
	type data struct {
		Credential string
		Identities int      // that have it
		Others     []string // some of them
	}
	worst := make(map[iot.ID]data)
	for _, group := range s.same {
		devices := make(map[string]bool)
		for _, g := range group {
			devices[s.ids[g.id].Device] = true
		}
		if len(devices) < 2 {
			continue // a device and its own modules
		}
		for _, g := range group {
			id := s.ids[g.id]
			if have, ok := worst[id]; ok && have.Identities >= len(group) {
				continue
			}
			d := data{Credential: g.kind, Identities: len(group)}
			for _, o := range group {
				if o.id != g.id && len(d.Others) < shownSharers {
					d.Others = append(d.Others, s.ids[o.id].String())
				}
			}
			worst[id] = d
		}
	}
	found := make([]Finding, 0, len(worst))
	for id, d := range worst {
		found = append(found, Finding{Type: SharedCredentials, About: id, Data: d})
	}
	return found
}

func compareIDs(a, b iot.ID) int {
	return cmp.Or(strings.Compare(a.Device, b.Device), strings.Compare(a.Module, b.Module))
}

// alike compares the desired properties of a module within a security group. Devices that nobody put into one need not be alike.
type alike struct {
	modules map[[2]string][]settled // by group and module
}

type settled struct {
	device string
	digest [16]byte
}

func newAlike() alike { return alike{make(map[[2]string][]settled)} }

// fewest is how many there must be for most of them to be a rule.
const fewest = 3

func (a *alike) add(facts []Fact) {
	group := facts[0].Group
	if group == "" {
		return
	}
	for i := range facts {
		f := &facts[i]
		if f.ID.Module == "" || registry.SystemModule(f.ID.Module) {
			continue
		}
		var tree any // members in a fixed order
		if json.Unmarshal(f.Desired, &tree) != nil {
			continue
		}
		text, err := json.Marshal(tree)
		if err != nil {
			continue
		}
		sum := sha256.Sum256(text)
		key := [2]string{group, f.ID.Module}
		a.modules[key] = append(a.modules[key], settled{f.ID.Device, [16]byte(sum[:])})
	}
}

func (a *alike) findings() (found []Finding) {
	for key, all := range a.modules {
		counts := make(map[[16]byte]int)
		for _, s := range all {
			counts[s.digest]++
		}
		if len(all) < fewest || len(counts) == 1 {
			continue
		}
		for digest, n := range counts {
			if 2*n <= len(all) {
				continue
			}
			for _, s := range all {
				if s.digest != digest {
					found = append(found, Finding{Type: InconsistentModuleSettings, About: iot.ID{Device: s.device, Module: key[1]}, Data: struct{ SecurityGroup string }{key[0]}})
				}
			}
		}
	}
	return found
}

// firmware compares the versions that devices of a model report.
type firmware struct {
	models map[string][]versioned
}

type versioned struct{ device, version string }

func newFirmware() firmware { return firmware{models: make(map[string][]versioned)} }

// Bounds of what devices say of their firmware.
const (
	maxVersion = 64
	maxModels  = 10_000
)

// versionPaths are where devices report their firmware: plainly, or as the model dtmi:azure:DeviceManagement:DeviceInformation;1 has it.
var versionPaths = [][]string{{"firmwareVersion"}, {"fwVersion"}, {"firmware", "version"}, {"deviceInformation", "swVersion"}, {"softwareVersion"}, {"swVersion"}}

func (w *firmware) add(f *Fact) {
	if f.ID.Module != "" || len(f.Reported) == 0 {
		return
	}
	model, version := FirmwareOf(f.Reported)
	if version == "" || len(version) > maxVersion || !strings.ContainsAny(version, "0123456789") {
		return
	}
	model = cmp.Or(model, f.ModelID)
	if model == "" && f.Group != "" {
		model = "security group " + f.Group
	}
	if model == "" || len(model) > 4*maxVersion {
		return // nobody knows with whom to compare it
	}
	if _, ok := w.models[model]; !ok && len(w.models) >= maxModels {
		return
	}
	w.models[model] = append(w.models[model], versioned{f.ID.Device, version})
}

// FirmwareOf reads what a device reports of itself in its twin: maker and model, and the version of its firmware. Empty: it does not say.
func FirmwareOf(reported json.RawMessage) (model, version string) {
	var tree map[string]json.RawMessage
	if json.Unmarshal(reported, &tree) != nil {
		return "", ""
	}
	for _, path := range versionPaths {
		if version = textAt(tree, path); version != "" {
			break
		}
	}
	model = textAt(tree, []string{"deviceInformation", "model"})
	if maker := textAt(tree, []string{"deviceInformation", "manufacturer"}); model != "" {
		model = maker + " " + model
	}
	return model, version
}

// textAt reads a text; plug and play properties may be wrapped as {"value": ...}.
func textAt(tree map[string]json.RawMessage, path []string) string {
	raw := tree[path[0]]
	if len(path) > 1 {
		var below map[string]json.RawMessage
		if json.Unmarshal(raw, &below) != nil {
			return ""
		}
		return textAt(below, path[1:])
	}
	var s string
	var wrapped struct{ Value string }
	switch {
	case json.Unmarshal(raw, &s) == nil:
	case json.Unmarshal(raw, &wrapped) == nil:
		s = wrapped.Value
	}
	return strings.TrimSpace(s)
}

// newestShare is how many of a model's devices, one of so many, must run a version for the others to be old: a trial run of a few is no
// reason to update all.
const newestShare = 10

func (w *firmware) findings() (found []Finding) {
	for model, all := range w.models {
		if len(all) < fewest {
			continue
		}
		counts := make(map[string]int)
		for _, v := range all {
			counts[v.version]++
		}
		newest := ""
		for _, v := range slices.SortedFunc(maps.Keys(counts), compareVersions) {
			if counts[v]*newestShare >= len(all) {
				newest = v
			}
		}
		if newest == "" {
			continue
		}
		for _, v := range all {
			if compareVersions(v.version, newest) < 0 {
				found = append(found, Finding{Type: OldFirmware, About: iot.ID{Device: v.device}, Data: struct{ Model, FirmwareVersion, NewestVersion string }{model, v.version, newest}})
			}
		}
	}
	return found
}

// compareVersions compares numbers as numbers and what is between them as text: 1.9 comes before 1.10, and 2.0-rc1 before 2.0.
func compareVersions(a, b string) int {
	a, b = strings.TrimLeft(a, "vV"), strings.TrimLeft(b, "vV")
	for a != "" && b != "" {
		x, restA := token(a)
		y, restB := token(b)
		if x != y {
			n, err1 := strconv.ParseUint(x, 10, 64)
			m, err2 := strconv.ParseUint(y, 10, 64)
			if err1 == nil && err2 == nil {
				if c := cmp.Compare(n, m); c != 0 {
					return c
				}
			} else {
				return strings.Compare(x, y)
			}
		}
		a, b = restA, restB
	}
	switch {
	case strings.HasPrefix(a, "-"):
		return -1
	case strings.HasPrefix(b, "-"):
		return 1
	}
	return cmp.Compare(len(a), len(b))
}

// token cuts off the digits, or what is no digit, at the beginning of s.
func token(s string) (first, rest string) {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n], s[n:]
}

// networks collects from where devices connect.
type networks struct {
	seen map[netip.Addr]struct{}
	full bool // there are too many to tell
}

func newNetworks() networks { return networks{seen: make(map[netip.Addr]struct{})} }

const (
	maxAddresses = 100_000
	// maxProposed is how many rules a filter may have (hub-service §9.1).
	maxProposed = 10
)

func (n *networks) add(a netip.Addr) {
	if !a.IsValid() || a.IsLoopback() || n.full {
		return
	}
	if n.seen[a] = struct{}{}; len(n.seen) > maxAddresses {
		n.full = true
	}
}

// rules proposes the narrowest rules that hold all addresses and of which a filter can have so many; nil when there are none.
func (n *networks) rules() []ipfilter.Rule {
	if n.full || len(n.seen) == 0 {
		return nil
	}
	for _, bits := range [][2]int{{32, 128}, {28, 64}, {24, 56}, {20, 48}, {16, 48}, {12, 40}, {8, 32}} {
		masks := make(map[netip.Prefix]bool)
		for a := range n.seen {
			width := bits[0]
			if a.Is6() {
				width = bits[1]
			}
			if p, err := a.Prefix(width); err == nil {
				masks[p] = true
			}
			if len(masks) > maxProposed {
				break
			}
		}
		if len(masks) > maxProposed {
			continue
		}
		var rules []ipfilter.Rule
		for _, p := range slices.SortedFunc(maps.Keys(masks), func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		}) {
			rules = append(rules, ipfilter.Rule{Name: fmt.Sprintf("devices-%d", len(rules)+1), Action: "Allow", Mask: p.String()})
		}
		return rules
	}
	return nil
}

// The widest networks that a rule may admit: of private addresses, and of those of the whole world.
const (
	widestPrivate = 8
	widestPublic  = 16
	widestSite    = 32 // IPv6
)

func wideRules(f *ipfilter.Filter) (wide []ipfilter.Rule) {
	rules, addresses := f.Admitting()
	for i, a := range addresses {
		widest := widestSite
		if a.Addr().Is4() {
			if widest = widestPublic; a.Addr().IsPrivate() {
				widest = widestPrivate
			}
		}
		if a.Bits() < widest {
			wide = append(wide, rules[i])
		}
	}
	return wide
}
