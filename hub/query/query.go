// Package query is the language in which programs ask for twins and say which messages go
// where: SELECT over device and module twins, and conditions over twins and messages
// (hub-service §4). It parses and evaluates; what is asked comes as a [Document], from wherever it is kept.
//
//	q, err := query.Parse("SELECT deviceId FROM devices WHERE tags.site = 'lyon'")
//	for each document: if q.Matches(doc) { row := q.Row(doc) }
//
// Logic has three values: what is missing, and what cannot be compared, is undefined, and only
// true selects (hub-service §4.2). A parsed query is safe for concurrent use.
package query

import (
	"fmt"
	"strings"
)

// MaxText bounds a query or condition in bytes (hub-service §4.1).
const MaxText = 8192

// Source is what a query reads.
type Source string

// The sources. A condition without FROM reads Devices.
const (
	Devices Source = "devices"
	Modules Source = "devices.modules"
	Jobs    Source = "devices.jobs"
)

// Query is a parsed SELECT.
type Query struct {
	Top     int      // 0: no limit
	Columns []Column // nil: *
	From    Source
	Where   Expr // nil: all
	GroupBy []Path
}

// Column is one element of a select list.
type Column struct {
	Aggregate string // COUNT, AVG, SUM, MIN, MAX, or empty
	Path      Path   // nil for COUNT
	Alias     string // empty: see Name
}

// Name is the column's member name in a row: its alias, its path's last name, or the aggregate in lower case.
func (c Column) Name() string {
	switch {
	case c.Alias != "":
		return c.Alias
	case c.Aggregate != "":
		return strings.ToLower(c.Aggregate)
	case len(c.Path) == 0:
		return ""
	default:
		return c.Path[len(c.Path)-1].Name
	}
}

// Condition is a WHERE without its SELECT, as jobs, configurations and routes have it.
type Condition struct {
	From  Source
	Where Expr // nil: all
	None  bool // the empty text: nothing
}

// Step is one part of a path: a member, or an element of an array.
type Step struct {
	Name  string
	Index int // of an element when Name is empty
}

// Path leads into a document.
type Path []Step

func (p Path) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.Name == "":
			fmt.Fprintf(&b, "[%d]", s.Index)
			continue
		case i > 0:
			b.WriteByte('.')
		}
		if isName(s.Name) {
			b.WriteString(s.Name)
		} else {
			b.WriteString("[[" + s.Name + "]]")
		}
	}
	return b.String()
}

// Expr is a node of an expression: [*Literal], [*Get], [*Unary], [*Binary], [*Call], [*List].
type Expr interface {
	fmt.Stringer
	eval(Document) Value
}

// Literal is a constant.
type Literal struct{ Value Value }

// Get reads a path.
type Get struct{ Path Path }

// Unary is NOT or a sign.
type Unary struct {
	Op string // NOT, -
	X  Expr
}

// Binary is an operator between two expressions.
type Binary struct {
	Op   string // AND OR = != < <= > >= IN NIN + - * / %
	X, Y Expr
}

// Call is a function of [Functions].
type Call struct {
	Name string // upper case
	Args []Expr
	fn   function
}

// List is an array of expressions.
type List struct{ Items []Expr }

func (l *Literal) String() string { return l.Value.String() }
func (g *Get) String() string     { return g.Path.String() }
func (u *Unary) String() string {
	if u.Op == "NOT" {
		return "NOT (" + u.X.String() + ")"
	}
	return u.Op + "(" + u.X.String() + ")"
}
func (b *Binary) String() string { return "(" + b.X.String() + " " + b.Op + " " + b.Y.String() + ")" }
func (c *Call) String() string   { return c.Name + "(" + join(c.Args) + ")" }
func (l *List) String() string   { return "[" + join(l.Items) + "]" }

func join(xs []Expr) string {
	texts := make([]string, len(xs))
	for i, x := range xs {
		texts[i] = x.String()
	}
	return strings.Join(texts, ", ")
}

// String is the query in one canonical form, which parses to the same query.
func (q *Query) String() string {
	var b strings.Builder
	b.WriteString("SELECT ")
	if q.Top > 0 {
		fmt.Fprintf(&b, "TOP %d ", q.Top)
	}
	if q.Columns == nil {
		b.WriteByte('*')
	}
	for i, c := range q.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		if c.Aggregate != "" {
			b.WriteString(c.Aggregate + "(" + c.Path.String() + ")")
		} else {
			b.WriteString(c.Path.String())
		}
		if c.Alias != "" {
			b.WriteString(" AS " + Path{{Name: c.Alias}}.String())
		}
	}
	b.WriteString(" FROM " + string(q.From))
	if q.Where != nil {
		b.WriteString(" WHERE " + q.Where.String())
	}
	for i, p := range q.GroupBy {
		if i == 0 {
			b.WriteString(" GROUP BY ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Raw reports whether rows are projections rather than whole documents.
func (q *Query) Raw() bool { return q.Columns != nil }

// Aggregates reports whether rows sum up many documents.
func (q *Query) Aggregates() bool {
	for _, c := range q.Columns {
		if c.Aggregate != "" {
			return true
		}
	}
	return len(q.GroupBy) > 0
}

// Conjuncts splits an expression at its outermost ANDs: a document matches only when all of them are true.
func Conjuncts(x Expr) []Expr {
	if b, ok := x.(*Binary); ok && b.Op == "AND" {
		return append(Conjuncts(b.X), Conjuncts(b.Y)...)
	}
	if x == nil {
		return nil
	}
	return []Expr{x}
}

// mirrored operators, for a constant on the left.
var mirrored = map[string]string{"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

// Comparison takes apart a comparison of a path with constants: =, <, <=, > or >= with one, IN with several. ok is false
// for anything else. Stores use it to look at fewer documents.
func Comparison(x Expr) (path Path, op string, values []Value, ok bool) {
	b, isBinary := x.(*Binary)
	if !isBinary {
		return nil, "", nil, false
	}
	if l, isList := b.Y.(*List); isList && b.Op == "IN" {
		g, isGet := b.X.(*Get)
		if !isGet {
			return nil, "", nil, false
		}
		for _, item := range l.Items {
			c, isConst := item.(*Literal)
			if !isConst {
				return nil, "", nil, false
			}
			values = append(values, c.Value)
		}
		return g.Path, "IN", values, true
	}
	if mirrored[b.Op] == "" {
		return nil, "", nil, false
	}
	left, right, op := b.X, b.Y, b.Op
	if _, isConst := left.(*Literal); isConst {
		left, right, op = right, left, mirrored[op]
	}
	g, isGet := left.(*Get)
	c, isConst := right.(*Literal)
	if !isGet || !isConst {
		return nil, "", nil, false
	}
	return g.Path, op, []Value{c.Value}, true
}

// Paths calls each for every path an expression reads.
func Paths(x Expr, each func(Path)) {
	switch x := x.(type) {
	case *Get:
		each(x.Path)
	case *Unary:
		Paths(x.X, each)
	case *Binary:
		Paths(x.X, each)
		Paths(x.Y, each)
	case *Call:
		for _, a := range x.Args {
			Paths(a, each)
		}
	case *List:
		for _, a := range x.Items {
			Paths(a, each)
		}
	}
}
