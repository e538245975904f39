package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/iot"
)

// Router knows the sessions of this node and reaches those of every node: each
// session listens on the bus under its device's name, and whoever has a command
// sends it there, whether the session is next door or on another machine.
type Router struct {
	// Shared says that other servers write twins, too, whose patches may cross with ours. Set it before the first Attach.
	Shared bool

	post bus.Post
	log  *slog.Logger
	node string // tells this router from others on the bus

	mu     sync.Mutex // may be held while calling post, which waits for nobody
	routes map[iot.ID]*Route
}

// NewRouter sends over post, whose calls must be handed to Handle.
func NewRouter(post bus.Post, log *slog.Logger) *Router {
	return &Router{post: post, log: log, node: nonce.New(), routes: make(map[iot.ID]*Route)}
}

// Route is the way to one session of this node.
type Route struct {
	router *Router
	id     iot.ID
	link   iot.Link
	cancel func() // stops listening on the bus; passes from a session to the one that takes it over

	mu       sync.Mutex
	features iot.Feature
	desired  int64 // version of the last desired patch delivered, or that passed unheard; 0: none yet
	held     map[int64][]byte
	timer    *time.Timer // releases held; nil when there is none
}

// envelope is a command on the bus.
type envelope struct {
	Kind    string          `json:"kind"` // method, desired, mail, close
	Device  string          `json:"device"`
	Module  string          `json:"module,omitempty"`
	Name    string          `json:"name,omitempty"`    // method
	Payload json.RawMessage `json:"payload,omitempty"` // method, desired
	Version int64           `json:"version,omitempty"` // desired
	From    string          `json:"from,omitempty"`    // desired: the sender's node
	Except  string          `json:"except,omitempty"`  // close: the node that settled it already
	Reason  string          `json:"reason,omitempty"`  // close
	Fault   fault.Kind      `json:"fault,omitempty"`   // close
}

// answer is what comes back for a method.
type answer struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload,omitempty"`
	Fault   fault.Kind      `json:"fault,omitempty"`
	Failed  bool            `json:"failed,omitempty"`
	Text    string          `json:"text,omitempty"`
}

func mailbox(id iot.ID) string { return "device:" + id.String() }

// ErrTakenOver closes a link whose identity connected again (hub-device §2.9).
var ErrTakenOver = fault.New(fault.AlreadyExists, "the same device connected again")

// Attach makes link the session of id. An older session of id, here or on another node, is closed.
func (r *Router) Attach(id iot.ID, link iot.Link) (*Route, error) {
	rt := &Route{router: r, id: id, link: link}
	r.mu.Lock()
	old := r.routes[id]
	if old != nil {
		rt.cancel = old.cancel // one ear only: with two, a method would reach the device twice
	} else {
		cancel, err := r.post.Listen(mailbox(id))
		if err != nil {
			r.mu.Unlock()
			return nil, fmt.Errorf("command: listen for %s: %w", id, err)
		}
		rt.cancel = cancel
	}
	r.routes[id] = rt
	r.mu.Unlock()
	if old != nil {
		old.link.Close(ErrTakenOver)
	}
	// This node is done; a close that reached it late would hit a session that is newer still.
	r.send(id, envelope{Kind: "close", Except: r.node, Fault: fault.AlreadyExists, Reason: "the same device connected again"})
	return rt, nil
}

// Detach ends the route. It reports whether the route still was the session of its identity.
func (rt *Route) Detach() bool {
	rt.mu.Lock()
	rt.held = nil
	rt.stopTimerLocked()
	rt.mu.Unlock()
	r := rt.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.routes[rt.id] != rt {
		return false
	}
	delete(r.routes, rt.id)
	rt.cancel()
	return true
}

// Current reports whether the route still is the session of its identity on this node.
func (rt *Route) Current() bool {
	rt.router.mu.Lock()
	defer rt.router.mu.Unlock()
	return rt.router.routes[rt.id] == rt
}

