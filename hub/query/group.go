package query

import (
	"github.com/vauban-iot/vauban/fault"
)

// maxGroups bounds what one query may hold in memory.
const maxGroups = 100_000

// Groups sums up documents for a query with aggregates. It is not safe for concurrent use.
type Groups struct {
	q      *Query
	rename func(Path) string
	index  map[string]int
	groups []group
}

type group struct {
	keys []Value // of GROUP BY
	sums []sum   // by column
}

type sum struct {
	count    int
	total    float64
	least    Value
	greatest Value
}

// NewGroups starts a summary. rename is as for [Query.Row].
func NewGroups(q *Query, rename func(Path) string) *Groups {
	g := &Groups{q: q, rename: rename, index: map[string]int{}}
	if len(q.GroupBy) == 0 {
		g.at("", nil) // COUNT() of nothing is 0, in one row
	}
	return g
}

func (g *Groups) at(key string, keys []Value) int {
	i, ok := g.index[key]
	if !ok {
		i = len(g.groups)
		g.index[key] = i
		g.groups = append(g.groups, group{keys: keys, sums: make([]sum, len(g.q.Columns))})
	}
	return i
}

// Add counts a document, which must match. fault.TooLarge when there are too many groups.
func (g *Groups) Add(d Document) error {
	var key []byte
	keys := make([]Value, len(g.q.GroupBy))
	for i, p := range g.q.GroupBy {
		keys[i] = d.Find(p)
		if keys[i].Kind == Number {
			keys[i].str = "" // 1 and 1.0 are one group
		}
		key = append(key, byte(keys[i].Kind))
		key = append(keys[i].AppendJSON(key), 0)
	}
	i := g.at(string(key), keys)
	if len(g.groups) > maxGroups {
		return fault.New(fault.TooLarge, "the query makes more than %d groups", maxGroups)
	}
	for c, col := range g.q.Columns {
		s := &g.groups[i].sums[c]
		if col.Aggregate == "COUNT" {
			s.count++
			continue
		}
		if col.Aggregate == "" {
			continue
		}
		v := d.Find(col.Path)
		switch v.Kind {
		case Number:
			s.total += v.num
			s.count++
		case String:
			if col.Aggregate == "AVG" || col.Aggregate == "SUM" {
				continue
			}
		default:
			continue
		}
		if s.least.Kind == Undefined || compare("<", v, s.least).True() {
			s.least = v
		}
		if s.greatest.Kind == Undefined || compare(">", v, s.greatest).True() {
			s.greatest = v
		}
	}
	return nil
}

// Rows returns a row for each group, in the order in which they were met.
func (g *Groups) Rows() [][]byte {
	rows := make([][]byte, 0, len(g.groups))
	for _, gr := range g.groups {
		b := []byte{'{'}
		for c, col := range g.q.Columns {
			if v := gr.value(g.q, c); v.Kind != Undefined {
				b = appendMember(b, columnName(col, g.rename), v)
			}
		}
		rows = append(rows, append(b, '}'))
	}
	return rows
}

func (gr *group) value(q *Query, c int) Value {
	s := gr.sums[c]
	switch q.Columns[c].Aggregate {
	case "COUNT":
		return number(float64(s.count))
	case "SUM":
		return number(s.total)
	case "AVG":
		if s.count == 0 {
			return Value{}
		}
		return number(s.total / float64(s.count))
	case "MIN":
		return s.least
	case "MAX":
		return s.greatest
	}
	for i, p := range q.GroupBy {
		if p.String() == q.Columns[c].Path.String() {
			return gr.keys[i]
		}
	}
	return Value{}
}
