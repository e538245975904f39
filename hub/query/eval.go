package query

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Document is what a query looks at: a twin, a job, a message. Find returns the value of a path
// that starts with the given name; it is undefined when there is none. How names match is the
// document's to say; see [Pick].
type Document interface {
	Find(path Path) Value
}

// Find follows a path into v.
func (v Value) Find(path Path) Value {
	for _, s := range path {
		if s.Name == "" {
			v = v.Element(s.Index)
		} else {
			v = v.Member(s.Name)
		}
	}
	return v
}

// Pick returns the entry of names that name means: the same spelling first, then the same in other
// case (hub-service §4.2). It returns name itself when there is none.
func Pick(name string, names []string) string {
	if slices.Contains(names, name) {
		return name
	}
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return n
		}
	}
	return name
}

// Matches reports whether a document is selected.
func (q *Query) Matches(d Document) bool { return matches(q.Where, d) }

// Matches reports whether a document meets the condition.
func (c *Condition) Matches(d Document) bool { return !c.None && matches(c.Where, d) }

func matches(where Expr, d Document) bool { return where == nil || where.eval(d).True() }

// Row projects a document onto the select list: a JSON object whose members stand in the list's order. Missing
// values have no member. rename gives the output name of a path without alias; nil keeps it.
func (q *Query) Row(d Document, rename func(Path) string) []byte {
	b := []byte{'{'}
	for _, c := range q.Columns {
		v := d.Find(c.Path)
		if v.Kind == Undefined {
			continue
		}
		b = appendMember(b, columnName(c, rename), v)
	}
	return append(b, '}')
}

func columnName(c Column, rename func(Path) string) string {
	if c.Alias == "" && c.Aggregate == "" && rename != nil {
		return rename(c.Path)
	}
	return c.Name()
}

func appendMember(b []byte, name string, v Value) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = appendString(b, name)
	b = append(b, ':')
	return v.AppendJSON(b)
}

func (l *Literal) eval(Document) Value { return l.Value }
func (g *Get) eval(d Document) Value   { return d.Find(g.Path) }

func (l *List) eval(d Document) Value {
	b := []byte{'['}
	for i, x := range l.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = x.eval(d).AppendJSON(b)
	}
	return Value{Kind: Array, str: string(append(b, ']'))}
}

func (u *Unary) eval(d Document) Value {
	v := u.X.eval(d)
	switch {
	case u.Op == "NOT" && v.Kind == Bool:
		return boolean(!v.b)
	case u.Op == "-" && v.Kind == Number:
		return number(-v.num)
	}
	return Value{}
}

func (c *Call) eval(d Document) Value {
	args := make([]Value, len(c.Args))
	for i, a := range c.Args {
		args[i] = a.eval(d)
	}
	return c.fn(args)
}

func (b *Binary) eval(d Document) Value {
	switch b.Op {
	case "AND", "OR":
		// Three values: false AND anything is false, true OR anything is true, else undefined stays.
		stop := b.Op == "OR"
		x := b.X.eval(d)
		if x.Kind == Bool && x.b == stop {
			return x
		}
		y := b.Y.eval(d)
		switch {
		case y.Kind == Bool && y.b == stop:
			return y
		case x.Kind == Bool && y.Kind == Bool:
			return boolean(!stop)
		}
		return Value{}
	case "IN", "NIN":
		return b.within(d)
	}
	x, y := b.X.eval(d), b.Y.eval(d)
	switch b.Op {
	case "+", "-", "*", "/", "%":
		return arithmetic(b.Op, x, y)
	}
	return compare(b.Op, x, y)
}

// within looks for x in a list. A list of other types only makes the answer undefined.
func (b *Binary) within(d Document) Value {
	x := b.X.eval(d)
	if x.Kind == Undefined {
		return Value{}
	}
	comparable := false
	for _, item := range b.Y.(*List).Items { // the parser saw to it
		switch eq := compare("=", x, item.eval(d)); {
		case eq.True():
			return boolean(b.Op == "IN")
		case eq.Kind == Bool:
			comparable = true
		}
	}
	if !comparable && len(b.Y.(*List).Items) > 0 {
		return Value{}
	}
	return boolean(b.Op == "NIN")
}

// compare is between values of one primitive type; everything else is undefined, but null equals null.
func compare(op string, x, y Value) Value {
	var order int
	switch {
	case x.Kind == Undefined || y.Kind == Undefined || x.Kind >= Array || y.Kind >= Array:
		return Value{}
	case x.Kind == Null || y.Kind == Null:
		switch op {
		case "=":
			return boolean(x.Kind == y.Kind)
		case "!=":
			return boolean(x.Kind != y.Kind)
		}
		return Value{}
	case x.Kind != y.Kind:
		return Value{}
	case x.Kind == Number:
		order = cmp.Compare(x.num, y.num)
	case x.Kind == String:
		order = strings.Compare(x.str, y.str)
	default:
		if x.b != y.b {
			order = 1
			if y.b {
				order = -1
			}
		}
	}
	switch op {
	case "=":
		return boolean(order == 0)
	case "!=":
		return boolean(order != 0)
	case "<":
		return boolean(order < 0)
	case "<=":
		return boolean(order <= 0)
	case ">":
		return boolean(order > 0)
	default:
		return boolean(order >= 0)
	}
}

