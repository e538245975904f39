package quickstart

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/board/driver"
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/network"
	"github.com/vauban-iot/vauban/rtos"
	"github.com/vauban-iot/vauban/sdk/device"
)

// Flags of run.events.
const (
	evNetwork uint32 = 1 << iota // the IP thread has an address
	evRenew                      // and is to look again whether it has
	evOnline                     // a connection was made
	evLost                       // it is over
	evTick                       // telemetry is due
)

// Typical latencies in virtual time.
const (
	typicalAddress   = 800 * time.Millisecond
	typicalSNTP      = 40 * time.Millisecond
	typicalProvision = 2500 * time.Millisecond
	typicalConnect   = 900 * time.Millisecond
	typicalRequest   = 60 * time.Millisecond
)

// How long an answer may take, by the machine's clock.
const (
	addressTime   = 60 * time.Second
	sntpTime      = 15 * time.Second
	provisionTime = 2 * time.Minute
	requestTime   = time.Minute
)

// ErrOffline is returned while there is no connection.
var ErrOffline = errors.New("quickstart: the board is not connected")

// run is the firmware between two resets.
type run struct {
	*Firmware
	k       *rtos.Kernel
	threads [4]rtos.Thread
	events  rtos.EventFlags
	timer   rtos.Timer
	inbox   *firmware.Inbox[push]
	backoff firmware.Backoff

	assigned device.Assignment // by the provisioning service
	found    bool
	session  *device.Session // nil: there is none
	sessions uint64
	reason   error // why a session is to end that has not ended by itself

	interval time.Duration
	clockDue time.Duration // of the board's uptime
	led      bool
	sensors  struct {
		climate  driver.HTS221
		pressure driver.LPS22HB
		field    driver.LIS3MDL
		motion   driver.LSM6DSL
	}
	turn int // of the four messages
}

func (r *run) printf(format string, args ...any) {
	fmt.Fprintf(r.board.Console, strings.ReplaceAll(format, "\n", "\r\n"), args...)
}

func (r *run) sleep(d time.Duration) { firmware.Must(r.k.Sleep(firmware.Ticks(r.k, d))) }

func (r *run) set(flags uint32) { firmware.Must(r.events.Set(flags, rtos.Or)) }

// wait waits for one of flags and clears it.
func (r *run) wait(flags uint32) (got uint32) {
	firmware.Must(r.events.Get(flags, rtos.OrClear, &got, rtos.WaitForever))
	return got
}

// await is Caller.Await with a limit by the machine's clock.
func (r *run) await(typical, limit time.Duration, call func(ctx context.Context) error) error {
	return r.caller.Await(typical, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return call(ctx)
	})
}

// failed tells of what did not work, and waits before the next attempt.
func (r *run) failed(what string, err error) {
	wait := r.backoff.Next()
	r.backoffs++
	r.printf("ERROR: %s: %v\n\tagain in %v\n", what, err, wait.Round(100*time.Millisecond))
	r.tell(Event{Kind: Lost, Err: fmt.Errorf("%s: %w", what, err)})
	r.sleep(wait)
}

// ip is the thread that has the network.
func (r *run) ip(uint32) {
	retry := r.backoff
	retry.Seed++
	for {
		err := r.await(typicalAddress, addressTime, r.cfg.Network.Ready)
		if err != nil {
			wait := retry.Next()
			r.printf("ERROR: the network: %v\n\tagain in %v\n", err, wait.Round(100*time.Millisecond))
			r.sleep(wait)
			continue
		}
		retry.Reset()
		r.set(evNetwork)
		r.watch()
	}
}

// clockEvery is how often the time is asked for once it is known: crystals drift.
const clockEvery = time.Hour

// watch waits until the network is to be looked at again, and meanwhile keeps the clock right. In real time it looks at the cable, too, as a
// driver is told of it: TCP would take minutes to notice. A facade ends connections itself.
func (r *run) watch() {
	if r.clockDue == 0 {
		r.clockDue = r.board.Uptime() + clockEvery
	}
	for {
		wait := r.clockDue - r.board.Uptime()
		if r.board.Config().RealTime {
			wait = min(wait, time.Second)
		}
		got := uint32(0)
		if r.events.Get(evRenew, rtos.OrClear, &got, firmware.Ticks(r.k, wait)) == rtos.Success {
			return
		}
		if r.session != nil && !r.cfg.Network.Up() {
			r.lose(network.ErrDown)
		}
		if servers := r.cfg.Network.Settings().TimeServers; r.board.Uptime() >= r.clockDue && r.board.RTC.Valid() && len(servers) != 0 {
			if t, err := r.askTime(servers[0]); err == nil {
				r.board.RTC.Set(t)
			}
			r.clockDue = r.board.Uptime() + clockEvery
		}
	}
}

// lose ends the present session.
func (r *run) lose(why error) {
	if r.reason == nil {
		r.reason = why
	}
	r.set(evLost)
}

// main is the thread that starts everything, and keeps the connection. What takes room on the Go stack stands in functions of its own: threads
// spend most of their time here and in connect, and a fleet has many of them.
func (r *run) main(uint32) {
	r.start()
	for r.clock() != nil {
	}
	for {
		r.again(r.connect())
		r.set(evRenew)
		r.wait(evNetwork)
	}
}

func (r *run) start() {
	r.printf("\nVauban getting started %s on %s, last reset: %v\n\n", Version, r.board.Config().Profile.Name, r.board.Reason())
	r.open()
	r.printf("Waiting for the network\n")
	r.wait(evNetwork)
	s := r.cfg.Network.Settings()
	r.printf("\tIP address: %s\n\tRouter: %s\n\tDNS server: %s\nSUCCESS: the network is ready\n\n", list(s.Addresses), list(s.Routers), list(s.NameServers))
	r.tell(Event{Kind: NetworkReady, Text: list(s.Addresses)})
}

