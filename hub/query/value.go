package query

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Kind is the type of a value.
type Kind int

// The kinds. Undefined is what is missing.
const (
	Undefined Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// Value is a JSON value, or undefined. Arrays and objects are kept as JSON text and read when asked.
type Value struct {
	Kind Kind
	b    bool
	num  float64
	str  string // of a String: decoded; of a number, array or object from a document: its JSON text
}

func boolean(b bool) Value   { return Value{Kind: Bool, b: b} }
func number(f float64) Value { return Value{Kind: Number, num: f} }
func text(s string) Value    { return Value{Kind: String, str: s} }

// Text is a string value.
func Text(s string) Value { return text(s) }

// Truth is a boolean value.
func Truth(b bool) Value { return boolean(b) }

// Int is a number value.
func Int(n int64) Value { return Value{Kind: Number, num: float64(n), str: strconv.FormatInt(n, 10)} }

// JSON is the value of a JSON text, which must be valid. The empty text is undefined.
func JSON(raw string) Value {
	raw = strings.Trim(raw, " \t\r\n")
	if raw == "" {
		return Value{}
	}
	switch raw[0] {
	case '{':
		return Value{Kind: Object, str: raw}
	case '[':
		return Value{Kind: Array, str: raw}
	case '"':
		return text(unquote(raw))
	case 't', 'f':
		return boolean(raw[0] == 't')
	case 'n':
		return Value{Kind: Null}
	default:
		f, err := strconv.ParseFloat(raw, 64)
		if err != nil && !math.IsInf(f, 0) {
			return Value{}
		}
		return Value{Kind: Number, num: f, str: raw}
	}
}

func unquote(raw string) string {
	if len(raw) >= 2 && strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal([]byte(raw), &s) != nil {
		return ""
	}
	return s
}

// True reports whether v selects: only true does.
func (v Value) True() bool { return v.Kind == Bool && v.b }

// Str returns a string's text; ok is false for other kinds.
func (v Value) Str() (s string, ok bool) { return v.str, v.Kind == String }

// Num returns a number; ok is false for other kinds.
func (v Value) Num() (f float64, ok bool) { return v.num, v.Kind == Number }

// AppendJSON appends the value as JSON; undefined must not be asked.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.Kind {
	case Bool:
		return strconv.AppendBool(b, v.b)
	case Number:
		if v.str != "" {
			return append(b, v.str...)
		}
		if math.IsInf(v.num, 0) || math.IsNaN(v.num) {
			return append(b, "null"...) // JSON has no word for it
		}
		if v.num == math.Trunc(v.num) && math.Abs(v.num) < 1e15 {
			return strconv.AppendInt(b, int64(v.num), 10)
		}
		return strconv.AppendFloat(b, v.num, 'g', -1, 64)
	case String:
		return appendString(b, v.str)
	case Array, Object:
		return append(b, v.str...)
	default:
		return append(b, "null"...)
	}
}

// appendString quotes without escaping <, > and &.
func appendString(b []byte, s string) []byte {
	var sb strings.Builder
	enc := json.NewEncoder(&sb)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string into memory cannot fail
	return append(b, strings.TrimSuffix(sb.String(), "\n")...)
}

// maxKey bounds what Key returns.
const maxKey = 200

// Key is one text for all spellings of a primitive value, cut to 200 bytes: equal values have equal keys, and
// values with equal keys may differ only behind the cut. It is empty for other kinds.
func (v Value) Key() string {
	switch v.Kind {
	case Number:
		return strconv.FormatFloat(v.num, 'g', -1, 64)
	case Null, Bool, String:
		k := string(v.AppendJSON(nil))
		if len(k) > maxKey {
			k = strings.ToValidUTF8(k[:maxKey], "")
		}
		return k
	}
	return ""
}

// String is the value as the language writes it.
func (v Value) String() string {
	switch v.Kind {
	case Undefined:
		return "undefined"
	case String:
		var b strings.Builder
		b.WriteByte('\'')
		for _, r := range v.str {
			if r == '\'' || r == '\\' {
				b.WriteByte('\\')
			}
			b.WriteRune(r)
		}
		return b.String() + "'"
	case Number:
		return strconv.FormatFloat(v.num, 'g', -1, 64)
	default:
		return string(v.AppendJSON(nil))
	}
}

// Member returns a member of an object by its exact name, or undefined.
func (v Value) Member(name string) Value {
	if v.Kind != Object {
		return Value{}
	}
	found := Value{}
	v.each(func(key string, raw string) bool {
		if unquote(key) == name {
			found = JSON(raw) // the last of equal names wins, as in encoding/json
		}
		return true
	})
	return found
}

// Element returns an element of an array, or undefined.
func (v Value) Element(i int) Value {
	if v.Kind != Array {
		return Value{}
	}
	found, n := Value{}, 0
	v.each(func(_, raw string) bool {
		if n == i {
			found = JSON(raw)
			return false
		}
		n++
		return true
	})
	return found
}

// Elements returns the elements of an array.
func (v Value) Elements() []Value {
	if v.Kind != Array {
		return nil
	}
	var all []Value
	v.each(func(_, raw string) bool {
		all = append(all, JSON(raw))
		return true
	})
	return all
}

// each walks the members of an object (key with its quotes) or the elements of an array, whose text is valid JSON.
func (v Value) each(visit func(key, raw string) bool) {
	s := v.str
	i := 1
	for i < len(s) {
		i = space(s, i)
		if i >= len(s) || s[i] == '}' || s[i] == ']' {
			return
		}
		if s[i] == ',' {
			i = space(s, i+1)
		}
		key := ""
		if v.Kind == Object {
			end := skip(s, i)
			key = s[i:end]
			i = space(s, end)
			i = space(s, i+1) // :
		}
		end := skip(s, i)
		if end <= i {
			return
		}
		if !visit(key, s[i:end]) {
			return
		}
		i = end
	}
}

func space(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n') {
		i++
	}
	return i
}

// skip returns the end of the JSON value that starts at i.
func skip(s string, i int) int {
	if i >= len(s) {
		return i
	}
	switch s[i] {
	case '"':
		return skipString(s, i)
	case '{', '[':
		for depth := 0; i < len(s); {
			switch s[i] {
			case '"':
				i = skipString(s, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return i
	default:
		for i < len(s) && strings.IndexByte(",]} \t\r\n", s[i]) < 0 {
			i++
		}
		return i
	}
}

func skipString(s string, i int) int {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}
