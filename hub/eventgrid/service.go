package eventgrid

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/outward"
	"github.com/vauban-iot/vauban/iot"
)

// Store keeps subscriptions.
type Store interface {
	// Subscriptions returns them all, by name.
	Subscriptions(ctx context.Context) ([]Subscription, error)
	// ChangeSubscriptions runs change in one transaction with the read and the write.
	ChangeSubscriptions(ctx context.Context, change func([]Subscription) ([]Subscription, error)) error
}

// Log is the telemetry log; see [bus.Log].
type Log interface {
	Work(ctx context.Context, name string, handle func(bus.Entry) error) error
}

// Config of a service. Fields are required unless they say otherwise.
type Config struct {
	Hub   string // the hub's host name
	Base  string // https://host:port, under which webhooks find ValidationPath
	Store Store
	Log   Log
	// Want is told which events subscriptions need beside telemetry, so that they are made; see event.Interest.
	Want func(sources ...iot.MessageSource)
	// Report hears what became of an event: delivered, retried or dead. May be nil.
	Report    func(subscription, eventType, result string, late time.Duration)
	Transport http.RoundTripper // to webhooks; nil: the network
	Now       func() time.Time  // nil: time.Now
	Logger    *slog.Logger      // nil: slog.Default()
}

// Service keeps subscriptions and sends what they want. It is safe for concurrent use.
type Service struct {
	cfg    Config
	client *http.Client
	now    func() time.Time
	log    *slog.Logger
	wake   chan struct{}
}

// requestTimeout is how long a webhook may take, as Event Grid's does; dialTimeout how long of that to connect.
const (
	requestTimeout = 30 * time.Second
	dialTimeout    = 10 * time.Second
)

// New returns a service; Run sends.
func New(cfg Config) (*Service, error) {
	if cfg.Hub == "" || cfg.Base == "" || cfg.Store == nil || cfg.Log == nil || cfg.Want == nil {
		return nil, errors.New("eventgrid: incomplete configuration")
	}
	s := &Service{cfg: cfg, now: cfg.Now, log: cfg.Logger, wake: make(chan struct{}, 1)}
	transport := cfg.Transport
	if transport == nil {
		transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: outward.Dialer(dialTimeout).DialContext, TLSHandshakeTimeout: dialTimeout, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}
	}
	s.client = &http.Client{
		Timeout: requestTimeout, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	return s, nil
}

// Subscriptions lists all.
func (s *Service) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return s.cfg.Store.Subscriptions(ctx)
}

// Subscription returns one; fault.NotFound.
func (s *Service) Subscription(ctx context.Context, name string) (Subscription, error) {
	all, err := s.Subscriptions(ctx)
	if err != nil {
		return Subscription{}, err
	}
	for _, sub := range all {
		if sub.Name == name {
			return sub, nil
		}
	}
	return Subscription{}, notFound(name)
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "there is no event subscription %q", name)
}

// codeLife is how long a webhook may take to agree by hand, as with Event Grid.
const codeLife = 10 * time.Minute

// Put adds a subscription, or replaces the one of its name. The webhook must agree first: at once, by repeating a code or by
// allowing our origin, or within ten minutes by its owner, who opens an address. A webhook that says no is fault.Invalid.
func (s *Service) Put(ctx context.Context, sub Subscription) (Subscription, error) {
	if err := sub.check(); err != nil {
		return Subscription{}, err
	}
	sub.Code = nonce.New()
	agreed, err := s.handshake(ctx, &sub)
	if err != nil {
		return Subscription{}, err
	}
	now := s.now().UTC()
	sub.Created = now
	if agreed {
		sub.State, sub.Code, sub.Expires = Validated, "", time.Time{}
	} else {
		sub.State, sub.Expires = Awaiting, now.Add(codeLife)
	}
	err = s.change(ctx, func(all []Subscription) ([]Subscription, error) {
		i := slices.IndexFunc(all, func(o Subscription) bool { return o.Name == sub.Name })
		if i >= 0 {
			sub.Created = all[i].Created // it goes on where it was
			all[i] = sub
			return all, nil
		}
		if len(all) >= maxSubscriptions {
			return nil, fault.New(fault.Invalid, "there are %d event subscriptions already; delete one first", maxSubscriptions)
		}
		return append(all, sub), nil
	})
	return sub, err
}