func arithmetic(op string, x, y Value) Value {
	if x.Kind == String && y.Kind == String && op == "+" {
		return text(x.str + y.str)
	}
	if x.Kind != Number || y.Kind != Number {
		return Value{}
	}
	switch op {
	case "+":
		return number(x.num + y.num)
	case "-":
		return number(x.num - y.num)
	case "*":
		return number(x.num * y.num)
	case "/":
		if y.num == 0 {
			return Value{}
		}
		return number(x.num / y.num)
	default:
		if y.num == 0 {
			return Value{}
		}
		return number(math.Mod(x.num, y.num))
	}
}

type function func(args []Value) Value

type signature struct {
	min, max int
	fn       function
}

func (s signature) arity() string {
	switch {
	case s.min == s.max && s.min == 1:
		return "1 argument"
	case s.min == s.max:
		return fmt.Sprintf("%d arguments", s.min)
	case s.max > 100:
		return fmt.Sprintf("%d arguments or more", s.min)
	default:
		return fmt.Sprintf("%d to %d arguments", s.min, s.max)
	}
}

// functions are those of hub-service §4.6 and the spellings that shipped clients use.
var functions = map[string]signature{
	"ABS":     numeric(math.Abs),
	"EXP":     numeric(math.Exp),
	"SQUARE":  numeric(func(x float64) float64 { return x * x }),
	"CEILING": numeric(math.Ceil),
	"FLOOR":   numeric(math.Floor),
	"SQRT":    numeric(math.Sqrt),
	"SIGN": numeric(func(x float64) float64 {
		switch {
		case x > 0:
			return 1
		case x < 0:
			return -1
		}
		return 0
	}),
	"POWER": {2, 2, func(a []Value) Value {
		if a[0].Kind != Number || a[1].Kind != Number {
			return Value{}
		}
		return finite(math.Pow(a[0].num, a[1].num))
	}},

	"AS_NUMBER": {1, 1, func(a []Value) Value {
		if a[0].Kind == Number {
			return a[0]
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(a[0].str), 64)
		if a[0].Kind != String || err != nil {
			return Value{}
		}
		return finite(f)
	}},
	"IS_ARRAY":     kinds(Array),
	"IS_BOOL":      kinds(Bool),
	"IS_DEFINED":   {1, 1, func(a []Value) Value { return boolean(a[0].Kind != Undefined) }},
	"IS_NULL":      kinds(Null),
	"IS_NUMBER":    kinds(Number),
	"IS_OBJECT":    kinds(Object),
	"IS_PRIMITIVE": kinds(Null, Bool, Number, String),
	"IS_STRING":    kinds(String),

	"CONCAT": {2, 1000, func(a []Value) Value {
		var b strings.Builder
		for _, v := range a {
			if v.Kind != String {
				return Value{}
			}
			b.WriteString(v.str)
		}
		return text(b.String())
	}},
	"LENGTH": textual(func(s string) Value { return number(float64(len([]rune(s)))) }),
	"LOWER":  textual(func(s string) Value { return text(strings.ToLower(s)) }),
	"UPPER":  textual(func(s string) Value { return text(strings.ToUpper(s)) }),
	"SUBSTRING": {2, 3, func(a []Value) Value {
		if a[0].Kind != String || a[1].Kind != Number || len(a) == 3 && a[2].Kind != Number {
			return Value{}
		}
		r := []rune(a[0].str)
		start := clamp(a[1].num, len(r))
		end := len(r)
		if len(a) == 3 {
			end = start + clamp(a[2].num, len(r)-start)
		}
		return text(string(r[start:end]))
	}},
	"INDEX_OF": {2, 2, func(a []Value) Value {
		if a[0].Kind != String || a[1].Kind != String {
			return Value{}
		}
		i := strings.Index(a[0].str, a[1].str)
		if i > 0 {
			i = len([]rune(a[0].str[:i]))
		}
		return number(float64(i))
	}},
	"STARTS_WITH": search(strings.HasPrefix),
	"STARTSWITH":  search(strings.HasPrefix),
	"ENDS_WITH":   search(strings.HasSuffix),
	"ENDSWITH":    search(strings.HasSuffix),
	"CONTAINS":    search(strings.Contains),
	"ARRAY_CONTAINS": {2, 2, func(a []Value) Value {
		if a[0].Kind != Array || a[1].Kind == Undefined {
			return Value{}
		}
		return boolean(slices.ContainsFunc(a[0].Elements(), func(e Value) bool { return compare("=", e, a[1]).True() }))
	}},
}

// clamp makes a count of a number: 0 to most.
func clamp(f float64, most int) int { return int(min(max(f, 0), float64(most))) }

func finite(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	return number(f)
}

func numeric(f func(float64) float64) signature {
	return signature{1, 1, func(a []Value) Value {
		if a[0].Kind != Number {
			return Value{}
		}
		return finite(f(a[0].num))
	}}
}

func textual(f func(string) Value) signature {
	return signature{1, 1, func(a []Value) Value {
		if a[0].Kind != String {
			return Value{}
		}
		return f(a[0].str)
	}}
}

func search(f func(s, part string) bool) signature {
	return signature{2, 2, func(a []Value) Value {
		if a[0].Kind != String || a[1].Kind != String {
			return Value{}
		}
		return boolean(f(a[0].str, a[1].str))
	}}
}

func kinds(ks ...Kind) signature {
	return signature{1, 1, func(a []Value) Value {
		if a[0].Kind == Undefined {
			return Value{}
		}
		return boolean(slices.Contains(ks, a[0].Kind))
	}}
}
