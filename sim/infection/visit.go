package infection

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sim/traffic"
)

// Hub is where credentials are tried.
type Hub struct {
	// Device is the board's identity as a thief knows it: connection string or certificate, and whom to trust. False: the board has none yet.
	Device func() (device.Config, bool)
	// Dial connects to the hub from somewhere in the world, such as [Loopback].
	Dial func(ctx context.Context, from netip.Addr) (net.Conn, error)
}

// Loopback is the way to a hub on this machine's loopback: who is far away comes from an address in 127.0.0.0/8 that stands for his own, so that the hub sees
// different places. Boards that dial by themselves come from 127.0.0.1.
func Loopback(hub string) func(ctx context.Context, from netip.Addr) (net.Conn, error) {
	return func(ctx context.Context, from netip.Addr) (net.Conn, error) {
		h := chance.Seed(1, from.String())
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+h%250), byte(h>>8), byte(1+h>>16%250))}}
		return d.DialContext(ctx, "tcp", hub)
	}
}

const (
	typicalConnect = 900 * time.Millisecond
	stay           = time.Second // of a thief
)

var errNothing = errors.New("there is nothing to steal yet")

// visit is somebody at the hub's door.
func (r *run) visit(v *traffic.Visit) error {
	cfg, ok := r.cfg.Hub.Device()
	if !ok {
		return errNothing
	}
	cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return r.cfg.Hub.Dial(ctx, v.Remote) }
	cfg.Address, cfg.Proxy = "hub:8883", nil
	cfg.Twin, cfg.Method, cfg.Receive, cfg.State = nil, nil, nil, nil
	if v.Refused {
		var err error
		if cfg.ConnectionString, err = r.guess(cfg.ConnectionString, v); err != nil {
			return err
		}
	}
	c, err := device.New(cfg)
	if err != nil {
		return err
	}
	var s *device.Session
	defer func() {
		if s != nil {
			s.Close()
		}
	}()
	err = r.await(typicalConnect, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		s, err = c.Connect(ctx)
		return err
	})
	if _, refused := errors.AsType[*device.RefusedError](err); refused && v.Refused {
		return nil
	}
	if err == nil {
		r.sleep(stay)
	}
	return err
}

// guess is a connection string with a key that is none.
func (r *run) guess(own string, v *traffic.Visit) (string, error) {
	var host, id string
	for part := range strings.SplitSeq(own, ";") {
		if h, ok := strings.CutPrefix(part, "HostName="); ok {
			host = h
		}
		if d, ok := strings.CutPrefix(part, "DeviceId="); ok {
			id = d
		}
	}
	if host == "" || id == "" {
		return "", errors.New("infection: the stolen identity has no HostName and DeviceId")
	}
	if v.ID != v.Target() { // many identities
		id = v.ID
	}
	key := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%032x", chance.Seed(r.cfg.Seed, v.ID+v.At.String())))
	return fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", host, id, key), nil
}
