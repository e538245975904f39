// Package vuln compares the software of devices with what is published of vulnerabilities, offline (defender §5, §8 item 38).
//
// What is published comes from files that the operator brings: records of OSV, CISA's catalogue of exploited vulnerabilities (KEV) and
// the probabilities of EPSS. Each file is a [Source], kept packed where all servers find it. Devices tell their software in messages
// SBoM, in parts, or the operator uploads bills of materials for devices, groups or firmware. Equal lists are one [Set], however many
// devices have it: what is found is found once for it. Documents of VEX say which findings do not count; those are kept and shown as such.
//
// An [Evaluator], on one server, finds again whenever the database, a document or the software of a device changes, and hands what
// stands against a device to its recommendations.
package vuln

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/defender/vuln/format"
)

// Package is a piece of software of a device.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Vendor  string `json:"vendor,omitempty"`
	Type    string `json:"type,omitempty"`   // deb, rpm, apk, golang, npm...; empty: not known
	Arch    string `json:"arch,omitempty"`   //
	Source  string `json:"source,omitempty"` // the source package, where it has another name
	Distro  string `json:"distro,omitempty"` // debian-12: of packages of a distribution
}

// Set is the software of devices that have the same, in order.
type Set struct {
	ID       string
	Packages []Package
}

// Bounds of software.
const (
	MaxPackages = 50_000 // of a set
	maxField    = 512
)

// NewSet sorts packages and names the set by what it holds. More than MaxPackages are cut; left says how many.
func NewSet(packages []Package) (s Set, left int) {
	packages = slices.Clone(packages)
	compare := func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch),
			cmp.Compare(a.Source, b.Source), cmp.Compare(a.Distro, b.Distro), cmp.Compare(a.Vendor, b.Vendor))
	}
	slices.SortFunc(packages, compare)
	packages = slices.Compact(packages)
	if left = len(packages) - MaxPackages; left > 0 {
		packages = packages[:MaxPackages]
	}
	text, _ := json.Marshal(packages) // texts always do
	sum := sha256.Sum256(text)
	return Set{hex.EncodeToString(sum[:16]), packages}, max(left, 0)
}

// clean bounds what a device or a document says.
func (p *Package) clean() {
	for _, s := range []*string{&p.Name, &p.Version, &p.Vendor, &p.Type, &p.Arch, &p.Source, &p.Distro} {
		*s = strings.TrimSpace(format.Clip(*s, maxField))
	}
	p.Type = strings.ToLower(p.Type)
	if p.Source == p.Name {
		p.Source = ""
	}
}

// Packages are the components of a bill of materials.
func Packages(b format.Bill) []Package {
	all := make([]Package, 0, len(b.Components))
	for _, c := range b.Components {
		p := Package{c.Name, c.Version, c.Vendor, c.Type, c.Arch, c.Source, c.Distro}
		p.clean()
		all = append(all, p)
	}
	return all
}

// PURL is the package URL.
func (p *Package) PURL() string {
	u := format.PURL{Type: cmp.Or(p.Type, "generic"), Name: p.Name, Version: p.Version}
	switch p.Type {
	case "deb", "apk", "rpm":
		u.Namespace, _, _ = strings.Cut(p.Distro, "-")
		u.Qualifiers = map[string][]string{}
		for name, value := range map[string]string{"arch": p.Arch, "distro": p.Distro, "upstream": p.Source} {
			if value != "" {
				u.Qualifiers.Set(name, value)
			}
		}
	default:
		if i := strings.LastIndexAny(p.Name, "/:"); i > 0 {
			u.Namespace, u.Name = p.Name[:i], p.Name[i+1:]
		}
	}
	return u.String()
}

// languages are the ecosystems of package URLs of no distribution.
var languages = map[string]string{
	"golang": "Go", "npm": "npm", "pypi": "PyPI", "cargo": "crates.io", "gem": "RubyGems", "nuget": "NuGet", "maven": "Maven", "composer": "Packagist",
	"hex": "Hex", "pub": "Pub", "conan": "ConanCenter", "cran": "CRAN", "hackage": "Hackage", "bitnami": "Bitnami",
}

