package node

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vauban-iot/vauban/access"
	"github.com/vauban-iot/vauban/access/ipfilter"
	"github.com/vauban-iot/vauban/central/api"
	"github.com/vauban-iot/vauban/central/ui"
	"github.com/vauban-iot/vauban/head/https"
	"github.com/vauban-iot/vauban/head/provisioning"
	"github.com/vauban-iot/vauban/head/rest"
	securityhead "github.com/vauban-iot/vauban/head/security"
	"github.com/vauban-iot/vauban/head/service"
	"github.com/vauban-iot/vauban/head/signin"
	"github.com/vauban-iot/vauban/head/sphere"
	"github.com/vauban-iot/vauban/head/upgrade"
	"github.com/vauban-iot/vauban/hub/eventgrid"
	"github.com/vauban-iot/vauban/pki"
)

// web is everything on the HTTPS port, told apart by path (design §5).
type web struct {
	n            *Node
	console      http.Handler
	api          http.Handler
	provisioning *provisioning.Head
	service      *service.Head
	defender     *securityhead.Head
	device       *https.Head
	metrics      http.Handler
	sockets      *upgrade.Head

	fromDevice, program access.Gate // from where devices and programs may come
}

func (n *Node) newWeb(hubGuard, dpsGuard *access.Guard, cas *authorities) (*web, error) {
	w := &web{n: n, service: service.New(n.hub, hubGuard, n.log), device: https.New(n.hub, n.log)}
	w.sockets = upgrade.New(map[string]func(*upgrade.Conn){
		"mqtt":      func(c *upgrade.Conn) { n.mqtt.Take(c) },
		"AMQPWSB10": func(c *upgrade.Conn) { n.amqp.Take(c) },
	}, n.log)
	device, program := n.network.gate(ipfilter.DeviceAPI), n.network.gate(ipfilter.ServiceAPI)
	w.fromDevice, w.program = device, program
	w.sockets.Admit(n.network.gate(ipfilter.Targets...)) // MQTT asks for the device's again
	w.service.Admit(program)
	w.service.Limit(n.throttles.limiter)
	w.service.Meter(n.meter)
	w.device.Admit(device)
	w.metrics = promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{})
	var err error
	w.provisioning, err = provisioning.New(provisioning.Config{Service: n.Provisioning, Guard: dpsGuard, AdmitDevice: device, AdmitService: program, Logger: n.log})
	if err != nil {
		return nil, err
	}
	w.api, err = api.New(api.Config{
		Token: n.settings.token, Host: n.cfg.Hostname, Alerts: n.State, Events: n.State, Groups: n.security.groups, Baselines: n.baselines, Recommendations: n.posture, Vulnerabilities: n.vulnerable.manager, Replay: n.detector.Replay, CertificateChanged: n.security.certificateChanged, DiagnosticsChanged: n.security.diagnosticsChanged, Feed: n.feed, Certificates: cas, Routing: n.routes, DeadLetters: deadLetters{n.State, n.routes}, Authentication: n.switches,
		Policies: n.policies, Network: n.network, Containment: n.hub, Privacy: n.security.privacy, Throttles: n.throttles, Subscriptions: n.subscriptions, Intel: n.feeds, Exports: n.exports, Tables: n.State, Provisioning: n.Provisioning, Logger: n.log,
		Detectors: n.security.detectors,
	})
	if err != nil {
		return nil, err
	}
	if w.defender, err = n.newDefenderREST(); err != nil {
		return nil, err
	}
	w.console, err = ui.New(ui.Config{
		Password: n.settings.password, Devices: n.hub, Alerts: n.State, Feed: n.feed, Containment: n.hub, Recommendations: n.posture,
		Groups: n.security.groups, GroupSizes: n.State, Privacy: n.security.privacy, Baselines: n.baselines, Intel: n.feeds, Detectors: n.security.detectors,
		Exports: n.exports, Events: n.State,
		Version: n.cfg.Version, Hostname: n.cfg.Hostname, Logger: n.log,
	})
	return w, err
}

