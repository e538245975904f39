package fleet

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vauban-iot/vauban/board/chance"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sim/infection"
	"github.com/vauban-iot/vauban/sim/traffic"
	"github.com/vauban-iot/vauban/wire/sas"
)

// attackNames are the attacks that a board can play.
var attackNames = sync.OnceValue(func() (names []string) {
	for _, a := range traffic.Attacks {
		if _, err := traffic.NewScript(a, 0); err == nil {
			names = append(names, string(a))
		}
	}
	return names
})

// infect gives a board the attacks of its plan.
func (u *unit) infect() error {
	for _, a := range u.plan.Attacks {
		cfg := infection.Config{
			Attack: traffic.Attack(a.Name), Seed: chance.Seed(u.plan.Seed, "infection "+a.Name), Onset: a.At,
			Stack: u.stack, World: u.run.world.beyond(u.plan), Uptime: u.hw.Uptime,
			Hub: &infection.Hub{Device: u.stolen, Dial: infection.Loopback(u.run.to.MQTT)},
		}
		if a.Address.IsValid() {
			cfg.Masters = []netip.Addr{a.Address}
		}
		i, err := infection.New(cfg)
		if err != nil {
			return err
		}
		u.infections = append(u.infections, i)
	}
	return nil
}

// stolen is the board's identity as a thief knows it.
func (u *unit) stolen() (device.Config, bool) {
	r, of := u.run, u.plan.Of
	key := base64.StdEncoding.EncodeToString(sas.DeriveKey(r.keys[of].Reveal(), u.plan.ID))
	tls := of.TLS.Config(r.to.Roots)
	return device.Config{ConnectionString: fmt.Sprintf("HostName=%s;DeviceId=%s;SharedAccessKey=%s", r.to.Hostname, u.plan.ID, key), TLS: tls}, u.did.Registrations > 0
}

// outside is everybody behind the router of the segment. Each board has a world of its own, so that none hears of what another one does.
type outside struct {
	mu     sync.Mutex
	worlds map[netip.Addr]*infection.World // by a board's address
}

func (o *outside) of(board netip.Addr) *infection.World {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.worlds[board]
}

// Connect implements network.Outside.
func (o *outside) Connect(from, to netip.AddrPort) (net.Conn, error) {
	if w := o.of(from.Addr()); w != nil {
		return w.Connect(from, to)
	}
	return nil, network.ErrNoAnswer
}

// Datagram implements network.Outside.
func (o *outside) Datagram(from, to netip.AddrPort, data []byte) []byte {
	if w := o.of(from.Addr()); w != nil {
		return w.Datagram(from, to, data)
	}
	return nil
}

// Echo implements network.Outside.
func (o *outside) Echo(from, to netip.Addr) bool {
	w := o.of(from)
	return w != nil && w.Echo(from, to)
}