// Ecosystem is OSV's name for where a package comes from, with its release; empty: packages of its type, or of a distribution that did
// not say its release, cannot be compared.
func (p *Package) Ecosystem() string {
	name, release, _ := strings.Cut(p.Distro, "-")
	major, _, _ := strings.Cut(release, ".")
	switch p.Type {
	case "deb":
		switch {
		case release == "":
		case name == "debian" || name == "raspbian":
			return "Debian:" + major
		case name == "ubuntu":
			if parts := strings.SplitN(release, ".", 3); len(parts) > 1 {
				return "Ubuntu:" + parts[0] + "." + parts[1]
			}
		}
		return ""
	case "apk":
		switch name {
		case "alpine":
			if parts := strings.SplitN(release, ".", 3); len(parts) > 1 {
				return "Alpine:v" + parts[0] + "." + parts[1]
			}
		case "wolfi":
			return "Wolfi"
		case "chainguard":
			return "Chainguard"
		}
		return ""
	case "rpm":
		if release == "" {
			return ""
		}
		switch name {
		case "rhel", "redhat":
			return "Red Hat:" + major
		case "rocky":
			return "Rocky Linux:" + major
		case "almalinux", "alma":
			return "AlmaLinux:" + major
		case "azurelinux", "mariner":
			return "Azure Linux:" + major
		case "opensuse":
			return "openSUSE:" + strings.ToLower(strings.ReplaceAll(release, "-", " "))
		}
		return ""
	}
	return languages[p.Type]
}

// ecosystem spells an ecosystem of OSV as Package.Ecosystem does. extended: it is Ubuntu's support that is paid for.
func ecosystem(osv string) (name string, extended bool) {
	base, release, _ := strings.Cut(osv, ":")
	switch base {
	case "Ubuntu":
		rest, pro := strings.CutPrefix(release, "Pro:")
		rest = strings.TrimSuffix(rest, ":LTS")
		if i := strings.LastIndexByte(rest, ':'); i >= 0 { // Pro:FIPS:18.04
			rest = rest[i+1:]
		}
		return base + ":" + rest, pro
	case "Red Hat":
		rest, ok := strings.CutPrefix(release, "enterprise_linux:")
		if !ok { // other products are no system of a device
			return "", false
		}
		rest, _, _ = strings.Cut(rest, ":")
		major, _, _ := strings.Cut(rest, ".")
		return base + ":" + major, false
	case "Rocky Linux", "AlmaLinux", "Azure Linux", "Debian":
		major, _, _ := strings.Cut(release, ".")
		if major == "" {
			return "", false
		}
		return base + ":" + major, false
	case "Alpine":
		if release == "" {
			return "", false
		}
		return base + ":" + release, false
	case "openSUSE":
		return base + ":" + strings.ToLower(release), false
	case "Wolfi", "Chainguard":
		return base, false
	}
	for _, l := range languages {
		if l == base {
			return base, false
		}
	}
	return "", false
}

// names are those by which a package stands in its ecosystem: of distributions that write source packages, the source's.
func (p *Package) names() []string {
	switch p.Type {
	case "deb", "apk":
		return []string{cmp.Or(p.Source, p.Name)}
	case "rpm":
		if p.Source != "" && p.Source != p.Name {
			return []string{p.Name, p.Source}
		}
	case "pypi":
		return []string{pythonName(p.Name)}
	}
	return []string{p.Name}
}

// pythonName normalizes a name as PEP 503 has it.
func pythonName(s string) string {
	parts := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return r == '-' || r == '_' || r == '.' })
	return strings.Join(parts, "-")
}

// installed is the version to compare: that of the source, which a rebuild of the binary package does not change.
func (p *Package) installed() string {
	if p.Type != "deb" {
		return p.Version
	}
	if i := strings.LastIndex(p.Version, "+b"); i > 0 && strings.Trim(p.Version[i+2:], "0123456789") == "" && i+2 < len(p.Version) {
		return p.Version[:i]
	}
	return p.Version
}
