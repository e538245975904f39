package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

// switches are the kinds of tokens the hub refuses (hub-device §6.3). Every authentication asks, so what
// the store says is kept for a moment.
type switches struct {
	store *sqlstore.Store
	log   *slog.Logger

	mu      sync.Mutex
	refused access.Refused
	read    time.Time
}

const authenticationSetting = "hub/authentication"

// switchAge is how late a change made on another server is seen.
const switchAge = time.Second

// Refused implements api.AuthenticationStore.
func (s *switches) Refused(ctx context.Context) (access.Refused, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.read) < switchAge {
		return s.refused, nil
	}
	var refused access.Refused
	text, err := s.store.Setting(ctx, authenticationSetting)
	if err == nil {
		if err := json.Unmarshal(text, &refused); err != nil {
			return refused, fmt.Errorf("setting %s is damaged: %w", authenticationSetting, err)
		}
	} else if !fault.Is(err, fault.NotFound) {
		return refused, err
	}
	s.refused, s.read = refused, time.Now()
	return refused, nil
}

// PutRefused implements api.AuthenticationStore.
func (s *switches) PutRefused(ctx context.Context, refused access.Refused) error {
	text, err := json.Marshal(refused)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.store.PutSetting(ctx, authenticationSetting, text); err != nil {
		return err
	}
	s.refused, s.read = refused, time.Now()
	return nil
}

// policies reports whether tokens of policies are refused. When that cannot be known they are: a switch that
// was thrown to keep somebody out must not open by itself.
func (s *switches) policies() bool {
	refused, err := s.Refused(context.Background())
	if err != nil {
		s.log.Error("the authentication switches cannot be read; policy tokens are refused", "err", err)
		return true
	}
	return refused.Policies
}