// Delete removes a subscription; fault.NotFound.
func (s *Service) Delete(ctx context.Context, name string) error {
	return s.change(ctx, func(all []Subscription) ([]Subscription, error) {
		left := slices.DeleteFunc(slices.Clone(all), func(o Subscription) bool { return o.Name == name })
		if len(left) == len(all) {
			return nil, notFound(name)
		}
		return left, nil
	})
}

// Confirm is what happens when a validation URL is opened; fault.NotFound when it is not, or no longer, one.
func (s *Service) Confirm(ctx context.Context, name, code string) error {
	return s.change(ctx, func(all []Subscription) ([]Subscription, error) {
		for i := range all {
			o := &all[i]
			if o.Name != name || o.State != Awaiting || s.now().After(o.Expires) || subtle.ConstantTimeCompare([]byte(o.Code), []byte(code)) != 1 {
				continue
			}
			o.State, o.Code, o.Expires = Validated, "", time.Time{}
			return all, nil
		}
		return nil, fault.New(fault.NotFound, "this address validates nothing, or no longer")
	})
}

func (s *Service) change(ctx context.Context, change func([]Subscription) ([]Subscription, error)) error {
	var after []Subscription
	err := s.cfg.Store.ChangeSubscriptions(ctx, func(all []Subscription) ([]Subscription, error) {
		var err error
		after, err = change(all)
		return after, err
	})
	if err != nil {
		return err
	}
	s.want(after) // from the next event on
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// want says which events must be made.
func (s *Service) want(all []Subscription) {
	var wanted []iot.MessageSource
	for _, sub := range all {
		for _, t := range sub.Types {
			wanted = append(wanted, sources[t])
		}
	}
	s.cfg.Want(wanted...)
}

// Want says which events must be made, by what the store holds now.
func (s *Service) Want(ctx context.Context) {
	all, err := s.Subscriptions(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("the event subscriptions are not known", "err", err)
		}
		return
	}
	s.want(all)
}

// Watch repeats Want until ctx ends: subscriptions may change on another server.
func (s *Service) Watch(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Want(ctx)
		}
	}
}

// ValidationPath is where validation URLs point to.
const ValidationPath = "/eventgrid/validate"

// ServeHTTP answers validation URLs: whoever knows the code is the owner of the webhook, which got it.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch err := s.Confirm(r.Context(), q.Get("name"), q.Get("code")); {
	case err == nil:
		s.log.Info("change", "audit", true, "who", "webhook", "what", "GET "+ValidationPath, "target", q.Get("name"), "outcome", "done", "from", r.RemoteAddr)
		fmt.Fprintln(w, "Webhook successfully validated as a subscription endpoint.")
	case fault.Is(err, fault.NotFound):
		http.Error(w, fault.Public(err), http.StatusNotFound)
	default:
		s.log.Error("a webhook was not validated", "err", err)
		http.Error(w, fault.Public(err), http.StatusInternalServerError)
	}
}

