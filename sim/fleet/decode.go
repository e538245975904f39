package fleet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/vauban-iot/vauban/internal/nearest"
)

// Load reads a fleet file. Its error is [Problems], or what kept the file from being read.
func Load(path string) (*File, error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no fleet file %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("the fleet file cannot be read: %w", err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1)) // one more is too many, and Parse says so
	if err != nil {
		return nil, fmt.Errorf("the fleet file cannot be read: %w", err)
	}
	return Parse(path, text)
}

// Parse reads the text of a fleet file; name stands in its complaints. Its error is [Problems].
func Parse(name string, text []byte) (*File, error) {
	if len(text) > maxFile {
		return nil, Problems{{File: name, Text: fmt.Sprintf("a fleet file has at most %d bytes", maxFile)}}
	}
	var doc map[string]any
	if err := toml.Unmarshal(text, &doc); err != nil {
		p := Problem{File: name, Text: strings.TrimPrefix(err.Error(), "toml: ")}
		if e, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, _ = e.Position()
		}
		return nil, Problems{p}
	}
	d := &decoder{file: name, lines: lines(text)}
	f := d.decode(doc)
	if len(d.problems) == 0 { // what does not fit together is judged when each value is good
		d.judge(f)
	}
	if len(d.problems) > 0 {
		return nil, d.problems.sorted()
	}
	return f, nil
}

// decoder reads the tables of a file and gathers what is wrong.
type decoder struct {
	file     string
	lines    map[string]int // of keys and tables, such as board[0].count and board[0]
	problems Problems
}

func (d *decoder) complain(path, key, format string, args ...any) {
	full := key
	if path != "" && key != "" {
		full = path + "." + key
	}
	line := d.lines[full]
	if line == 0 {
		line = d.lines[path]
	}
	d.problems = append(d.problems, Problem{d.file, line, key, fmt.Sprintf(format, args...)})
}

// lines finds the line of every key and table.
func lines(text []byte) map[string]int {
	starts := []int{0}
	for i, b := range text {
		if b == '\n' {
			starts = append(starts, i+1)
		}
	}
	found := map[string]int{}
	count := map[string]int{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			if line == 0 {
				line, _ = slices.BinarySearch(starts, int(it.Node().Raw.Offset)+1)
			}
			parts = append(parts, string(it.Node().Data))
		}
		key := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.ArrayTable:
			table = fmt.Sprintf("%s[%d]", key, count[key])
			count[key]++
			found[table] = line
			if _, ok := found[key]; !ok {
				found[key] = line
			}
		case unstable.Table:
			table = key
			found[key] = line
		case unstable.KeyValue:
			if table != "" {
				key = table + "." + key
			}
			found[key] = line
		}
	}
	return found
}

// table is one of a file while it is read.
type table struct {
	d      *decoder
	path   string
	values map[string]any
	known  []string
}

func (t *table) take(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

func (t *table) complain(key, format string, args ...any) {
	t.d.complain(t.path, key, format, args...)
}

// end complains of keys that nobody asked for.
func (t *table) end() {
	for key := range t.values { // in any order: problems are sorted by their lines
		if !slices.Contains(t.known, key) {
			t.complain(key, "unknown key%s", nearest.Hint(key, t.known))
		}
	}
}

func (t *table) text(key string, p *string) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	s, ok := v.(string)
	if !ok {
		t.complain(key, "%s is no text; write it in quotes", show(v))
		return
	}
	*p = s
}

// choice is a text out of some.
func (t *table) choice(key string, p *string, words ...string) {
	was := *p
	if t.text(key, p); !slices.Contains(words, *p) {
		t.complain(key, "unknown word %q%s (want %s)", *p, nearest.Hint(*p, words), quoted(words))
		*p = was
	}
}

func (t *table) truth(key string, p *bool) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	b, ok := v.(bool)
	if !ok {
		t.complain(key, "%s is neither true nor false", show(v))
		return
	}
	*p = b
}

// number is a whole one.
func (t *table) number(key string, p *int, least, most int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	n, ok := v.(int64)
	if !ok {
		t.complain(key, "%s is no whole number", show(v))
		return
	}
	if n < int64(least) || n > int64(most) {
		t.complain(key, "%d is outside %d to %d", n, least, most)
		return
	}
	*p = int(n)
}

// real is any number.
func (t *table) real(key string, p *float64, least, most float64) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	var x float64
	switch v := v.(type) {
	case int64:
		x = float64(v)
	case float64:
		x = v
	default:
		t.complain(key, "%s is no number", show(v))
		return
	}
	if math.IsNaN(x) || x < least || x > most {
		t.complain(key, "%v is outside %v to %v", x, least, most)
		return
	}
	*p = x
}

// share is a part of a whole.
func (t *table) share(key string, p *float64) {
	v := *p
	n := len(t.d.problems)
	t.real(key, &v, math.Inf(-1), math.Inf(1))
	switch {
	case len(t.d.problems) > n:
	case v < 0 || v > 1:
		t.complain(key, "%v is no share; want 0 to 1, such as 0.05 for every twentieth", v)
	default:
		*p = v
	}
}

func (t *table) duration(key string, p *time.Duration, least, most time.Duration) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	s, isText := v.(string)
	d, err := time.ParseDuration(s)
	switch {
	case !isText || err != nil:
		t.complain(key, "%s is no duration; want a text such as \"30s\" or \"24h\"", show(v))
	case d < least || d > most:
		t.complain(key, "%v is outside %v to %v", d, least, most)
	default:
		*p = d
	}
}

func (t *table) moment(key string, p *time.Time) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	switch v := v.(type) {
	case time.Time:
		*p = v.UTC()
		return
	case string:
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			*p = at.UTC()
			return
		}
	}
	t.complain(key, "%s is no moment; want one such as 2026-03-01T06:00:00Z", show(v))
}

func (t *table) texts(key string, p *[]string, most int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	list, ok := v.([]any)
	if !ok {
		t.complain(key, "%s is no list; write [\"one\", \"two\"]", show(v))
		return
	}
	if len(list) > most {
		t.complain(key, "%d of them; at most %d", len(list), most)
		return
	}
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			t.complain(key, "%s is no text; write it in quotes", show(v))
			return
		}
		if slices.Contains(*p, s) {
			t.complain(key, "%q stands there twice", s)
			return
		}
		*p = append(*p, s)
	}
}

// show is a value of the file, shortened.
func show(v any) string {
	s := fmt.Sprint(v)
	if t, ok := v.(string); ok {
		s = fmt.Sprintf("%q", t)
	}
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "..."
	}
	return s
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, ", ")
}