// bodyTime is how long the Security Service and sign-in wait for a body: theirs are small, and anybody may send one.
const bodyTime = time.Minute

// guarded serves with h whom the IP filter admits.
func guarded(rw http.ResponseWriter, r *http.Request, admit access.Gate, h http.Handler) {
	if _, err := admit(r.RemoteAddr); err != nil {
		http.Error(rw, "this installation is not served to where you are", http.StatusUnauthorized)
		return
	}
	_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(bodyTime)) // always there on the server's connections
	h.ServeHTTP(rw, r)
}

// forDevices reports what devices call, old ones included: those of the Security Service are not.
func (w *web) forDevices(r *http.Request, segments []string) bool {
	return upgrade.Wants(r, segments) || w.provisioning.OwnsDevices(segments) || w.n.files != nil && w.n.files.head.Owns(r.URL.Path) ||
		https.Owns(r.Method, segments) || https.OwnsCall(r, segments) || https.OwnsModule(r, segments)
}

func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	segments := rest.Segments(r)
	first := ""
	if len(segments) > 0 {
		first = strings.ToLower(segments[0])
	}
	if pki.Old(r.TLS) && !w.forDevices(r, segments) {
		http.Error(rw, "this is served over TLS 1.3, or TLS 1.2 with AES-GCM or ChaCha20, only: what this client offers is taken from devices alone", http.StatusForbidden)
		return
	}
	switch {
	case upgrade.Wants(r, segments):
		w.sockets.ServeHTTP(rw, r)
	case first == "" || first == "console":
		w.console.ServeHTTP(rw, r)
	case first == "api":
		w.api.ServeHTTP(rw, r)
	case r.URL.Path == eventgrid.ValidationPath && r.Method == http.MethodGet:
		w.n.subscriptions.ServeHTTP(rw, r)
	case signin.Owns(r.URL.Path):
		guarded(rw, r, w.program, w.n.signin)
	case sphere.Owns(segments):
		guarded(rw, r, w.program, w.n.tenants)
	case securityhead.Owns(segments):
		guarded(rw, r, w.program, w.defender)
	case w.n.attestation.Owns(segments):
		guarded(rw, r, w.fromDevice, w.n.attestation)
	case w.provisioning.Owns(segments):
		w.provisioning.ServeHTTP(rw, r)
	case first == "healthz" || first == "readyz":
		// Whoever reaches this point is answered by a server whose stores are open.
		rw.Write([]byte("ok\n"))
	case first == "metrics":
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !w.n.isAdministrator(token) {
			rw.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(rw, "metrics need the API token of connection.json", http.StatusUnauthorized)
			return
		}
		w.metrics.ServeHTTP(rw, r)
	case w.n.files != nil && w.n.files.head.Owns(r.URL.Path):
		w.n.files.head.ServeHTTP(rw, r)
	case https.Owns(r.Method, segments), https.OwnsCall(r, segments), https.OwnsModule(r, segments):
		w.device.ServeHTTP(rw, r)
	default:
		w.service.ServeHTTP(rw, r) // refuses what is not its own in Azure's words
	}
}

// shutdownTimeout bounds how long requests may go on at a stop; direct methods can take minutes.
const shutdownTimeout = 5 * time.Second

func (w *web) run(ctx context.Context, ln net.Listener) error {
	cfg := w.n.PKI.SharedTLS()
	cfg.NextProtos = []string{"http/1.1"} // Azure's header spellings do not exist in HTTP/2
	srv := &http.Server{
		Handler:           w,
		TLSConfig:         cfg,
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(w.n.log.Handler(), slog.LevelDebug), // handshakes of strangers
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.ServeTLS(ln, "", "")
	if !stop() {
		<-done
		return nil
	}
	return err
}
