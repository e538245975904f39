package dns

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/agent/collect/netnstest"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

func query(t testing.TB, name string, kind dnsmessage.Type, response bool) []byte {
	t.Helper()
	n, err := dnsmessage.NewName(name)
	if err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true, Response: response}, Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Go's own resolver asks a server in the other namespace; other traffic is not looked at.
func TestWatcher(t *testing.T) {
	t.Parallel()
	p := netnstest.New(t)
	var w Watcher
	var mu sync.Mutex
	seen := map[secmsg.DNSQuery]int{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Here.Do(t, func() error {
			return w.Run(ctx, func(o collect.Observation) {
				mu.Lock()
				defer mu.Unlock()
				if o.Event != "Dns" || o.Hits != 1 || o.Key == "" {
					t.Errorf("observation %+v", o)
				}
				seen[o.Item.(secmsg.DNSQuery)]++
			})
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	for deadline := time.Now().Add(10 * time.Second); w.Source() != "AF_PACKET"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	for _, server := range []string{p.There.IPv4, p.There.IPv6} {
		p.There.ListenPacket(t, "udp", net.JoinHostPort(server, "53"))
		other := p.Here.Dial(t, "udp", net.JoinHostPort(server, "54"))
		if _, err := other.Write(query(t, "not.dns.example.", dnsmessage.TypeA, false)); err != nil {
			t.Fatal(err)
		}
		c := p.Here.Dial(t, "udp", net.JoinHostPort(server, "53"))
		for _, b := range [][]byte{[]byte("no query"), query(t, "answer.example.", dnsmessage.TypeA, true), query(t, "C2.Example.ORG.", dnsmessage.TypeTXT, false), query(t, "pool.example.", dnsmessage.TypeAAAA, false)} {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		// A query from there to us is not ours.
		p.Here.ListenPacket(t, "udp", net.JoinHostPort(map[string]string{p.There.IPv4: p.Here.IPv4, p.There.IPv6: p.Here.IPv6}[server], "53"))
	}
	c := p.There.Dial(t, "udp", net.JoinHostPort(p.Here.IPv4, "53"))
	if _, err := c.Write(query(t, "theirs.example.", dnsmessage.TypeA, false)); err != nil {
		t.Fatal(err)
	}
	want := map[secmsg.DNSQuery]bool{}
	for _, server := range []string{p.There.IPv4, p.There.IPv6} {
		want[secmsg.DNSQuery{Name: "c2.example.org", Type: "TXT", Server: server, HitCount: 1}] = true
		want[secmsg.DNSQuery{Name: "pool.example", Type: "AAAA", Server: server, HitCount: 1}] = true
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		n := len(seen)
		mu.Unlock()
		if n >= len(want) || time.Now().After(deadline) {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for q := range want {
		if seen[q] != 1 {
			t.Errorf("%+v was seen %d times", q, seen[q])
		}
	}
	if len(seen) != len(want) {
		t.Errorf("seen %+v", seen)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 53, 0, 0, 0, 0}, query(f, "a.example.", dnsmessage.TypeA, false)...))
	f.Add(make([]byte, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, payload, ok := udp(b)
		if ok && (!to.IsValid() || len(payload) > len(b)-28) {
			t.Errorf("%v, %d bytes of %d", to, len(payload), len(b))
		}
		if q, ok := parseQuery(payload); ok && (q.Name == "" || len(q.Name) > 800) {
			t.Errorf("%+v", q)
		}
	})
}
