package sbom

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/vauban-iot/vauban/wire/secmsg"
)

// maxLine bounds a line of a package manager's file; longer ones end its reading with an error.
const maxLine = 1 << 20

func scanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return s
}

// parseDpkg reads paragraphs of fields, as dpkg and opkg keep them: only what is installed counts. A file of status.d has no Status.
func parseDpkg(kind string) func(io.Reader, func(secmsg.Package)) error {
	return func(r io.Reader, add func(secmsg.Package)) error {
		p := secmsg.Package{Type: kind}
		installed := true
		end := func() {
			if installed && p.Version != "" {
				add(p)
			}
			p, installed = secmsg.Package{Type: kind}, true
		}
		s := scanner(r)
		for s.Scan() {
			line := s.Text()
			if strings.TrimSpace(line) == "" {
				end()
				continue
			}
			name, value, ok := strings.Cut(line, ":")
			if !ok || line[0] == ' ' || line[0] == '\t' {
				continue // the rest of a field
			}
			value = strings.TrimSpace(value)
			switch strings.ToLower(name) {
			case "package":
				p.Name = value
			case "version":
				p.Version = value
			case "architecture":
				p.Arch = value
			case "maintainer":
				p.Vendor = value
			case "source":
				p.Source, _, _ = strings.Cut(value, " (")
			case "status": // what is wanted, how it went, how it is: install user installed, of opkg
				f := strings.Fields(value)
				installed = len(f) == 3 && f[2] == "installed"
			}
		}
		end()
		return s.Err()
	}
}

// parseApk reads the list of what apk installed: a letter, a colon, a value.
func parseApk(r io.Reader, add func(secmsg.Package)) error {
	p := secmsg.Package{Type: "apk"}
	end := func() {
		if p.Version != "" {
			add(p)
		}
		p = secmsg.Package{Type: "apk"}
	}
	s := scanner(r)
	for s.Scan() {
		line := s.Text()
		if line == "" {
			end()
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "P":
			p.Name = value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		case "m":
			p.Vendor = value
		case "o":
			p.Source = value
		}
	}
	end()
	return s.Err()
}

// rpmFormat makes a line of each package.
const rpmFormat = `%{NAME}\t%{EPOCH}\t%{VERSION}-%{RELEASE}\t%{VENDOR}\t%{ARCH}\t%{SOURCERPM}\n`

// parseRPM reads lines of rpmFormat.
func parseRPM(r io.Reader, add func(secmsg.Package)) error {
	s := scanner(r)
	for s.Scan() {
		f := strings.Split(s.Text(), "\t")
		if len(f) != 6 || f[0] == "gpg-pubkey" { // a key that rpm keeps as if it were a package
			continue
		}
		for i, v := range f {
			if v == "(none)" {
				f[i] = ""
			}
		}
		p := secmsg.Package{Name: f[0], Version: f[2], Vendor: f[3], Type: "rpm", Arch: f[4], Source: sourceName(f[5])}
		if f[1] != "" && f[1] != "0" {
			p.Version = f[1] + ":" + p.Version
		}
		add(p)
	}
	return s.Err()
}

// sourceName takes the name out of NAME-VERSION-RELEASE.src.rpm.
func sourceName(s string) string {
	for range 2 {
		i := strings.LastIndexByte(s, '-')
		if i < 0 {
			return ""
		}
		s = s[:i]
	}
	return s
}

var errNoBill = errors.New("neither CycloneDX nor SPDX; expected a JSON object with bomFormat or spdxVersion")

type component struct {
	Name, Version, Group, Publisher string
	PURL                            string `json:"purl"`
	Supplier                        struct{ Name string }
	Components                      []component
}

// parseDocument reads a bill of materials.
func parseDocument(b []byte, add func(secmsg.Package)) error {
	var d struct {
		BOMFormat   string `json:"bomFormat"`
		SPDXVersion string `json:"spdxVersion"`
		Components  []component
		Packages    []struct {
			Name         string
			Version      string `json:"versionInfo"`
			Supplier     string
			ExternalRefs []struct {
				Type    string `json:"referenceType"`
				Locator string `json:"referenceLocator"`
			} `json:"externalRefs"`
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("%w: %w", errNoBill, err)
	}
	switch {
	case d.BOMFormat == "CycloneDX":
		for i := range d.Components {
			d.Components[i].tell(add)
		}
	case strings.HasPrefix(d.SPDXVersion, "SPDX-"):
		for _, p := range d.Packages {
			var purl string
			for _, r := range p.ExternalRefs {
				if r.Type == "purl" {
					purl = r.Locator
				}
			}
			vendor := p.Supplier
			if _, rest, ok := strings.Cut(vendor, ": "); ok {
				vendor = rest // Organization or Person
			}
			if vendor == "NOASSERTION" {
				vendor = ""
			}
			tell(secmsg.Package{Name: p.Name, Version: p.Version, Vendor: vendor}, purl, add)
		}
	default:
		return errNoBill
	}
	return nil
}

// tell adds a component and those inside it.
func (c *component) tell(add func(secmsg.Package)) {
	vendor := c.Supplier.Name
	if vendor == "" {
		vendor = c.Publisher
	}
	if vendor == "" {
		vendor = c.Group
	}
	tell(secmsg.Package{Name: c.Name, Version: c.Version, Vendor: vendor}, c.PURL, add)
	for i := range c.Components {
		c.Components[i].tell(add)
	}
}

// tell adds a package, with what its package URL says: pkg:type/namespace/name@version?arch=...#path.
func tell(p secmsg.Package, purl string, add func(secmsg.Package)) {
	p.Type = "generic"
	if rest, ok := strings.CutPrefix(purl, "pkg:"); ok {
		rest, _, _ = strings.Cut(rest, "#")
		rest, qualifiers, _ := strings.Cut(rest, "?")
		kind, name, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		if kind != "" {
			p.Type = strings.ToLower(kind)
		}
		version := ""
		if i := strings.LastIndexByte(name, '@'); i > 0 {
			name, version = name[:i], name[i+1:]
		}
		for _, v := range []*string{&name, &version} {
			if u, err := url.PathUnescape(*v); err == nil {
				*v = u
			}
		}
		switch p.Type { // those whose namespace belongs to the name
		case "golang", "npm", "composer", "github":
			p.Name = name
		case "maven":
			p.Name = strings.Replace(name, "/", ":", 1)
		}
		if p.Version == "" {
			p.Version = version
		}
		if q, err := url.ParseQuery(qualifiers); err == nil {
			p.Arch = q.Get("arch")
			p.Source, _, _ = strings.Cut(q.Get("upstream"), "@")
		}
	}
	add(p)
}