// handshake asks the webhook whether it wants events. agreed is false when its owner has to say so.
func (s *Service) handshake(ctx context.Context, sub *Subscription) (agreed bool, err error) {
	validation := s.cfg.Base + ValidationPath + "?" + url.Values{"name": {sub.Name}, "code": {sub.Code}}.Encode()
	if sub.Schema == CloudEventSchema {
		return s.ask(ctx, sub, validation)
	}
	e := Event{
		ID: nonce.New(), Source: "/providers/Microsoft.Devices/IotHubs/" + s.cfg.Hub, Type: "Microsoft.EventGrid.SubscriptionValidationEvent", Time: s.now(), version: "2",
		Data: mustJSON(map[string]string{"validationCode": sub.Code, "validationUrl": validation}),
	}
	res, err := s.post(ctx, sub, "SubscriptionValidation", "application/json; charset=utf-8", 0, []json.RawMessage{e.render(EventGridSchema)}, true)
	if err != nil {
		return false, fault.Wrap(fault.Invalid, err, "the webhook %s cannot be reached: %v", sub.URL, err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return false, fault.New(fault.Invalid, "the webhook %s answered its validation with %s", sub.URL, res.Status)
	}
	var answer struct {
		Response string `json:"validationResponse"`
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(data, &answer) != nil || answer.Response == "" {
		return false, nil // it has until sub.Expires
	}
	if subtle.ConstantTimeCompare([]byte(answer.Response), []byte(sub.Code)) != 1 {
		return false, fault.New(fault.Invalid, "the webhook %s answered with another validation code", sub.URL)
	}
	return true, nil
}

const maxAnswer = 64 << 10

// ask is the handshake of CloudEvents (HTTP Web Hooks for Event Delivery §4).
func (s *Service) ask(ctx context.Context, sub *Subscription, validation string) (agreed bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, sub.URL, http.NoBody)
	if err != nil {
		return false, err
	}
	origin := s.cfg.Hub
	req.Header.Set("WebHook-Request-Origin", origin)
	req.Header.Set("WebHook-Request-Callback", validation)
	if name, value := sub.header(); name != "" {
		req.Header.Set(name, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return false, fault.Wrap(fault.Invalid, err, "the webhook %s cannot be reached: %v", sub.URL, err)
	}
	defer res.Body.Close()
	switch allowed := res.Header.Get("WebHook-Allowed-Origin"); {
	case res.StatusCode/100 != 2:
		return false, fault.New(fault.Invalid, "the webhook %s answered its validation with %s", sub.URL, res.Status)
	case allowed == "":
		return false, nil
	case allowed != "*" && !strings.EqualFold(allowed, origin):
		return false, fault.New(fault.Invalid, "the webhook %s allows the origin %q only, not %q", sub.URL, allowed, origin)
	}
	return true, nil
}

// post sends events. The caller closes the body.
func (s *Service) post(ctx context.Context, sub *Subscription, kind, contentType string, attempt int, events []json.RawMessage, array bool) (*http.Response, error) {
	body := bytes.Join(byteSlices(events), []byte{','})
	if array {
		body = append(append([]byte{'['}, body...), ']')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sub.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	// The names of Event Grid's headers, in its spelling.
	for name, value := range map[string]string{
		"Content-Type": contentType, "User-Agent": "vauban", "aeg-event-type": kind, "aeg-subscription-name": strings.ToUpper(sub.Name),
		"aeg-delivery-count": fmt.Sprint(attempt), "aeg-metadata-version": "1", "aeg-data-version": "1",
	} {
		req.Header[name] = []string{value}
	}
	if sub.Schema == CloudEventSchema { // no such thing there
		delete(req.Header, "aeg-metadata-version")
		delete(req.Header, "aeg-data-version")
	}
	if name, value := sub.header(); name != "" {
		req.Header.Set(name, value)
	}
	return s.client.Do(req)
}

func byteSlices(ms []json.RawMessage) [][]byte {
	bs := make([][]byte, len(ms))
	for i, m := range ms {
		bs[i] = m
	}
	return bs
}

// period is how late a change made on another server is seen.
const period = 2 * time.Second

// Run sends until ctx ends. It must run on one server at a time.
func (s *Service) Run(ctx context.Context) error {
	type running struct {
		text []byte
		stop func()
	}
	senders := map[string]running{}
	defer func() {
		for _, r := range senders {
			r.stop()
		}
	}()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		all, err := s.Subscriptions(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Error("event subscriptions not read, trying again", "err", err)
		}
		if err == nil {
			wanted := map[string]Subscription{}
			for _, sub := range all {
				if sub.State == Validated {
					wanted[sub.Name] = sub
				}
			}
			for name, r := range senders {
				if sub, ok := wanted[name]; !ok || !bytes.Equal(r.text, mustJSON(sub)) {
					r.stop()
					delete(senders, name)
				}
			}
			for name, sub := range wanted {
				if _, ok := senders[name]; !ok {
					senders[name] = running{mustJSON(sub), s.start(ctx, sub)}
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
		}
	}
}

func (s *Service) start(ctx context.Context, sub Subscription) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			send := sender{service: s, sub: sub}
			if err := s.cfg.Log.Work(ctx, "eventgrid-"+sub.Name, func(e bus.Entry) error { return send.entry(ctx, e) }); err != nil && ctx.Err() == nil {
				s.log.Error("an event subscription stopped and is started again", "subscription", sub.Name, "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}
