package format

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Component is a piece of software of a bill of materials.
type Component struct {
	Name, Version, Vendor string
	Type                  string // of its package URL: deb, rpm, apk, npm...; empty: not known
	Arch                  string
	Source                string // the source package, where it has another name
	Distro                string // debian-12
}

// Bill is what a bill of materials says.
type Bill struct {
	Format     string // "CycloneDX 1.5", "SPDX-2.3"
	Components []Component
	Left       int // components without a name
}

const (
	// MaxBill is the longest document, in bytes.
	MaxBill       = 32 << 20
	maxComponents = 100_000
	maxNesting    = 32
)

type cycloneComponent struct {
	Ref        string             `json:"bom-ref"`
	Type       string             `json:"type"`
	Group      string             `json:"group"`
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Publisher  string             `json:"publisher"`
	PURL       string             `json:"purl"`
	Components []cycloneComponent `json:"components"`
}

type cyclone struct {
	Format   string `json:"bomFormat"`
	Version  string `json:"specVersion"`
	Metadata struct {
		Component cycloneComponent `json:"component"`
	} `json:"metadata"`
	Components []cycloneComponent `json:"components"`
}

// walk visits components and what they are made of; left bounds how many.
func walk(all []cycloneComponent, depth int, left *int, visit func(*cycloneComponent)) {
	for i := range all {
		if *left <= 0 || depth > maxNesting {
			return
		}
		*left--
		visit(&all[i])
		walk(all[i].Components, depth+1, left, visit)
	}
}

// ParseBill reads a bill of materials, CycloneDX or SPDX 2 as JSON.
func ParseBill(data []byte) (Bill, error) {
	if len(data) > MaxBill {
		return Bill{}, fmt.Errorf("over %d MiB", MaxBill>>20)
	}
	switch members := looks(data); {
	case members == nil:
		return Bill{}, errors.New("it is not a JSON object")
	case members["bomFormat"] != nil:
		return cycloneBill(data)
	case members["spdxVersion"] != nil:
		return spdxBill(data)
	}
	return Bill{}, errors.New(`it is neither CycloneDX (a member "bomFormat") nor SPDX 2 ("spdxVersion"), as JSON`)
}

func cycloneBill(data []byte) (Bill, error) {
	var doc cyclone
	if err := json.Unmarshal(data, &doc); err != nil {
		return Bill{}, err
	}
	b := Bill{Format: "CycloneDX " + Clip(doc.Version, 16)}
	left, system := maxComponents, ""
	walk(doc.Components, 0, &left, func(c *cycloneComponent) {
		if c.Type == "operating-system" {
			system = strings.ToLower(c.Name) + "-" + c.Version
			return
		}
		name := c.Name
		if c.Group != "" && c.PURL == "" {
			name = c.Group + "/" + name
		}
		b.add(Component{Name: name, Version: c.Version, Vendor: c.Publisher}, c.PURL)
	})
	if left <= 0 {
		return Bill{}, fmt.Errorf("over %d components", maxComponents)
	}
	b.within(system)
	return b, nil
}

func spdxBill(data []byte) (Bill, error) {
	var doc struct {
		Version  string `json:"spdxVersion"`
		Packages []struct {
			Name     string `json:"name"`
			Version  string `json:"versionInfo"`
			Supplier string `json:"supplier"`
			Purpose  string `json:"primaryPackagePurpose"`
			Refs     []struct {
				Type    string `json:"referenceType"`
				Locator string `json:"referenceLocator"`
			} `json:"externalRefs"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return Bill{}, err
	}
	if len(doc.Packages) > maxComponents {
		return Bill{}, fmt.Errorf("over %d packages", maxComponents)
	}
	b := Bill{Format: Clip(doc.Version, 16)}
	system := ""
	for _, p := range doc.Packages {
		if p.Purpose == "OPERATING-SYSTEM" || p.Purpose == "OPERATING_SYSTEM" {
			system = strings.ToLower(p.Name) + "-" + p.Version
			continue
		}
		purl := ""
		for _, r := range p.Refs {
			if r.Type == "purl" {
				purl = r.Locator
			}
		}
		vendor := strings.TrimPrefix(strings.TrimPrefix(p.Supplier, "Organization: "), "Person: ")
		if vendor == "NOASSERTION" {
			vendor = ""
		}
		b.add(Component{Name: p.Name, Version: p.Version, Vendor: vendor}, purl)
	}
	b.within(system)
	return b, nil
}

// add keeps a component; its package URL knows best.
func (b *Bill) add(c Component, purl string) {
	if p, ok := ParsePURL(purl); ok {
		c.Type, c.Name, c.Version = p.Type, p.Name, cmp.Or(p.Version, c.Version)
		switch p.Type {
		case "deb", "rpm", "apk":
			c.Arch, c.Distro = p.Qualifiers.Get("arch"), strings.ToLower(p.Qualifiers.Get("distro"))
			c.Source, _, _ = strings.Cut(p.Qualifiers.Get("upstream"), "@")
			if e := p.Qualifiers.Get("epoch"); e != "" && !strings.Contains(c.Version, ":") {
				c.Version = e + ":" + c.Version
			}
			if c.Distro != "" && strings.IndexFunc(c.Distro, func(r rune) bool { return r >= 'a' && r <= 'z' }) != 0 {
				c.Distro = p.Namespace + "-" + c.Distro // distro=12
			}
		default:
			if p.Namespace != "" {
				separator := "/"
				if p.Type == "maven" {
					separator = ":"
				}
				c.Name = p.Namespace + separator + p.Name
			}
		}
	}
	for _, s := range []*string{&c.Name, &c.Version, &c.Vendor, &c.Type, &c.Arch, &c.Source, &c.Distro} {
		*s = strings.TrimSpace(Clip(*s, maxText))
	}
	if c.Name == "" {
		b.Left++
		return
	}
	b.Components = append(b.Components, c)
}

// within gives packages of a distribution that do not say theirs the system's.
func (b *Bill) within(system string) {
	for i := range b.Components {
		c := &b.Components[i]
		if c.Distro == "" && (c.Type == "deb" || c.Type == "rpm" || c.Type == "apk") {
			c.Distro = Clip(system, maxText)
		}
	}
}
