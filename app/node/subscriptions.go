package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// subscriptionStore is an eventgrid.Store over a setting.
type subscriptionStore struct{ store *sqlstore.Store }

const subscriptionsSetting = "hub/event-subscriptions"

func readSubscriptions(text []byte) ([]eventgrid.Subscription, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var all []eventgrid.Subscription
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("setting %s is damaged: %w", subscriptionsSetting, err)
	}
	return all, nil
}

// Subscriptions implements eventgrid.Store.
func (s subscriptionStore) Subscriptions(ctx context.Context) ([]eventgrid.Subscription, error) {
	text, err := s.store.Setting(ctx, subscriptionsSetting)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return readSubscriptions(text)
}

// ChangeSubscriptions implements eventgrid.Store.
func (s subscriptionStore) ChangeSubscriptions(ctx context.Context, change func([]eventgrid.Subscription) ([]eventgrid.Subscription, error)) error {
	return s.store.UpdateSetting(ctx, subscriptionsSetting, func(text []byte) ([]byte, error) {
		all, err := readSubscriptions(text)
		if err != nil {
			return nil, err
		}
		if all, err = change(all); err != nil {
			return nil, err
		}
		slices.SortFunc(all, func(a, b eventgrid.Subscription) int { return strings.Compare(a.Name, b.Name) })
		return json.Marshal(all)
	})
}

func newSubscriptions(n *Node) (*eventgrid.Service, error) {
	return eventgrid.New(eventgrid.Config{
		Hub: n.cfg.Hostname, Base: strings.TrimSuffix(n.baseURL(), "/"), Store: subscriptionStore{n.State}, Log: n.facts,
		Want:   func(sources ...iot.MessageSource) { n.interest.Want(subscriptionsSetting, sources...) },
		Report: n.meter.Event, Logger: n.log,
	})
}
