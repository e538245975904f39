package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/vauban-iot/vauban/internal/conform"
)

var (
	// scheme is what ThreadX and its companions are or were certified by (rtos §24.3), and saying so in general.
	scheme = regexp.MustCompile(`(?i)\bcertifi(ed|cations?)\b|\bcertifiée?s?\b|IEC ?6(1508|0730|0335|2304)|\bSIL ?[1-4]\b|ISO ?26262|\bASIL\b|UL ?(60730|60335|1998)|E60730|\bEAL ?\d|FIPS ?140|MISRA|TÜV|IxANVL|IPv6 Ready`)
	ipsec  = regexp.MustCompile(`(?i)\bipsec\b|\bIKEv?[12]?\b`)
	denial = regexp.MustCompile(`(?i)\b(no|not|nor|never|none|without|aucune?|ni|pas)\b`)
	stop   = regexp.MustCompile(`[.!?:;]\s|\n\s*\n|\n\s*[-*|#]|\|`)
)

// claims are sentences that say of Vauban what it is not.
func claims(text string) (found []string) {
	for _, sentence := range stop.Split(text, -1) {
		if (scheme.MatchString(sentence) || ipsec.MatchString(sentence)) && !denial.MatchString(sentence) {
			found = append(found, strings.Join(strings.Fields(sentence), " "))
		}
	}
	return found
}

// No page and no help claims a certification, or IPsec; and the kernel's page denies both in so many words.
func TestClaims(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-45")
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../../README.md", "../../CHANGELOG.md", "../../CONTRIBUTING.md", "../../SECURITY.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(page) == "conformance.md" {
			continue // repeats the wire references' own words
		}
		for _, c := range claims(string(text)) {
			t.Errorf("%s claims: %s", page, c)
		}
	}
	for _, c := range all(New(strings.NewReader(""), io.Discard, io.Discard)) {
		text := []string{c.Short, c.Long, c.Example}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) { text = append(text, f.Usage) })
		for _, claim := range claims(strings.Join(text, "\n\n")) {
			t.Errorf("the help of %s claims: %s", c.CommandPath(), claim)
		}
	}
	kernel, err := os.ReadFile("../../docs/rtos.md")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(string(kernel)), " ")
	for _, want := range []string{"no certification of ThreadX", "There is no IPsec"} {
		if !strings.Contains(words, want) {
			t.Errorf("docs/rtos.md does not say %q", want)
		}
	}
}

func TestClaims_AreFound(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"Vauban's kernel is certified.", "The kernel meets IEC 61508 SIL 4.", "- EAL4+ and FIPS 140-2", "| Network | IPv6, IPsec, TCP |", "It is not small. It has ISO 26262 ASIL D.", "Boards speak IKEv2.",
	} {
		if len(claims(text)) != 1 {
			t.Errorf("%q is no claim", text)
		}
	}
	for _, text := range []string{"There is no IPsec.", "No certification\nof ThreadX is claimed.", "Certificates renew themselves.", "a certification authority is not one of these"} {
		if c := claims(text); len(c) != 0 {
			t.Errorf("%q is said to claim %q", text, c)
		}
	}
}
