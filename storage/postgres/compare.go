package postgres

import (
	"regexp"
	"strings"

	"github.com/vauban-iot/vauban/hub/query"
)

// compare implements sqlstore.Backend for equalities. The value's JSON text is looked at, by a pattern, since
// turning every text into a value fails for some that JSON allows (a NUL in a string, huge numbers):
// the plain spelling, and whatever may be another spelling of the same.
func compare(column string, names []string, op string, v query.Value, param func(any) string) (string, bool) {
	if op != "=" {
		return "", false
	}
	plain, first := "^"+regexp.QuoteMeta(v.Key())+"$", ""
	switch v.Kind {
	case query.String:
		if text, _ := v.Str(); strings.Contains(v.Key(), `\`) || len(v.Key()) < len(text)+2 {
			return "", false // itself escaped, or cut
		}
		plain += `|\\` // an escape
		// Most rows do not hold the text at all, which costs a fraction of looking where it stands.
		first = "(strpos(" + column + ", " + param(v.Key()) + ") > 0 OR strpos(" + column + `, '\') > 0) AND `
	case query.Number:
		if strings.ContainsAny(v.Key(), "eE") {
			return "", false
		}
		zeros := `0*$`
		if !strings.Contains(v.Key(), ".") {
			zeros = `(\.0*)?$`
		}
		plain = strings.TrimSuffix(plain, "$") + zeros + `|^[-0-9.]+[eE]|^.{17}` // an exponent, more digits than a float holds
	case query.Bool:
	default:
		return "", false
	}
	// PostgreSQL cannot look into text with some \u escapes; such rows are left to the reader.
	return first + "CASE WHEN strpos(" + column + ", '\\u') > 0 THEN TRUE ELSE (" + column + "::json #> string_to_array(" +
		param(strings.Join(names, ".")) + ", '.'))::text ~ " + param(plain) + " END", true
}
