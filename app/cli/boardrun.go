package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/vauban-iot/vauban/app/desk"
	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/firmware/quickstart"
	"github.com/vauban-iot/vauban/board/network/secure"
	"github.com/vauban-iot/vauban/internal/atomicfile"
	"github.com/vauban-iot/vauban/sdk/device"
	"github.com/vauban-iot/vauban/sdk/service"
	"github.com/vauban-iot/vauban/wire/connstr"
)

// boardFlags are what `vauban board run` is told.
type boardFlags struct {
	data, device                          string
	connectionString, ca, address         string
	scope, registration, dpsHost, hubHost string
	key, groupKey, cert, certKey          string
	network, speed, profile, trace, epoch string
	duration, interval                    time.Duration
	security                              bool
	seed                                  uint64
}

func boardRun() *cobra.Command {
	var b boardFlags
	var out output
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a virtual STM32 board until it is interrupted",
		Long: `Run a virtual B-L475E-IOT01A with the getting-started firmware: it asks for the time, provisions
itself, connects over MQTT and TLS, sends the values of its sensors, obeys the command setLedState
and the property telemetryInterval, and comes back whenever it lost the connection.

Without further flags it is a device of the installation whose data folder --data names, which is
made when it does not exist. With --connection-string, or with --id-scope, --registration-id and a
key or certificate, it may be another installation's; --ca then names its CA.

What the board writes on its console comes out here. On standard input, a line r presses the reset
button, and a line n pulls the network cable or puts it in again. When the firmware crashes, the
report is printed and the exit code is 3.`,
		Example: `  vauban board run
  vauban board run --device lamp-1 --interval 2s --network netstack
  vauban board run --speed max --duration 24h --seed 7 --trace day.trx
  vauban board run --connection-string "HostName=hub.example;DeviceId=..." --ca root.pem
  vauban board run --id-scope 0ne --registration-id lamp-1 --group-key "$KEY" --output json`,
		Args: cobra.NoArgs,
	}
	dataFlag(c, &b.data)
	f := c.Flags()
	f.StringVar(&b.device, "device", "stm32l475-1", "the device's `ID`, when the installation is the one of --data")
	f.StringVar(&b.connectionString, "connection-string", "", "the device's own, with its key or x509=true")
	f.StringVar(&b.scope, "id-scope", "", "id scope: the board finds its hub through provisioning")
	f.StringVar(&b.registration, "registration-id", "", "`ID` under which it registers")
	f.StringVar(&b.key, "key", "", "base64 key of its enrollment")
	f.StringVar(&b.groupKey, "group-key", "", "base64 key of its enrollment group")
	f.StringVar(&b.cert, "cert", "", "PEM `file` with its certificate")
	f.StringVar(&b.certKey, "cert-key", "", "PEM `file` with the certificate's key")
	f.StringVar(&b.dpsHost, "dps-host", "", "`name` of the provisioning service (default: the installation's)")
	f.StringVar(&b.hubHost, "hub-host", "", "`name` of the hub it will be assigned to (default: the installation's, or as --dps-host)")
	f.StringVar(&b.ca, "ca", "", "PEM `file` with who may vouch for the services (default: the installation's, or the system's)")
	f.StringVar(&b.address, "address", "", "`host:port` where this machine reaches MQTT (default: the installation's, or port 8883)")
	f.StringVar(&b.network, "network", "facade", `"facade": connections without packets; "netstack": TCP/IP on a virtual switch`)
	f.StringVar(&b.speed, "speed", "real", `"real" time, or "max": virtual time, as fast as possible; needs --duration`)
	f.StringVar(&b.profile, "tls", string(secure.Modern), `what its TLS can do: "modern", "azure-iot" (0xC027) or "getting-started" (0x003C)`)
	f.DurationVar(&b.duration, "duration", 0, "how long it runs, by its own clock; 0: until it is interrupted")
	f.DurationVar(&b.interval, "interval", quickstart.DefaultInterval, "between messages, until the twin says otherwise")
	f.StringVar(&b.epoch, "epoch", "", "the world's `time` when it begins, as 2031-02-03T04:05:06Z (default: now; with --speed max, so that it ends now)")
	f.BoolVar(&b.security, "security", false, "run the security module, too: what the board's network card saw is told to Defender")
	f.Uint64Var(&b.seed, "seed", 1, "of all that is random on the board")
	f.StringVar(&b.trace, "trace", "", "`file` for what the kernel did since the last reset, in TraceX's format")
	c.MarkFlagsMutuallyExclusive("connection-string", "id-scope")
	c.MarkFlagsMutuallyExclusive("key", "group-key", "cert")
	c.MarkFlagsRequiredTogether("id-scope", "registration-id")
	c.MarkFlagsRequiredTogether("cert", "cert-key")
	c.MarkFlagsMutuallyExclusive("device", "connection-string")
	c.MarkFlagsMutuallyExclusive("device", "id-scope")
	out.register(c)
	for name, words := range map[string][]string{"network": {"facade", "netstack"}, "speed": {"real", "max"}, "tls": {"modern", "azure-iot", "getting-started"}} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := out.check(); err != nil {
			return err
		}
		cfg, err := b.config(c)
		if err != nil {
			return err
		}
		t := &terminal{w: c.OutOrStdout(), json: out == "json", name: cfg.Name}
		cfg.Console, cfg.LED, cfg.Firmware.Event = t.console, t.led, t.event
		return b.run(c, cfg, t)
	}
	return c
}

