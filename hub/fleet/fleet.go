// Package fleet is what is asked of many devices at once: queries over their twins and over the rows
// of jobs (hub-service §4).
package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/fleet/job"
	"github.com/vauban-iot/vauban/hub/query"
	"github.com/vauban-iot/vauban/hub/registry"
	"github.com/vauban-iot/vauban/hub/twin"
	"github.com/vauban-iot/vauban/iot"
)

// Row is a device or module with its twin.
type Row struct {
	Identity registry.Identity // without keys
	Twin     twin.Twin
}

// Scan says which rows a store visits.
type Scan struct {
	Modules bool
	After   iot.ID // visit what comes behind it, in order of ids
	// Where lets the store leave out rows that cannot meet it; it may also ignore it. nil: all.
	Where query.Expr
	// Desired, Reported, Metadata (of both) and Identity say which parts the reader looks at beside ids,
	// tags and configurations; others may be left empty.
	Desired, Reported, Metadata, Identity bool
}

// ErrStop ends a scan without an error.
var ErrStop = errors.New("fleet: enough rows")

// Store visits twins in order of their ids. Everything a visit sees was written before the scan began or
// during it; rows are not locked.
type Store interface {
	// Scan calls visit for each row until it returns an error, which Scan returns, or ErrStop, which ends it with nil.
	Scan(ctx context.Context, s Scan, visit func(*Row) error) error
	job.Rows
}

// Fleet answers queries. It is safe for concurrent use.
type Fleet struct{ store Store }

// New returns a fleet on a store.
func New(store Store) *Fleet { return &Fleet{store: store} }

// Item types of a page, in the exact case that clients parse (hub-service §4.1).
const (
	TwinItems   = "Twin"
	JobItems    = "DeviceJob"
	RawItems    = "Raw"
	DefaultPage = 100
	MaxPage     = 1000
)

// Page is a part of a query's answer.
type Page struct {
	Items    [][]byte // JSON documents
	ItemType string
	Next     string // continuation token; empty on the last page
}

// maxPageBytes ends a page before its size is reached: twins may have 100 KB.
const maxPageBytes = 8 << 20

// maxTime bounds a query. One that must read everything takes about a second for a million twins.
const maxTime = 20 * time.Second

// Query answers a query, size rows from where the token of the page before says. Failures are
// fault.Invalid for the text, the size and a token that is not this query's, and fault.Timeout.
func (f *Fleet) Query(ctx context.Context, text string, size int, token string) (Page, error) {
	if size == 0 {
		size = DefaultPage
	}
	if size < 1 || size > MaxPage {
		return Page{}, fault.New(fault.Invalid, "a page has 1 to %d items", MaxPage)
	}
	q, err := query.Parse(text)
	if err != nil {
		return Page{}, err
	}
	at, err := readToken(token, q)
	if err != nil {
		return Page{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errTooLong)
	defer cancel()
	var page Page
	switch {
	case q.From == query.Jobs:
		page, err = f.jobs(ctx, q, size, at)
	case q.Aggregates():
		page, err = f.summary(ctx, q, size, at)
	default:
		page, err = f.rows(ctx, q, size, at)
	}
	if err != nil && errors.Is(context.Cause(ctx), errTooLong) {
		return Page{}, errTooLong
	}
	return page, err
}

var errTooLong = fault.New(fault.Timeout, "the query took longer than %v; narrow it by a tag or a device id", maxTime)

// scan is what a store must visit for q.
func scan(q *query.Query) Scan {
	s := Scan{Modules: q.From == query.Modules, Where: q.Where}
	if !q.Raw() {
		s.Desired, s.Reported, s.Metadata, s.Identity = true, true, true, true
		return s
	}
	look := func(p query.Path) { s.reads(p) }
	query.Paths(q.Where, look)
	for _, c := range q.Columns {
		look(c.Path)
	}
	for _, p := range q.GroupBy {
		look(p)
	}
	return s
}

func (s *Scan) reads(p query.Path) {
	if len(p) == 0 {
		return
	}
	switch builtin(p[0].Name) {
	case "deviceId", "moduleId", "tags", "configurations":
	case "properties":
		section := ""
		if len(p) > 1 {
			section = query.Pick(p[1].Name, sections)
		}
		s.Desired = s.Desired || section != "reported"
		s.Reported = s.Reported || section != "desired"
		s.Metadata = s.Metadata || len(p) < 3 || p[2].Name == "$metadata"
	default:
		s.Identity = true
	}
}

func (f *Fleet) rows(ctx context.Context, q *query.Query, size int, at position) (Page, error) {
	page := Page{ItemType: TwinItems}
	if q.Raw() {
		page.ItemType = RawItems
	}
	s := scan(q)
	s.After = at.After
	if q.Top > 0 {
		if at.Done >= q.Top {
			return page, nil
		}
		size = min(size, q.Top-at.Done)
	}
	var last iot.ID
	bytes := 0
	err := f.store.Scan(ctx, s, func(r *Row) error {
		d := document{r}
		if !q.Matches(d) {
			return nil
		}
		if len(page.Items) == size || bytes > maxPageBytes { // one more than fits: there is another page
			at.After, at.Done = last, at.Done+len(page.Items)
			if q.Top == 0 || at.Done < q.Top {
				page.Next = at.token(q)
			}
			return ErrStop
		}
		last = r.Twin.ID
		if q.Raw() {
			page.Items = append(page.Items, q.Row(d, outputName))
		} else {
			page.Items = append(page.Items, registry.TwinDocument(r.Identity, r.Twin))
		}
		bytes += len(page.Items[len(page.Items)-1])
		return nil
	})
	return page, err
}

func (f *Fleet) summary(ctx context.Context, q *query.Query, size int, at position) (Page, error) {
	g := query.NewGroups(q, outputName)
	err := f.store.Scan(ctx, scan(q), func(r *Row) error {
		if d := (document{r}); q.Matches(d) {
			return g.Add(d)
		}
		return nil
	})
	if err != nil {
		return Page{}, err
	}
	rows := g.Rows()
	if q.Top > 0 {
		rows = rows[:min(q.Top, len(rows))]
	}
	rows = rows[min(at.Done, len(rows)):]
	page := Page{Items: rows, ItemType: RawItems}
	if len(rows) > size {
		page.Items = rows[:size]
		at.Done += size
		page.Next = at.token(q)
	}
	return page, nil
}

// position is where the next page begins: behind a row, and after so many rows in all. It goes by
// key, so that a page does not move when devices come and go.
type position struct {
	Query string `json:"q"` // digest of the query it belongs to
	Job   string `json:"j,omitempty"`
	After iot.ID `json:"a"`
	Done  int    `json:"n"`
}

const maxToken = 2048

func digest(q *query.Query) string {
	sum := sha256.Sum256([]byte(q.String()))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

func (p position) token(q *query.Query) string {
	p.Query = digest(q)
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and a number always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func readToken(token string, q *query.Query) (position, error) {
	var p position
	if token == "" {
		return p, nil
	}
	bad := fault.New(fault.Invalid, "the continuation token does not belong to this query")
	if len(token) > maxToken {
		return p, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(b, &p) != nil || p.Query != digest(q) || p.Done < 0 {
		return position{}, bad
	}
	return p, nil
}
