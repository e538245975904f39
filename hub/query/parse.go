package query

import (
	"slices"
	"strings"
)

// maxDepth bounds how deep expressions nest.
const maxDepth = 64

// Parse reads a SELECT. Its error is fault.Invalid and says where the text is wrong.
func Parse(text string) (*Query, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	q, err := p.query()
	if err != nil {
		return nil, err
	}
	return q, p.end()
}

// ParseCondition reads a condition: nothing, * for all, an expression, or FROM source WHERE expression
// (hub-service §4.5). Its error is fault.Invalid.
func ParseCondition(text string) (*Condition, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	c := &Condition{From: Devices}
	if p.peek().kind == tokEnd {
		c.None = true
		return c, nil
	}
	if p.op("*") {
		return c, p.end()
	}
	if p.word("FROM") {
		if c.From, err = p.source(); err != nil {
			return nil, err
		}
		if p.peek().kind == tokEnd {
			return c, nil
		}
		if !p.word("WHERE") {
			return nil, p.unexpected("WHERE")
		}
	}
	if c.Where, err = p.expr(0); err != nil {
		return nil, err
	}
	p.unqualify(c.Where, c.From)
	return c, p.end()
}

type parser struct {
	text  string
	toks  []token
	at    int
	depth int
}

func newParser(text string) (*parser, error) {
	toks, err := lex(text)
	return &parser{text: text, toks: toks}, err
}

func (p *parser) peek() token { return p.toks[p.at] }

