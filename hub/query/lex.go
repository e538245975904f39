package query

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
)

// token is one word of the text.
type token struct {
	kind tokenKind
	text string // names as written; strings decoded; operators canonical
	num  float64
	raw  string // of a number
	at   int    // byte offset
}

type tokenKind int

const (
	tokEnd tokenKind = iota
	tokName
	tokQuoted // [[name]]
	tokNumber
	tokString
	tokOp // punctuation and operators
)

func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end"
	case tokString:
		return "a string"
	default:
		return strconv.Quote(t.text)
	}
}

// syntaxError says what is wrong and where; it is fault.Invalid.
func syntaxError(text string, at int, format string, args ...any) error {
	line, col := 1, 1
	for _, r := range text[:min(at, len(text))] {
		if r == '\n' {
			line, col = line+1, 1
		} else {
			col++
		}
	}
	return fault.New(fault.Invalid, "the query is wrong at line %d, column %d: %s", line, col, fmt.Sprintf(format, args...))
}

func lex(text string) ([]token, error) {
	if len(text) > MaxText {
		return nil, fault.New(fault.Invalid, "the query has %d bytes, %d are allowed", len(text), MaxText)
	}
	if !utf8.ValidString(text) {
		return nil, fault.New(fault.Invalid, "the query is not UTF-8")
	}
	var toks []token
	for i := 0; ; {
		next, err := skipSpace(text, i)
		if err != nil {
			return nil, err
		}
		if i = next; i >= len(text) {
			return append(toks, token{kind: tokEnd, at: i}), nil
		}
		t, n, err := lexOne(text, i)
		if err != nil {
			return nil, err
		}
		toks = append(toks, t)
		i += n
	}
}

func skipSpace(text string, i int) (int, error) {
	for i < len(text) {
		switch {
		case strings.IndexByte(" \t\r\n\f\v", text[i]) >= 0:
			i++
		case strings.HasPrefix(text[i:], "\u00a0"): // pasted from a page
			i += len("\u00a0")
		case strings.HasPrefix(text[i:], "/*"):
			n := strings.Index(text[i+2:], "*/")
			if n < 0 {
				return 0, syntaxError(text, i, "a comment without end")
			}
			i += n + 4
		default:
			return i, nil
		}
	}
	return i, nil
}

func lexOne(text string, i int) (token, int, error) {
	c := text[i]
	switch {
	case c == '\'' || c == '"':
		s, n, err := lexString(text, i)
		return token{kind: tokString, text: s, at: i}, n, err
	case isDigit(c) || c == '.' && i+1 < len(text) && isDigit(text[i+1]):
		return lexNumber(text, i)
	case strings.HasPrefix(text[i:], "[["):
		n := strings.Index(text[i:], "]]")
		if n < 0 {
			break // an array of arrays: its brackets come one by one
		}
		name := text[i+2 : i+n]
		if strings.ContainsAny(name, "[,'\"") || name == "" {
			break
		}
		return token{kind: tokQuoted, text: name, at: i}, n + 2, nil
	case c == '{': // a quoted name in the conditions of routes
		n := strings.IndexByte(text[i:], '}')
		if n < 2 || strings.ContainsAny(text[i+1:i+n], "{[]'\"") {
			return token{}, 0, syntaxError(text, i, "a name in braces needs its closing brace")
		}
		return token{kind: tokQuoted, text: text[i+1 : i+n], at: i}, n + 1, nil
	case isNameByte(c) && !isDigit(c):
		n := 1
		for i+n < len(text) && isNameByte(text[i+n]) {
			n++
		}
		return token{kind: tokName, text: text[i : i+n], at: i}, n, nil
	}
	for _, op := range []string{"<=", ">=", "<>", "!=", "==", "||"} {
		if strings.HasPrefix(text[i:], op) {
			canonical := op
			switch op {
			case "<>":
				canonical = "!="
			case "==", "||":
				return token{}, 0, syntaxError(text, i, "%q is no operator", op)
			}
			return token{kind: tokOp, text: canonical, at: i}, 2, nil
		}
	}
	if strings.IndexByte("=<>()[],.+-*/%", c) >= 0 {
		return token{kind: tokOp, text: string(c), at: i}, 1, nil
	}
	r, _ := utf8.DecodeRuneInString(text[i:])
	return token{}, 0, syntaxError(text, i, "the character %q has no meaning here", r)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isNameByte accepts letters, digits, _ and $, and every letter outside ASCII.
func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_' || c == '$' || c >= utf8.RuneSelf
}

// isName reports whether a name needs no [[ ]].
func isName(s string) bool {
	if s == "" || isDigit(s[0]) || strings.Contains(s, "\u00a0") || reserved(s) {
		return false
	}
	for i := range len(s) {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return true
}

func lexString(text string, start int) (string, int, error) {
	quote := text[start]
	var b strings.Builder
	for i := start + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == quote && quote == '\'' && i+1 < len(text) && text[i+1] == quote: // '' is one quote
			b.WriteByte(quote)
			i++
		case c == quote:
			return b.String(), i + 1 - start, nil
		case c == '\\':
			i++
			if i >= len(text) {
				return "", 0, syntaxError(text, start, "a string without end")
			}
			switch e := text[i]; e {
			case 'u':
				if i+4 >= len(text) {
					return "", 0, syntaxError(text, i, "\\u needs four hexadecimal digits")
				}
				n, err := strconv.ParseUint(text[i+1:i+5], 16, 16)
				if err != nil {
					return "", 0, syntaxError(text, i, "\\u needs four hexadecimal digits")
				}
				b.WriteRune(rune(n)) // a lone surrogate becomes U+FFFD
				i += 4
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case '\'', '"', '\\', '/':
				b.WriteByte(e)
			default:
				return "", 0, syntaxError(text, i-1, "the escape \\%c is unknown", e)
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, syntaxError(text, start, "a string without end")
}

func lexNumber(text string, start int) (token, int, error) {
	i := start
	if strings.HasPrefix(text[i:], "0x") || strings.HasPrefix(text[i:], "0X") {
		i += 2
		for i < len(text) && strings.IndexByte("0123456789abcdefABCDEF", text[i]) >= 0 {
			i++
		}
		n, err := strconv.ParseUint(text[start+2:i], 16, 64)
		if err != nil || i < len(text) && isNameByte(text[i]) {
			return token{}, 0, syntaxError(text, start, "an unreadable hexadecimal number")
		}
		return token{kind: tokNumber, text: text[start:i], num: float64(n), raw: strconv.FormatUint(n, 10), at: start}, i - start, nil
	}
	digits := func() {
		for i < len(text) && isDigit(text[i]) {
			i++
		}
	}
	digits()
	if i < len(text) && text[i] == '.' {
		i++
		digits()
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		digits()
	}
	f, err := strconv.ParseFloat(text[start:i], 64)
	if err != nil || i < len(text) && isNameByte(text[i]) {
		return token{}, 0, syntaxError(text, start, "an unreadable number")
	}
	return token{kind: tokNumber, text: text[start:i], num: f, at: start}, i - start, nil
}