// config checks the flags and finds the services.
func (b *boardFlags) config(c *cobra.Command) (desk.Config, error) {
	cfg := desk.Config{Seed: b.seed, Time: b.duration, Packets: b.network == "netstack", Fast: b.speed == "max", Trace: b.trace != "", Security: b.security}
	profile, err := secure.ParseProfile(b.profile)
	switch {
	case err != nil:
		return cfg, misuse("--tls: %v", err)
	case b.network != "facade" && b.network != "netstack":
		return cfg, misuse("unknown network %q (want facade or netstack)", b.network)
	case b.speed != "real" && b.speed != "max":
		return cfg, misuse("unknown speed %q (want real or max)", b.speed)
	case cfg.Fast && cfg.Packets:
		return cfg, misuse("--speed max needs --network facade: the packets of a netstack take real time")
	case cfg.Fast && b.duration <= 0:
		return cfg, misuse("--speed max needs --duration: virtual time has no end of its own")
	case b.duration < 0:
		return cfg, misuse("--duration is not negative")
	case b.device == "":
		return cfg, misuse("--device is the ID of a device, such as lamp-1")
	case b.interval < time.Second || b.interval%time.Second != 0:
		return cfg, misuse("--interval is in whole seconds, and at least one")
	case b.scope == "" && (b.key != "" || b.groupKey != "" || b.dpsHost != "" || b.hubHost != ""):
		return cfg, misuse("--key, --group-key, --dps-host and --hub-host go with --id-scope")
	case b.scope != "" && b.key == "" && b.groupKey == "" && b.cert == "":
		return cfg, misuse("--id-scope needs one of --key, --group-key and --cert")
	case !isBase64(b.key) || !isBase64(b.groupKey):
		return cfg, misuse("--key and --group-key are base64")
	}
	if _, _, err := net.SplitHostPort(b.address); b.address != "" && err != nil {
		return cfg, misuse("--address is host:port, such as localhost:8883: %v", err)
	}
	if b.cert != "" { // a board would try it again and again
		if _, err := tls.LoadX509KeyPair(b.cert, b.certKey); err != nil {
			return cfg, fmt.Errorf("the certificate cannot be used: %w", err)
		}
	}
	if b.trace != "" {
		if err := writable(b.trace); err != nil {
			return cfg, err
		}
	}
	if b.epoch != "" {
		if cfg.Epoch, err = time.Parse(time.RFC3339, b.epoch); err != nil {
			return cfg, misuse("--epoch is a time such as 2031-02-03T04:05:06Z: %v", err)
		}
		if cfg.Epoch.Year() < 2000 {
			return cfg, misuse("--epoch: the clock of a board begins with the year 2000")
		}
	}
	cfg.Firmware = quickstart.Config{Interval: b.interval, TLS: profile, CertificateFile: b.cert, KeyFile: b.certKey}
	if b.connectionString != "" {
		return cfg, b.atHub(&cfg)
	}
	if b.scope != "" && b.dpsHost != "" {
		return cfg, b.atService(&cfg)
	}
	r, err := dialRemote(b.data)
	if err != nil {
		return cfg, err
	}
	return cfg, b.atInstallation(c.Context(), &cfg, r)
}

func isBase64(text string) bool {
	_, err := base64.StdEncoding.DecodeString(text)
	return err == nil
}

