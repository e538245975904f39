package sphere

import (
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
)

// filter is a $filter: conditions that all hold. The language is as much of OData's (OData 4.01 ABNF) as selecting by fields takes:
//
//	filter    = condition *( " and " condition )
//	condition = field ( " eq " / " ne " ) ( "'" text "'" / "true" / "false" )
//
// A quote within a text is doubled. Fields may stand below "properties/". Words of the language are lower case, as OData's are.
type filter []condition

type condition struct {
	field string
	not   bool
	value string
	bare  bool // true or false without quotes
}

const (
	maxFilter     = 1024
	maxConditions = 10
)

// parseFilter reads one, whose fields are among known; "" is the filter that all pass.
func parseFilter(s string, known []string) (filter, error) {
	var f filter
	if len(s) > maxFilter {
		return nil, fault.New(fault.Invalid, "$filter has at most %d bytes", maxFilter)
	}
	rest := strings.TrimLeft(s, " ")
	for rest != "" {
		if len(f) == maxConditions {
			return nil, fault.New(fault.Invalid, "$filter has at most %d conditions", maxConditions)
		}
		if len(f) > 0 {
			after, ok := strings.CutPrefix(rest, "and ")
			if !ok {
				return nil, badFilter("conditions are joined with and")
			}
			rest = strings.TrimLeft(after, " ")
		}
		var c condition
		var ok bool
		word, after, _ := strings.Cut(rest, " ")
		word = strings.TrimPrefix(word, "properties/")
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, word) })
		if i < 0 {
			return nil, badFilter("the fields are " + strings.Join(known, ", "))
		}
		c.field = known[i]
		word, after, _ = strings.Cut(strings.TrimLeft(after, " "), " ")
		switch word {
		case "eq":
		case "ne":
			c.not = true
		default:
			return nil, badFilter("a field is compared with eq or ne")
		}
		after = strings.TrimLeft(after, " ")
		if c.value, rest, ok = quoted(after); !ok {
			c.bare = true
			c.value, rest, _ = strings.Cut(after, " ")
			if c.value != "true" && c.value != "false" {
				return nil, badFilter("a value is a text in single quotes, true or false")
			}
		} else if rest != "" && rest[0] != ' ' {
			return nil, badFilter("a value ends with its quote")
		}
		rest = strings.TrimLeft(rest, " ")
		f = append(f, c)
	}
	return f, nil
}

func badFilter(why string) error { return fault.New(fault.Invalid, "$filter cannot be read: %s", why) }

// quoted cuts a text in single quotes from the begin of s.
func quoted(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "'")
	if !ok {
		return "", s, false
	}
	var b strings.Builder
	for {
		text, after, closed := strings.Cut(s, "'")
		if !closed {
			return "", s, false
		}
		b.WriteString(text)
		if !strings.HasPrefix(after, "'") {
			return b.String(), after, true
		}
		b.WriteByte('\'')
		s = after[1:]
	}
}

// String writes it as parseFilter reads it.
func (f filter) String() string {
	parts := make([]string, len(f))
	for i, c := range f {
		op, value := " eq ", c.value
		if c.not {
			op = " ne "
		}
		if !c.bare {
			value = "'" + strings.ReplaceAll(value, "'", "''") + "'"
		}
		parts[i] = c.field + op + value
	}
	return strings.Join(parts, " and ")
}

// passes reports whether all conditions hold. Texts compare without case, as names of resources do.
func (f filter) passes(field func(name string) any) bool {
	for _, c := range f {
		var is bool
		switch v := field(c.field).(type) {
		case bool:
			is = v == (c.value == "true") && (c.value == "true" || c.value == "false")
		case string:
			is = sphere.Fold(v) == sphere.Fold(c.value)
		}
		if is == c.not {
			return false
		}
	}
	return true
}
