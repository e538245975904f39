package sphere

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/sphere"
)

// item is one of a list of ARM.
type item struct {
	body  any
	field func(name string) any // that filters know
}

// place is where a list goes on. Tokens carry it.
type place struct {
	After string `json:"a,omitempty"` // the domain's token
	Skip  int    `json:"s,omitempty"` // to be left out still
	Left  *int   `json:"l,omitempty"` // of $top; nil: no bound
	Name  string `json:"n,omitempty"` // of the device group that a body asked for
}

const (
	maxSkip = 10_000
	// maxScans bounds how many pages of the domain one answer looks through for what a filter selects. An answer may be short, or
	// empty, and still have a nextLink.
	maxScans  = 20
	skipToken = "$skipToken"
)

// option returns a query option of OData, whose names compare without case (ARM's own links spell $skipToken in several ways).
func (q *request) option(name string) string {
	if v := q.query.Get(name); v != "" {
		return v
	}
	for k, v := range q.query {
		if sphere.Fold(k) == sphere.Fold(name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func (q *request) count(name string, least, most int) (n int, given bool, err error) {
	s := q.option(name)
	if s == "" {
		return 0, false, nil
	}
	if n, err = strconv.Atoi(s); err != nil || n < least || n > most {
		return 0, false, fault.New(fault.Invalid, "%s is a number from %d to %d", name, least, most)
	}
	return n, true, nil
}

// armList answers with a part of a list. name is what the body of a POST asked for: it stands in the links that follow.
func armList[T any](q *request, name string, fields []string, get func(name string, p sphere.Page) (sphere.List[T], error), view func(T) (item, error)) error {
	raw := q.option("$filter")
	f, err := parseFilter(raw, fields)
	if err != nil {
		return err
	}
	size, given, err := q.count("$maxpagesize", 1, sphere.MaxPage)
	if err != nil {
		return err
	}
	if !given {
		size = sphere.DefaultPage
	}
	at, err := q.place(name, f)
	if err != nil {
		return err
	}
	if at.Left != nil {
		size = min(size, *at.Left)
	}

	values, more := []any{}, size > 0
	for scans := 0; more && scans < maxScans && len(values) < size; scans++ {
		// Never more than there is place for: the domain's tokens stand between its pages only.
		limit := size - len(values)
		if at.Skip > 0 {
			limit = min(at.Skip, sphere.MaxPage)
		}
		l, err := get(at.Name, sphere.Page{Token: at.After, Limit: limit})
		if err != nil {
			return err
		}
		for _, v := range l.Items {
			i, err := view(v)
			if err != nil {
				return err
			}
			switch {
			case !f.passes(i.field):
			case at.Skip > 0:
				at.Skip--
			default:
				values = append(values, i.body)
			}
		}
		at.After = l.NextToken
		more = at.After != ""
	}
	if at.Left != nil {
		left := *at.Left - len(values)
		at.Left, more = &left, more && left > 0
	}
	out := struct {
		Value    []any  `json:"value"`
		NextLink string `json:"nextLink,omitempty"`
	}{Value: values}
	if more {
		if out.NextLink, err = q.next(at, f); err != nil {
			return err
		}
	}
	return q.reply(http.StatusOK, "", out)
}

func (q *request) listScope(f filter) string {
	return scopeOf(q.tenant.ID, sphere.Fold(q.caller.Subject), q.rt.path, sphere.Fold(q.args["product"]), sphere.Fold(q.args["deviceGroup"]), f.String())
}

// place reads where the list begins: where a link says, or where the options do.
func (q *request) place(name string, f filter) (p place, err error) {
	if t := q.option(skipToken); t != "" {
		b, err := q.h.open(pageToken, q.listScope(f), t)
		if err != nil {
			return p, err
		}
		if err := json.Unmarshal(b, &p); err != nil {
			return p, fault.Wrap(fault.Invalid, err, "the continuation token is not one that this list gave")
		}
		return p, nil
	}
	p.Name = name
	if p.Skip, _, err = q.count("$skip", 0, maxSkip); err != nil {
		return p, err
	}
	top, given, err := q.count("$top", 0, 1<<30)
	if given {
		p.Left = &top
	}
	return p, err
}

// next is the link to what follows. Its host is the one that the client came to.
func (q *request) next(p place, f filter) (string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	v := url.Values{"api-version": {armVersion}, skipToken: {q.h.seal(pageToken, q.listScope(f), b)}}
	for _, name := range []string{"$filter", "$maxpagesize"} {
		if s := q.option(name); s != "" {
			v.Set(name, s)
		}
	}
	return q.address(q.URL.EscapedPath()) + "?" + v.Encode(), nil
}

// address is a path of this server as the client calls it.
func (q *request) address(path string) string { return "https://" + q.Host + path }

// sliced is a get of armList over a list that has no pages.
func sliced[T any](list func() ([]T, error)) func(string, sphere.Page) (sphere.List[T], error) {
	return func(_ string, p sphere.Page) (sphere.List[T], error) {
		all, err := list()
		if err != nil {
			return sphere.List[T]{}, err
		}
		from, err := strconv.Atoi(cmp.Or(p.Token, "0"))
		if err != nil || from < 0 {
			return sphere.List[T]{}, fault.New(fault.Invalid, "the continuation token is not one that this list gave")
		}
		from = min(from, len(all)) // it may be shorter now
		to := min(from+p.Limit, len(all))
		l := sphere.List[T]{Items: slices.Clone(all[from:to])}
		if to < len(all) {
			l.NextToken = strconv.Itoa(to)
		}
		return l, nil
	}
}