func (p *parser) next() token {
	t := p.toks[p.at]
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

// word consumes a keyword, in any case.
func (p *parser) word(w string) bool {
	if t := p.peek(); t.kind == tokName && strings.EqualFold(t.text, w) {
		p.at++
		return true
	}
	return false
}

// op consumes an operator.
func (p *parser) op(o string) bool {
	if t := p.peek(); t.kind == tokOp && t.text == o {
		p.at++
		return true
	}
	return false
}

func (p *parser) unexpected(want string) error {
	return syntaxError(p.text, p.peek().at, "%s stands where %s should", p.peek(), want)
}

func (p *parser) end() error {
	if p.peek().kind != tokEnd {
		return p.unexpected("the end")
	}
	return nil
}

var aggregates = []string{"COUNT", "AVG", "SUM", "MIN", "MAX"}

// reserved words cannot be names without [[ ]].
func reserved(s string) bool {
	return slices.ContainsFunc([]string{
		"SELECT", "TOP", "FROM", "WHERE", "GROUP", "BY", "AS", "AND", "OR", "NOT", "IN", "NIN", "TRUE", "FALSE", "NULL", "UNDEFINED",
	}, func(w string) bool { return strings.EqualFold(w, s) })
}

func (p *parser) query() (*Query, error) {
	if !p.word("SELECT") {
		return nil, p.unexpected("SELECT")
	}
	q := &Query{}
	if p.word("TOP") {
		t := p.next()
		if t.kind != tokNumber || t.num < 1 || t.num != float64(int(t.num)) || t.num > 1e9 {
			return nil, syntaxError(p.text, t.at, "TOP needs a number of rows from 1")
		}
		q.Top = int(t.num)
	}
	if !p.op("*") {
		for {
			c, err := p.column()
			if err != nil {
				return nil, err
			}
			q.Columns = append(q.Columns, c)
			if !p.op(",") {
				break
			}
		}
	}
	if !p.word("FROM") {
		return nil, p.unexpected("FROM")
	}
	var err error
	if q.From, err = p.source(); err != nil {
		return nil, err
	}
	if p.word("WHERE") {
		if q.Where, err = p.expr(0); err != nil {
			return nil, err
		}
		p.unqualify(q.Where, q.From)
	}
	if p.word("GROUP") {
		if !p.word("BY") {
			return nil, p.unexpected("BY")
		}
		for {
			path, err := p.path()
			if err != nil {
				return nil, err
			}
			q.GroupBy = append(q.GroupBy, unqualified(path, q.From))
			if !p.op(",") {
				break
			}
		}
	}
	for i := range q.Columns {
		q.Columns[i].Path = unqualified(q.Columns[i].Path, q.From)
	}
	return q, p.check(q)
}

// check judges what the grammar alone cannot.
func (p *parser) check(q *Query) error {
	if q.From == Jobs && q.Raw() {
		return syntaxError(p.text, 0, "from devices.jobs only SELECT * is possible")
	}
	if !q.Aggregates() {
		return nil
	}
	if q.Columns == nil {
		return syntaxError(p.text, 0, "GROUP BY needs a select list with aggregates")
	}
	for _, c := range q.Columns {
		if c.Aggregate == "" && !slices.ContainsFunc(q.GroupBy, func(g Path) bool { return slices.Equal(g, c.Path) }) {
			return syntaxError(p.text, 0, "%s is neither an aggregate nor in GROUP BY", c.Path)
		}
	}
	return nil
}

func (p *parser) column() (Column, error) {
	var c Column
	t := p.peek()
	if t.kind == tokName && p.toks[p.at+1].kind == tokOp && p.toks[p.at+1].text == "(" {
		c.Aggregate = strings.ToUpper(t.text)
		if !slices.Contains(aggregates, c.Aggregate) {
			return c, syntaxError(p.text, t.at, "%s is no aggregate; there are %s", t, strings.Join(aggregates, ", "))
		}
		p.at += 2
		if c.Aggregate != "COUNT" {
			path, err := p.path()
			if err != nil {
				return c, err
			}
			c.Path = path
		} else if !p.op("*") && p.peek().kind == tokNumber { // COUNT(*) and COUNT(1) say the same as COUNT()
			p.at++
		}
		if !p.op(")") {
			return c, p.unexpected(`")"`)
		}
	} else {
		path, err := p.path()
		if err != nil {
			return c, err
		}
		c.Path = path
	}
	if p.word("AS") {
		t := p.next()
		if t.kind != tokName && t.kind != tokQuoted {
			p.at--
			return c, p.unexpected("a name")
		}
		c.Alias = t.text
	}
	return c, nil
}

func (p *parser) source() (Source, error) {
	t := p.next()
	if t.kind != tokName || !strings.EqualFold(t.text, "devices") {
		return "", syntaxError(p.text, t.at, "%s stands where devices, devices.modules or devices.jobs should", t)
	}
	if !p.op(".") {
		return Devices, nil
	}
	t = p.next()
	switch {
	case t.kind == tokName && strings.EqualFold(t.text, "modules"):
		return Modules, nil
	case t.kind == tokName && strings.EqualFold(t.text, "jobs"):
		return Jobs, nil
	}
	return "", syntaxError(p.text, t.at, "%s stands where devices, devices.modules or devices.jobs should", t)
}

func (p *parser) path() (Path, error) {
	var path Path
	for {
		t := p.next()
		switch {
		case t.kind == tokQuoted, t.kind == tokName && (len(path) > 0 || !reserved(t.text)):
			path = append(path, Step{Name: t.text})
		default:
			return nil, syntaxError(p.text, t.at, "%s stands where a property should", t)
		}
		for p.peek().kind == tokOp && p.peek().text == "[" {
			p.at++
			n := p.next()
			if n.kind != tokNumber || n.num != float64(int(n.num)) || n.num > 1e6 || !p.op("]") {
				return nil, syntaxError(p.text, n.at, "an element needs its number in brackets")
			}
			path = append(path, Step{Index: int(n.num)})
		}
		if p.peek().kind == tokQuoted { // configurations.[[id]] and configurations[[id]]
			continue
		}
		if !p.op(".") {
			return path, nil
		}
	}
}

// unqualified drops the source's name from the front of a path.
func unqualified(path Path, from Source) Path {
	words := strings.Split(string(from), ".")
	if len(path) <= len(words) {
		if len(path) < 2 || from == Devices {
			return path
		}
	}
	for n := len(words); n > 0; n-- {
		if len(path) > n && slices.EqualFunc(path[:n], words[:n], func(s Step, w string) bool { return strings.EqualFold(s.Name, w) }) {
			return path[n:]
		}
	}
	return path
}

func (p *parser) unqualify(x Expr, from Source) {
	switch x := x.(type) {
	case *Get:
		x.Path = unqualified(x.Path, from)
	case *Unary:
		p.unqualify(x.X, from)
	case *Binary:
		p.unqualify(x.X, from)
		p.unqualify(x.Y, from)
	case *Call:
		for _, a := range x.Args {
			p.unqualify(a, from)
		}
	case *List:
		for _, a := range x.Items {
			p.unqualify(a, from)
		}
	}
}

// Binding powers of the operators.
var powers = map[string]int{
	"OR": 1, "AND": 2, "=": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4, "IN": 4, "NIN": 4, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6,
}

const notPower = 3 // NOT binds looser than comparisons, tighter than AND

// operator is the binary operator at the parser's place, if there is one.
func (p *parser) operator() (string, int) {
	t := p.peek()
	op := t.text
	if t.kind == tokName {
		op = strings.ToUpper(op)
		if op == "NOT" && p.toks[p.at+1].kind == tokName && strings.EqualFold(p.toks[p.at+1].text, "IN") {
			return "NOT IN", powers["NIN"]
		}
	} else if t.kind != tokOp {
		return "", 0
	}
	return op, powers[op]
}

func (p *parser) expr(floor int) (Expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, syntaxError(p.text, p.peek().at, "the expression nests deeper than %d", maxDepth)
	}
	defer func() { p.depth-- }()
	x, err := p.prefix()
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		op, power := p.operator()
		if power == 0 || power <= floor {
			return x, nil
		}
		if n > MaxText {
			return nil, p.unexpected("an end")
		}
		p.at++
		if op == "NOT IN" {
			p.at++
			op = "NIN"
		}
		y, err := p.expr(power)
		if err != nil {
			return nil, err
		}
		if _, list := y.(*List); !list && (op == "IN" || op == "NIN") {
			return nil, syntaxError(p.text, p.peek().at, "%s needs an array, as in %s ['a', 'b']", op, op)
		}
		x = &Binary{Op: op, X: x, Y: y}
	}
}