// atHub is a device whose hub is known.
func (b *boardFlags) atHub(cfg *desk.Config) error {
	cs, err := connstr.Parse(b.connectionString)
	if err != nil {
		return misuse("--connection-string: %v", err)
	}
	host := cs.HostName
	if cs.GatewayHostName != "" {
		host = cs.GatewayHostName
	}
	cfg.Name, cfg.Firmware.ConnectionString = cs.DeviceID, b.connectionString
	cfg.Hosts = []desk.Host{desk.Resolve(host, b.address)}
	return b.roots(cfg, nil)
}

// atService is a device that provisions itself somewhere.
func (b *boardFlags) atService(cfg *desk.Config) error {
	cfg.Name = b.registration
	cfg.Firmware.Registration = b.provision(b.dpsHost)
	cfg.Hosts = []desk.Host{desk.Resolve(b.dpsHost, b.address)}
	if b.hubHost != "" && b.hubHost != b.dpsHost {
		cfg.Hosts = append(cfg.Hosts, desk.Resolve(b.hubHost, b.address))
	}
	return b.roots(cfg, nil)
}

func (b *boardFlags) provision(host string) device.Registration {
	return device.Registration{Host: host, IDScope: b.scope, ID: b.registration, Key: b.key, GroupKey: b.groupKey, CertificateFile: b.cert, KeyFile: b.certKey}
}

// atInstallation is a device of the installation of --data.
func (b *boardFlags) atInstallation(ctx context.Context, cfg *desk.Config, r *remote) error {
	if b.address == "" {
		b.address = net.JoinHostPort(r.conn.Hub.Hostname, strconv.Itoa(r.conn.Ports.MQTT))
	}
	for _, name := range []string{r.conn.Hub.Hostname, r.conn.DPS.Hostname, b.hubHost} {
		if name != "" && !slices.ContainsFunc(cfg.Hosts, func(h desk.Host) bool { return h.Name == name }) {
			cfg.Hosts = append(cfg.Hosts, desk.Host{Name: name, Address: b.address})
		}
	}
	if b.scope != "" {
		cfg.Name, cfg.Firmware.Registration = b.registration, b.provision(r.conn.DPS.Hostname)
		return b.roots(cfg, r)
	}
	cfg.Name = b.device
	hub, err := r.hub()
	if err != nil {
		return err
	}
	d, err := hub.Device(ctx, b.device)
	if e, ok := errors.AsType[*service.Error](err); ok && e.Status == http.StatusNotFound {
		d, err = hub.CreateDevice(ctx, service.Device{ID: b.device})
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", b.device, err)
	}
	if b.cert == "" && d.Authentication.SymmetricKey.PrimaryKey == "" {
		return fmt.Errorf("device %s proves itself with a certificate: name it with --cert and --cert-key", b.device)
	}
	cfg.Firmware.ConnectionString = "HostName=" + r.conn.Hub.Hostname + ";DeviceId=" + b.device + ";x509=true"
	if b.cert == "" {
		cfg.Firmware.ConnectionString = "HostName=" + r.conn.Hub.Hostname + ";DeviceId=" + b.device + ";SharedAccessKey=" + d.Authentication.SymmetricKey.PrimaryKey
	}
	return b.roots(cfg, r)
}

// roots are who may vouch for the services: of --ca, or the installation's.
func (b *boardFlags) roots(cfg *desk.Config, r *remote) error {
	switch {
	case b.ca != "":
		text, err := os.ReadFile(b.ca)
		if err != nil {
			return fmt.Errorf("the CA cannot be read: %w", err)
		}
		cfg.Firmware.Roots = x509.NewCertPool()
		if !cfg.Firmware.Roots.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s holds no certificate", b.ca)
		}
	case r != nil:
		cfg.Firmware.Roots = r.tls.RootCAs
	}
	return nil
}