// Listen sets what the device wants.
func (rt *Route) Listen(f iot.Feature) {
	rt.mu.Lock()
	rt.features = f
	rt.mu.Unlock()
}

func (rt *Route) wants(f iot.Feature) bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.features&f != 0
}

// Count returns the sessions of this node.
func (r *Router) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.routes)
}

// Handle takes a call from the bus. It never blocks.
func (r *Router) Handle(c bus.Call) {
	var e envelope
	if err := json.Unmarshal(c.Data, &e); err != nil {
		r.log.Warn("unreadable command on the bus", "name", c.Name, "err", err)
		return
	}
	r.mu.Lock()
	rt := r.routes[iot.ID{Device: e.Device, Module: e.Module}]
	r.mu.Unlock()
	if rt == nil {
		if e.Kind == "method" {
			c.Reply(encode(failed(errOffline)))
		}
		return
	}
	switch e.Kind {
	case "method":
		if !rt.wants(iot.Methods) {
			c.Reply(encode(failed(errNoMethods)))
			return
		}
		if e.Payload == nil {
			e.Payload = json.RawMessage("null") // the Node device SDK parses whatever arrives, even nothing
		}
		rt.link.Method(e.Name, e.Payload, func(status int, payload []byte, err error) {
			if err != nil {
				c.Reply(encode(failed(err)))
				return
			}
			if !json.Valid(payload) {
				payload = nil // hub-device §3.8: a body that is no JSON reaches the caller as null
			}
			c.Reply(encode(answer{Status: status, Payload: payload}))
		})
	case "desired":
		rt.deliverDesired(e.Version, e.Payload, e.From == r.node)
	case "mail":
		if rt.wants(iot.CloudToDevice) {
			rt.link.MailWaits()
		}
	case "close":
		if e.Except != r.node {
			rt.link.Close(&fault.Error{Kind: e.Fault, Public: e.Reason})
		}
	default:
		r.log.Warn("unknown command on the bus", "kind", e.Kind)
	}
}

// Desired patches of one device may be written on several servers and cross on the bus. One whose
// predecessor has not come is held for a moment.
const (
	reorderTime = 50 * time.Millisecond
	maxHeld     = 64 // then what is held is delivered as it is
)

var errDisorder = fault.New(fault.Unavailable, "desired updates came out of order; read the twin again")

// deliverDesired delivers in version order. local says that the patch was written on this server, whose patches
// come in order by themselves.
func (rt *Route) deliverDesired(version int64, patch []byte, local bool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.features&iot.DesiredUpdates == 0 {
		rt.desired = max(rt.desired, version) // what it does not hear it reads with the twin
		return
	}
	if version <= rt.desired {
		// Merged now it would undo a newer one. The device connects again and reads its twin.
		rt.link.Close(errDisorder)
		return
	}
	if rt.desired == 0 && local && !rt.router.Shared {
		rt.desired = version - 1
	}
	if rt.held == nil {
		rt.held = make(map[int64][]byte)
	}
	rt.held[version] = patch
	for {
		next, ok := rt.held[rt.desired+1]
		if !ok {
			break
		}
		rt.deliverLocked(rt.desired+1, next)
	}
	switch {
	case len(rt.held) == 0:
		rt.stopTimerLocked()
	case len(rt.held) >= maxHeld:
		rt.releaseLocked()
	case rt.timer == nil:
		rt.timer = time.AfterFunc(reorderTime, func() {
			rt.mu.Lock()
			defer rt.mu.Unlock()
			rt.releaseLocked()
		})
	}
}

func (rt *Route) deliverLocked(version int64, patch []byte) {
	delete(rt.held, version)
	rt.desired = version
	rt.link.Desired(version, patch)
}

// releaseLocked delivers what is held: its predecessors were lost with their server.
func (rt *Route) releaseLocked() {
	for _, version := range slices.Sorted(maps.Keys(rt.held)) {
		rt.deliverLocked(version, rt.held[version])
	}
	rt.stopTimerLocked()
}