func (p *parser) prefix() (Expr, error) {
	t := p.peek()
	switch t.kind {
	case tokNumber:
		p.at++
		return &Literal{number(t.num)}, nil
	case tokString:
		p.at++
		return &Literal{text(t.text)}, nil
	case tokOp:
		switch t.text {
		case "(":
			p.at++
			x, err := p.expr(0)
			if err != nil {
				return nil, err
			}
			if !p.op(")") {
				return nil, p.unexpected(`")"`)
			}
			return x, nil
		case "[":
			p.at++
			items, err := p.items("]")
			return &List{items}, err
		case "-", "+":
			p.at++
			x, err := p.expr(powers["*"])
			if err != nil || t.text == "+" {
				return x, err
			}
			if l, ok := x.(*Literal); ok && l.Value.Kind == Number {
				return &Literal{number(-l.Value.num)}, nil
			}
			return &Unary{Op: "-", X: x}, nil
		}
	case tokQuoted:
		path, err := p.path()
		return &Get{path}, err
	case tokName:
		if p.toks[p.at+1].kind == tokOp && p.toks[p.at+1].text == "(" && !strings.EqualFold(t.text, "NOT") {
			return p.call()
		}
		switch strings.ToUpper(t.text) {
		case "NOT":
			p.at++
			x, err := p.expr(notPower)
			return &Unary{Op: "NOT", X: x}, err
		case "TRUE":
			p.at++
			return &Literal{boolean(true)}, nil
		case "FALSE":
			p.at++
			return &Literal{boolean(false)}, nil
		case "NULL":
			p.at++
			return &Literal{Value{Kind: Null}}, nil
		case "UNDEFINED":
			p.at++
			return &Literal{Value{}}, nil
		}
		path, err := p.path()
		return &Get{path}, err
	}
	return nil, p.unexpected("a value")
}

func (p *parser) items(closing string) ([]Expr, error) {
	var items []Expr
	if p.op(closing) {
		return nil, nil
	}
	for {
		x, err := p.expr(0)
		if err != nil {
			return nil, err
		}
		items = append(items, x)
		if p.op(closing) {
			return items, nil
		}
		if !p.op(",") {
			return nil, p.unexpected(`"," or "` + closing + `"`)
		}
	}
}

func (p *parser) call() (Expr, error) {
	t := p.next()
	p.at++ // (
	name := strings.ToUpper(t.text)
	f, ok := functions[name]
	if !ok {
		return nil, syntaxError(p.text, t.at, "there is no function %s", t)
	}
	args, err := p.items(")")
	if err != nil {
		return nil, err
	}
	if len(args) < f.min || len(args) > f.max {
		return nil, syntaxError(p.text, t.at, "%s takes %s, not %d", name, f.arity(), len(args))
	}
	return &Call{Name: name, Args: args, fn: f.fn}, nil
}

// ParseMessageCondition reads the condition of a route: an expression over a message. {name} quotes a name, as
// [[name]] does (hub-service §7.2). Its error is fault.Invalid.
func ParseMessageCondition(text string) (*Condition, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	c := &Condition{}
	if c.Where, err = p.expr(0); err != nil {
		return nil, err
	}
	return c, p.end()
}

// ParsePath reads one path. Its error is fault.Invalid.
func ParsePath(text string) (Path, error) {
	p, err := newParser(text)
	if err != nil {
		return nil, err
	}
	path, err := p.path()
	if err != nil {
		return nil, err
	}
	return path, p.end()
}
