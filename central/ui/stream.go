package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/central/live"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// part is a piece of a page that can be replaced by itself.
type part struct {
	Key  string // the row's, in a list
	V    string // changes with View
	View any    // what the template shows; holds no pointers
}

var partSeed = maphash.MakeSeed()

func newPart(key string, view any) part {
	return part{Key: key, V: strconv.FormatUint(maphash.String(partSeed, fmt.Sprintf("%#v", view)), 36), View: view}
}

// screen is what is current on a page. Regions are shown by the template of their name,
// rows of a list by the template of its name.
type screen struct {
	Regions map[string]part
	List    string
	Rows    []part
}

// load reads a screen from the stores.
type load func(ctx context.Context) (screen, error)

// Times of a stream.
const (
	tick       = time.Second
	gather     = 200 * time.Millisecond // messages that arrive together are shown together
	writeLimit = 15 * time.Second
	quietLimit = 15 * time.Second // after which a comment shows both ends that the connection lives
	maxShown   = 50               // messages of one gather; nobody reads more
)

// update is the data of a "view" event: what differs from what the browser has.
type update struct {
	Regions map[string]change `json:"regions,omitempty"`
	List    string            `json:"list,omitempty"`
	Order   []string          `json:"order,omitempty"` // all keys of the list, when they changed
	Emptied bool              `json:"emptied,omitempty"`
	Rows    []change          `json:"rows,omitempty"`
}

type change struct {
	Key  string `json:"key,omitempty"`
	V    string `json:"v"`
	HTML string `json:"html"`
}

// messages is the data of a "messages" event.
type messages struct {
	HTML []string `json:"html"` // oldest first
	Lost int      `json:"lost,omitempty"`
}

// stream keeps one browser current until it leaves, its session ends or the server stops.
type stream struct {
	c       *Console
	out     *events
	regions map[string]string // name to version
	rows    map[string]string // key to version
	order   []string
	failing bool
}

// serve sends what load returns whenever it changed, and the messages of sub, which may be nil.
func (c *Console) serve(w http.ResponseWriter, r *http.Request, s *session, load load, sub *live.Subscription) error {
	st := &stream{c: c, out: newEvents(w), regions: make(map[string]string), rows: make(map[string]string)}
	defer st.out.end()
	ctx := r.Context()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var ready <-chan struct{}
	if sub != nil {
		ready = sub.Ready()
	}
	var flush <-chan time.Time
	if err := st.view(ctx, load); err != nil {
		return nil // the answer has begun: all that is left is to end it
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-s.ended:
			_ = st.out.send("gone", struct{}{})
			return nil
		case <-ticker.C:
			if c.sessions.of(r) == nil {
				_ = st.out.send("gone", struct{}{})
				return nil
			}
			err = st.view(ctx, load)
		case <-ready:
			ready, flush = nil, time.After(gather)
		case <-flush:
			ready, flush = sub.Ready(), nil
			ms, lost := sub.Take()
			err = st.messages(ms, lost)
		}
		if err != nil {
			return nil
		}
	}
}

// view sends what changed on the screen. Its error is the connection's.
func (st *stream) view(ctx context.Context, load load) error {
	s, err := load(ctx)
	if fault.Is(err, fault.NotFound) {
		return st.out.send("missing", struct{}{})
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !st.failing {
			st.failing = true
			st.c.log.Error("live page cannot be read", "err", err)
			return st.out.send("trouble", "The server cannot read its store at this moment. It keeps trying.")
		}
		return st.out.quiet()
	}
	recovered := st.failing
	st.failing = false
	u, err := st.difference(s)
	if err != nil {
		return err
	}
	if u.empty() && !recovered {
		return st.out.quiet()
	}
	return st.out.send("view", u)
}

func (u *update) empty() bool {
	return len(u.Regions) == 0 && len(u.Order) == 0 && len(u.Rows) == 0 && !u.Emptied
}

// difference renders what the browser does not have yet.
func (st *stream) difference(s screen) (*update, error) {
	u := &update{Regions: make(map[string]change), List: s.List}
	for name, p := range s.Regions {
		if st.regions[name] == p.V {
			continue
		}
		text, err := st.c.fragment(name, p.View)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", name, err)
		}
		st.regions[name] = p.V
		u.Regions[name] = change{V: p.V, HTML: text}
	}
	order := make([]string, len(s.Rows))
	present := make(map[string]string, len(s.Rows))
	for i, p := range s.Rows {
		order[i] = p.Key
		present[p.Key] = p.V
		if st.rows[p.Key] == p.V {
			continue
		}
		text, err := st.c.fragment(s.List, p)
		if err != nil {
			return nil, fmt.Errorf("render a row of %s: %w", s.List, err)
		}
		u.Rows = append(u.Rows, change{Key: p.Key, V: p.V, HTML: text})
	}
	if !slices.Equal(order, st.order) {
		u.Order = order
		u.Emptied = len(order) == 0
	}
	st.rows, st.order = present, order
	return u, nil
}

func (st *stream) messages(ms []*iot.Message, lost int) error {
	if extra := len(ms) - maxShown; extra > 0 {
		lost += extra
		ms = ms[extra:]
	}
	if len(ms) == 0 && lost == 0 {
		return nil
	}
	shown := messages{HTML: make([]string, len(ms)), Lost: lost}
	for i, m := range ms {
		var err error
		if shown.HTML[i], err = st.c.fragment("message", newMessageView(m)); err != nil {
			return fmt.Errorf("render a message: %w", err)
		}
	}
	return st.out.send("messages", shown)
}

// events writes server-sent events (HTML §9.2).
type events struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	buf  bytes.Buffer
	last time.Time
}

func newEvents(w http.ResponseWriter) *events {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	return &events{w: w, rc: http.NewResponseController(w)}
}

// send writes one event. JSON text has no line break, which is all that data may not have.
func (e *events) send(name string, data any) error {
	e.buf.Reset()
	e.buf.WriteString("event: " + name + "\ndata: ")
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		return err
	}
	e.buf.WriteByte('\n')
	return e.write()
}

// quiet writes a comment when nothing was written for long.
func (e *events) quiet() error {
	if time.Since(e.last) < quietLimit {
		return nil
	}
	e.buf.Reset()
	e.buf.WriteString(": still here\n\n")
	return e.write()
}

// end leaves the connection to the next request without a deadline.
func (e *events) end() { _ = e.rc.SetWriteDeadline(time.Time{}) }

func (e *events) write() error {
	e.last = time.Now()
	_ = e.rc.SetWriteDeadline(e.last.Add(writeLimit)) // not every connection has deadlines
	if _, err := e.buf.WriteTo(e.w); err != nil {
		return err
	}
	return e.rc.Flush()
}
