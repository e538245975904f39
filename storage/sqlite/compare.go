package sqlite

import (
	"strings"

	"github.com/vauban-iot/vauban/hub/query"
)

// compare implements sqlstore.Backend. json_extract gives text, numbers, and 1 and 0 for true and false; values of
// other types compare in some order, which is harmless.
func compare(column string, names []string, op string, v query.Value, param func(any) string) (string, bool) {
	var constant any
	switch v.Kind {
	case query.String:
		constant, _ = v.Str()
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
	return "json_extract(" + column + ", " + param(path) + ") " + op + " " + param(constant), true
}
