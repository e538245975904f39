package format

import (
	"net/url"
	"strings"
)

// PURL is a package URL: pkg:type/namespace/name@version?qualifiers.
type PURL struct {
	Type, Namespace, Name, Version string
	Qualifiers                     url.Values
}

// ParsePURL reads a package URL; ok is false for what is none.
func ParsePURL(s string) (p PURL, ok bool) {
	rest, found := strings.CutPrefix(s, "pkg:")
	if !found || len(s) > 4*maxText {
		return p, false
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(strings.TrimLeft(rest, "/"), "?")
	p.Qualifiers, _ = url.ParseQuery(strings.ReplaceAll(query, "+", "%2B")) // what is not readable is not there
	plain := func(s string) string {
		if t, err := url.PathUnescape(s); err == nil {
			return t
		}
		return s
	}
	if at := strings.LastIndexByte(rest, '@'); at > 0 && !strings.Contains(rest[at:], "/") {
		p.Version, rest = plain(rest[at+1:]), rest[:at]
	}
	kind, path, found := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if !found || kind == "" || path == "" {
		return p, false
	}
	p.Type, p.Name = strings.ToLower(kind), plain(path)
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		p.Namespace, p.Name = plain(path[:i]), plain(path[i+1:])
	}
	return p, true
}

func (p PURL) String() string {
	var b strings.Builder
	b.WriteString("pkg:" + p.Type + "/")
	if p.Namespace != "" {
		for part := range strings.SplitSeq(p.Namespace, "/") {
			b.WriteString(url.PathEscape(part) + "/")
		}
	}
	b.WriteString(url.PathEscape(p.Name))
	if p.Version != "" {
		b.WriteString("@" + strings.NewReplacer("%3A", ":", "%2B", "+").Replace(url.QueryEscape(p.Version)))
	}
	if len(p.Qualifiers) > 0 {
		b.WriteString("?" + p.Qualifiers.Encode())
	}
	return b.String()
}