func (rt *Route) stopTimerLocked() {
	if rt.timer != nil {
		rt.timer.Stop()
		rt.timer = nil
	}
}

var (
	errOffline   = fault.New(fault.NotOnline, "the device is not connected")
	errNoMethods = fault.New(fault.NotOnline, "the device is connected but does not listen for direct methods")
)

func failed(err error) answer {
	return answer{Failed: true, Fault: fault.KindOf(err), Text: fault.Public(err)}
}

// encode leaves the text of payloads as it is, but for white space between tokens.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // the types above always marshal but for a payload that is no JSON, which was checked
		panic(fmt.Sprintf("command: %v", err))
	}
	return b.Bytes()
}

func (r *Router) send(id iot.ID, e envelope) {
	e.Device, e.Module = id.Device, id.Module
	if err := r.post.Send(mailbox(id), encode(e)); err != nil {
		r.log.Warn("command not sent", "device", id.Device, "module", id.Module, "kind", e.Kind, "err", err)
	}
}

// Desired pushes a desired patch to the device, if it is there and wants it.
func (r *Router) Desired(id iot.ID, version int64, patch json.RawMessage) {
	r.send(id, envelope{Kind: "desired", From: r.node, Version: version, Payload: patch})
}

// MailWaits tells the device's session to look into its queue.
func (r *Router) MailWaits(id iot.ID) { r.send(id, envelope{Kind: "mail"}) }

// Disconnect closes the session of id, wherever it is.
func (r *Router) Disconnect(id iot.ID, kind fault.Kind, reason string) {
	r.send(id, envelope{Kind: "close", Fault: kind, Reason: reason})
}

// Method is a direct method to invoke. Payload nil is null.
type Method struct {
	Name            string
	Payload         json.RawMessage
	ResponseTimeout time.Duration
	ConnectTimeout  time.Duration // how long to wait for a device that is not online
	Margin          time.Duration // how much before ResponseTimeout the caller wants to hear of it
}

// Result is what a device answered.
type Result struct {
	Status  int
	Payload json.RawMessage // nil is null
}

// connectPoll is how often an invocation looks whether its device came online.
const connectPoll = 100 * time.Millisecond

// Invoke calls a direct method. Its failures are fault.NotOnline, Timeout,
// ConnectionClosed and Unavailable (hub-service §5.1).
func (r *Router) Invoke(ctx context.Context, id iot.ID, m Method) (Result, error) {
	online := time.NewTimer(m.ConnectTimeout)
	defer online.Stop()
	for {
		res, err := r.invokeOnce(ctx, id, m)
		if m.ConnectTimeout <= 0 || !fault.Is(err, fault.NotOnline) {
			return res, err
		}
		select {
		case <-ctx.Done():
			return Result{}, fault.Wrap(fault.Timeout, ctx.Err(), "the caller left")
		case <-online.C:
			return Result{}, fault.New(fault.NotOnline, "timed out waiting for the device to connect")
		case <-time.After(connectPoll):
		}
	}
}

func (r *Router) invokeOnce(ctx context.Context, id iot.ID, m Method) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, m.ResponseTimeout-m.Margin)
	defer cancel()
	data, err := r.post.Request(ctx, mailbox(id), encode(envelope{
		Kind: "method", Device: id.Device, Module: id.Module, Name: m.Name, Payload: m.Payload,
	}))
	if fault.Is(err, fault.Timeout) {
		return Result{}, fault.New(fault.Timeout, "timed out waiting for the device to respond")
	}
	if err != nil {
		return Result{}, err
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return Result{}, fault.Wrap(fault.Internal, err, "unreadable answer on the bus")
	}
	if a.Failed {
		return Result{}, &fault.Error{Kind: a.Fault, Public: a.Text}
	}
	return Result{Status: a.Status, Payload: a.Payload}, nil
}