func (b *boardFlags) run(c *cobra.Command, cfg desk.Config, t *terminal) (err error) {
	d, err := desk.Open(c.Context(), cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	t.desk = d
	t.print("start", map[string]any{"firmware": quickstart.Name, "version": quickstart.Version, "network": b.network, "speed": b.speed, "seed": b.seed}, "")
	reading, stop := context.WithCancel(c.Context())
	defer stop()
	go t.read(reading, c.InOrStdin())
	err = d.Run(c.Context())
	if crash, ok := errors.AsType[*board.CrashError](err); ok {
		t.print("crash", map[string]any{"report": crash.Report}, crash.Report.String())
		err = foundError{err}
	}
	t.end()
	if b.trace != "" {
		if e := atomicfile.Write(b.trace, d.Trace(), 0o644); e != nil {
			err = errors.Join(err, fmt.Errorf("the trace cannot be written: %w", e))
		}
	}
	return err
}

// terminal shows what a board does.
type terminal struct {
	w    io.Writer
	json bool
	name string
	desk *desk.Board // set before the board runs

	mu                    sync.Mutex
	line                  []byte // of the console, not yet whole
	sent, connected, lost uint64
}

// maxLine is how long a line of the console gets before it is shown as it is.
const maxLine = 4096

// print shows something that happened on the board, beside its console. Only the board's goroutine knows its time.
func (t *terminal) print(event string, fields map[string]any, text string) {
	if t.json && t.desk != nil {
		fields["time"], fields["uptime"] = t.desk.Time().UTC(), t.desk.Uptime().Seconds()
	}
	t.show(event, fields, text)
}

// show shows something: its fields as JSON, or text to people. Any goroutine may.
func (t *terminal) show(event string, fields map[string]any, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.json {
		if text != "" {
			fmt.Fprintln(t.w, strings.TrimRight(text, "\n"))
		}
		return
	}
	fields["event"], fields["board"] = event, t.name
	line, _ := json.Marshal(fields) // of strings, numbers and times: it always marshals
	fmt.Fprintf(t.w, "%s\n", line)
}

// console takes what the board writes, in pieces of any size.
func (t *terminal) console(text []byte) {
	if !t.json {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.line = append(t.line, text...)
		n := whole(t.line)
		fmt.Fprintf(t.w, "%s", harmless(t.line[:n]))
		t.line = append(t.line[:0], t.line[n:]...)
		return
	}
	for _, c := range text {
		if c != '\n' {
			if t.line = append(t.line, c); len(t.line) < maxLine {
				continue
			}
		}
		if line := strings.TrimRight(string(t.line), "\r"); line != "" {
			t.print("console", map[string]any{"text": strings.ToValidUTF8(line, "?")}, "")
		}
		t.line = t.line[:0]
	}
}

// whole is how much of b is there up to a character whose bytes are still on the line.
func whole(b []byte) int {
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax+1); i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

// harmless is what a board wrote without what would command a terminal: names of commands and errors in it are a hub's.
func harmless(text []byte) []byte {
	return bytes.Map(func(r rune) rune {
		switch r {
		case '\r':
			return -1
		case '\n', '\t':
			return r
		}
		return inert(r)
	}, text)
}

func (t *terminal) led(on bool) {
	word := map[bool]string{true: "on", false: "off"}[on]
	t.print("led", map[string]any{"led": "LED2", "pin": "PB14", "on": on}, "[LED2 on PB14 is "+word+"]")
}

// event takes what the firmware tells. On the console it says the same in its own words.
func (t *terminal) event(e quickstart.Event) {
	fields := map[string]any{"text": e.Text}
	switch e.Kind {
	case quickstart.Sent:
		t.sent++
		fields = map[string]any{"body": json.RawMessage(e.Text)}
	case quickstart.Connected:
		t.connected++
	case quickstart.Lost:
		t.lost++
		fields = map[string]any{"error": e.Err.Error()}
	case quickstart.Command:
		fields["status"] = e.Status
	case quickstart.LED:
		return // the pin itself is watched
	}
	t.print(e.Kind.String(), fields, "")
}

func (t *terminal) end() {
	d := t.desk
	t.print("end", map[string]any{"sent": t.sent, "connected": t.connected, "lost": t.lost, "resets": d.Resets(), "milliampereHours": d.Charge()},
		fmt.Sprintf("\n%s ran for %v: messages %d, connections %d, losses %d, resets %d, %.2f mAh", t.name, d.Uptime().Round(time.Millisecond), t.sent, t.connected, t.lost, d.Resets(), d.Charge()))
}

// read does what lines of standard input say.
func (t *terminal) read(ctx context.Context, r io.Reader) {
	in := bufio.NewReader(r)
	for ctx.Err() == nil {
		line, long, err := in.ReadLine()
		for skip := long; skip && err == nil; { // it means nothing, and those after it may
			_, skip, err = in.ReadLine()
		}
		if err != nil {
			return
		}
		switch strings.TrimSpace(string(line)) {
		case "r":
			t.desk.Reset()
		case "n":
			word := map[bool]string{true: "in", false: "out"}[t.desk.Plug()]
			t.show("cable", map[string]any{"cable": word}, "[the cable is "+word+"]")
		}
	}
}
