package azsphere

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sdk/sphere"
)

// account is what is kept between commands, in one file that nobody but its owner reads.
type account struct {
	Current string              `json:"current,omitempty"` // server of commands that name none
	Servers map[string]*session `json:"servers,omitempty"` // by address
	// Capabilities are capability files that go with servicing requests, by device id.
	Capabilities map[string][]byte `json:"capabilities,omitempty"`
}

// session is what is kept for one server.
type session struct {
	CA         string        `json:"ca,omitempty"` // PEM; empty: the system's roots
	User       string        `json:"user,omitempty"`
	Tokens     sphere.Tokens `json:"tokens,omitzero"`
	Tenant     string        `json:"tenant,omitempty"` // id of the selected one
	TenantName string        `json:"tenantName,omitempty"`
}

func (s *session) signedIn() bool { return s != nil && s.Tokens.Refresh != "" }

// folder is where the account file is: $XDG_CONFIG_HOME/azsphere, ~/.config/azsphere.
func folder() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder for settings: %w; set XDG_CONFIG_HOME", err)
	}
	return filepath.Join(dir, "azsphere"), nil
}

func accountFile() (string, error) {
	dir, err := folder()
	return filepath.Join(dir, "account.json"), err
}

// loadAccount reads the file; an account without anything when there is none.
func loadAccount() (*account, error) {
	a := &account{}
	path, err := accountFile()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds tokens and may be read by others (mode %04o); run: chmod 600 %s, log out and log in again", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, a); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; delete it and log in again", path, err)
	}
	return a, nil
}

// changeAccount reads, changes and writes the file while no other copy of this program does.
func changeAccount(change func(a *account) error) error {
	path, err := accountFile()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	a, err := loadAccount()
	if err != nil {
		return err
	}
	if err := change(a); err != nil {
		return err
	}
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// session returns the one of a server, which it adds.
func (a *account) session(url string) *session {
	if a.Servers == nil {
		a.Servers = map[string]*session{}
	}
	s := a.Servers[url]
	if s == nil {
		s = &session{}
		a.Servers[url] = s
	}
	return s
}

// keeper keeps the tokens for one server. It implements sphere.Keeper.
type keeper struct{ url string }

func (k keeper) Update(_ context.Context, change func(sphere.Tokens) (sphere.Tokens, error)) (kept sphere.Tokens, err error) {
	err = changeAccount(func(a *account) error {
		s := a.session(k.url)
		kept, err = change(s.Tokens)
		if err == nil {
			s.Tokens = kept
		}
		return err
	})
	return kept, err
}