// again tells why a connection ended, and waits as long as that asks for.
func (r *run) again(why error) {
	if errors.Is(why, device.ErrTokenDue) {
		r.printf("The token is due: connecting again\n")
		return
	}
	r.failed("the connection", why)
}

func list[T fmt.Stringer](all []T) string {
	if len(all) == 0 {
		return "none"
	}
	var s []string
	for _, x := range all {
		s = append(s, x.String())
	}
	return strings.Join(s, ", ")
}

// clock asks a time server.
func (r *run) clock() error {
	servers := r.cfg.Network.Settings().TimeServers
	if len(servers) == 0 {
		r.printf("No time server is known: the clock is not set\n\n")
		return nil
	}
	r.printf("Asking for the time\n\tSNTP server: %s\n", servers[0])
	t, err := r.askTime(servers[0])
	if err != nil {
		r.failed("SNTP", err)
		return err
	}
	r.board.RTC.Set(t)
	r.backoff.Reset()
	text := r.board.RTC.Time().UTC().Format(time.RFC3339)
	r.printf("\tTime: %s\nSUCCESS: the clock is set\n\n", text)
	r.tell(Event{Kind: ClockSet, Text: text})
	return nil
}

// connect is one connection from its beginning to its end; it returns why it ended.
func (r *run) connect() error {
	if err := r.provision(); err != nil {
		return err
	}
	c := &connection{line: line{dial: r.cfg.Network.Dial}}
	defer r.end(c) // also when the board is reset
	if err := r.dial(c); err != nil {
		return err
	}
	r.wait(evLost)
	return r.lost(c)
}

// connection is one to the hub.
type connection struct {
	line    line
	session *device.Session // nil: it did not come about
}

func (r *run) end(c *connection) {
	r.session = nil
	c.line.Cut()
	if c.session != nil {
		c.session.Close()
	}
}

// dial makes the connection, and begins what it is for.
func (r *run) dial(c *connection) error {
	text := r.cfg.ConnectionString
	if text == "" {
		text = r.assigned.ConnectionString()
	}
	r.sessions++ // from now on the end of an earlier one is none of this one's
	number := r.sessions
	var lost uint32
	_ = r.events.Get(evLost, rtos.OrClear, &lost, rtos.NoWait) // NoEvents: it was not set
	cfg := r.Firmware.client(text)
	cfg.Dial = c.line.Dial
	cfg.Method, cfg.Twin = r.method, r.changed
	cfg.State = func(error) { r.ended(number, &c.line) }
	d, err := device.New(cfg)
	if err != nil {
		return err
	}
	hub, id, _ := d.ID()
	r.printf("Connecting to the hub\n\tHub: %s\n\tDevice id: %s\n\tModel id: %s\n", hub, id, Model)
	err = r.await(typicalConnect, requestTime, func(ctx context.Context) (err error) {
		c.session, err = d.Connect(ctx)
		return err
	})
	if err != nil {
		if _, ok := errors.AsType[*device.RefusedError](err); ok {
			r.found = false // perhaps the provisioning service knows better
		}
		return err
	}
	r.printf("SUCCESS: connected to the hub\n\n")
	r.tell(Event{Kind: Connected, Text: hub + "/" + id})
	r.session, r.reason = c.session, nil
	r.hub, r.id = hub, id
	r.begin()
	return nil
}

// lost ends what a connection was for, and says why it is over.
func (r *run) lost(c *connection) error {
	firmware.Must(r.timer.Deactivate())
	r.session = nil
	r.printf("The connection is lost\n")
	if r.reason != nil {
		return r.reason
	}
	return c.session.Err()
}

// over is the interrupt of a session that ended.
func (r *run) over(session uint64) {
	if session == r.sessions {
		r.set(evLost)
	}
}

func (r *run) provision() error {
	if r.found || r.cfg.ConnectionString != "" {
		return nil
	}
	reg := r.registration()
	host := reg.Host
	if host == "" {
		host = "global.azure-devices-provisioning.net"
	}
	r.printf("Provisioning\n\tDPS: %s\n\tID scope: %s\n\tRegistration id: %s\n", host, reg.IDScope, reg.ID)
	err := r.await(typicalProvision, provisionTime, func(ctx context.Context) (err error) {
		r.assigned, err = device.Provision(ctx, reg)
		return err
	})
	if err != nil {
		return fmt.Errorf("provisioning: %w", err)
	}
	r.found = true
	r.printf("SUCCESS: assigned to %s as %s\n\n", r.assigned.Hub, r.assigned.DeviceID)
	r.tell(Event{Kind: Provisioned, Text: r.assigned.Hub + "/" + r.assigned.DeviceID})
	return nil
}

// refused reports that the hub answered, and that its answer was no.
func refused(err error) bool {
	_, ok := errors.AsType[*device.TwinError](err)
	return ok
}

// request does something in the present session. What fails otherwise than by the session's end ends it, but for what the hub does not want.
func (r *run) request(call func(ctx context.Context, s *device.Session) error) error {
	s := r.session
	if s == nil {
		return ErrOffline
	}
	err := r.await(typicalRequest, requestTime, func(ctx context.Context) error { return call(ctx, s) })
	if err != nil && r.session == s && !refused(err) && !errors.Is(err, device.ErrTooLarge) {
		if errors.Is(err, device.ErrEnded) {
			err = s.Err()
		}
		r.lose(err)
	}
	return err
}
