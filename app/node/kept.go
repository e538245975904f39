package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/throttle"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// kept is a setting that is asked for often and changes seldom: what the store says is kept for a moment. T does not
// change once it is parsed.
type kept[T any] struct {
	store *sqlstore.Store
	name  string
	parse func(text []byte) (T, error) // of nil: what counts without a setting

	mu    sync.Mutex
	text  []byte
	value T
	set   bool // there is a setting
	read  time.Time
}

func (k *kept[T]) get(ctx context.Context) (value T, set bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.read) < switchAge {
		return k.value, k.set, nil
	}
	text, err := k.store.Setting(ctx, k.name)
	if fault.Is(err, fault.NotFound) || err == nil && len(text) == 0 {
		text, err = nil, nil
	}
	if err != nil {
		return value, false, err
	}
	if !k.read.IsZero() && bytes.Equal(text, k.text) { // the value stays the very same, by which others see that nothing changed
		k.read = time.Now()
		return k.value, k.set, nil
	}
	if value, err = k.parse(text); err != nil {
		return value, false, err
	}
	k.text, k.value, k.set, k.read = text, value, text != nil, time.Now()
	return k.value, k.set, nil
}

// put writes the setting; empty text removes it.
func (k *kept[T]) put(ctx context.Context, text []byte) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(text) == 0 {
		text = nil
	}
	value, err := k.parse(text)
	if err != nil {
		return value, err
	}
	if err := k.store.PutSetting(ctx, k.name, text); err != nil {
		return value, err
	}
	k.text, k.value, k.set, k.read = text, value, text != nil, time.Now()
	return value, nil
}

// forget makes the next get ask the store.
func (k *kept[T]) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read = time.Time{}
}

// network is the IP filter.
type network struct {
	rules  kept[*ipfilter.Filter]
	log    *slog.Logger
	change func() // is called when the rules changed
	seen   *ipfilter.Filter
}

func newNetwork(n *Node) *network {
	return &network{log: n.log, change: func() { n.mqtt.Recheck() }, rules: kept[*ipfilter.Filter]{
		store: n.State, name: "hub/network", parse: func(text []byte) (*ipfilter.Filter, error) {
			if text == nil {
				return &ipfilter.Filter{}, nil
			}
			return ipfilter.Parse(text)
		},
	}}
}

// Network implements api.NetworkStore.
func (f *network) Network(ctx context.Context) (*ipfilter.Filter, error) {
	rules, _, err := f.rules.get(ctx)
	return rules, err
}

// PutNetwork implements api.NetworkStore.
func (f *network) PutNetwork(ctx context.Context, rules *ipfilter.Filter) error {
	text, err := json.Marshal(rules.Config)
	if err != nil {
		return err
	}
	if _, err := f.rules.put(ctx, text); err != nil {
		return err
	}
	f.change()
	return nil
}

// run ends sessions that another server's change of the rules refuses.
func (f *network) run(ctx context.Context) error {
	tick := time.NewTicker(routingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			rules, err := f.Network(ctx)
			if err != nil || rules == f.seen {
				continue
			}
			f.seen = rules
			f.change()
		}
	}
}

// gate is who may reach a part of the hub; it admits whom any of the targets admits. A caller that is refused learns
// nothing, and when the rules cannot be known it is told to come back.
func (f *network) gate(targets ...ipfilter.Target) access.Gate {
	return func(remote string) (string, error) {
		rules, err := f.Network(context.Background())
		if err != nil {
			return "", fault.Wrap(fault.Unavailable, err, "the network rules cannot be read")
		}
		ap, err := netip.ParseAddrPort(remote)
		if err != nil {
			return "", fault.Wrap(fault.Unauthorized, err, refusedText)
		}
		rule := ""
		for _, target := range targets {
			var ok bool
			if rule, ok = rules.Admits(ap.Addr(), target); ok {
				return rule, nil
			}
		}
		reason := errors.New("refused by the default action of the IP filter")
		if rule != "" {
			reason = errors.New("refused by the IP filter's rule " + rule)
		}
		return "", fault.Wrap(fault.Unauthorized, reason, refusedText)
	}
}

// besides is gate, but admits self always: the hub itself calls from there.
func (f *network) besides(self string, targets ...ipfilter.Target) access.Gate {
	gate := f.gate(targets...)
	return func(remote string) (string, error) {
		if ap, err := netip.ParseAddrPort(remote); err == nil && ap.Addr().Unmap().String() == self {
			return "", nil
		}
		return gate(remote)
	}
}

// refusedText is all that a caller learns (hub-service §9.1).
const refusedText = "unauthorized"

// throttles are the limits in force: those the operator set, else those of the configuration file.
type throttles struct {
	limits  kept[*throttle.Limits]
	limiter *throttle.Limiter
	log     *slog.Logger
	seen    *throttle.Limits
}

func newThrottles(n *Node, usage *throttle.Usage) (*throttles, error) {
	fromFile, err := throttle.Compile(n.cfg.Throttle)
	if err != nil {
		return nil, err
	}
	t := &throttles{log: n.log, limiter: throttle.New(nil, usage), seen: fromFile, limits: kept[*throttle.Limits]{
		store: n.State, name: "hub/throttles", parse: func(text []byte) (*throttle.Limits, error) {
			if text == nil {
				return fromFile, nil
			}
			return throttle.Parse(text)
		},
	}}
	return t, nil
}

// Throttles implements api.ThrottleStore.
func (t *throttles) Throttles(ctx context.Context) (*throttle.Limits, bool, error) {
	return t.limits.get(ctx)
}

// PutThrottles implements api.ThrottleStore.
func (t *throttles) PutThrottles(ctx context.Context, l *throttle.Limits) error {
	text, err := json.Marshal(l.Config)
	if err != nil {
		return err
	}
	return t.put(ctx, text)
}

// DeleteThrottles implements api.ThrottleStore.
func (t *throttles) DeleteThrottles(ctx context.Context) error { return t.put(ctx, nil) }

func (t *throttles) put(ctx context.Context, text []byte) error {
	l, err := t.limits.put(ctx, text)
	if err == nil {
		t.limiter.Set(l)
	}
	return err
}

// begin puts in force what counts at the start.
func (t *throttles) begin(ctx context.Context) error {
	l, _, err := t.limits.get(ctx)
	if err != nil {
		return err
	}
	t.limiter.Set(l)
	return nil
}

// run follows changes that are made on other servers.
func (t *throttles) run(ctx context.Context) error {
	tick := time.NewTicker(routingPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l, _, err := t.limits.get(ctx)
			if err != nil {
				if ctx.Err() == nil {
					t.log.Error("the throttles are not known; those that were stay", "err", err)
				}
				continue
			}
			if l != t.seen {
				t.seen = l
				t.limiter.Set(l)
			}
		}
	}
}
