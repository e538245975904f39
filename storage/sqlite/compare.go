package sqlite

import (
	"strings"

	"github.com/vauban-iot/vauban/hub/query"
)

// compare implements sqlstore.Backend. json_extract gives text, numbers, and 1 and 0 for true and false; values of
// other types compare in some order, which is harmless.
func compare(column string, names []string, op string, v query.Value, param func(any) string) (string, bool) {
	var constant any
	first := ""
	switch v.Kind {
	case query.String:
		text, _ := v.Str()
		constant = text
		if op == "=" && len(v.Key()) >= len(text)+2 && !strings.Contains(v.Key(), `\`) { // neither cut nor escaped
			// Most rows do not hold the text at all, which costs a fraction of looking where it stands. An escape may be another spelling.
			first = "(instr(" + column + ", " + param(v.Key()) + ") > 0 OR instr(" + column + `, '\') > 0) AND `
		}
	case query.Number:
		constant, _ = v.Num()
	case query.Bool:
		constant = 0
		if v.True() {
			constant = 1
		}
	default:
		return "", false
	}
	path := `$."` + strings.Join(names, `"."`) + `"`
	return first + "json_extract(" + column + ", " + param(path) + ") " + op + " " + param(constant), true
}
