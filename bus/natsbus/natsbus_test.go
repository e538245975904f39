package natsbus_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/bus"
	"github.com/vauban-iot/vauban/bus/bustest"
	"github.com/vauban-iot/vauban/bus/natsbus"
)

func TestEmbedded(t *testing.T) {
	t.Parallel()
	dirs := map[testing.TB]string{}
	bustest.Run(t, func(t testing.TB, handle func(bus.Call)) bus.Bus {
		if dirs[t] == "" {
			dirs[t] = t.TempDir()
		}
		b, err := natsbus.Open(t.Context(), natsbus.Config{Dir: dirs[t], Handle: handle})
		if err != nil {
			t.Fatal(err)
		}
		b.SetAckWait(2 * time.Second) // after which another reader gets what one that was stopped held
		return b
	})
}

func TestExternal(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "nats-server")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	urls := map[testing.TB]string{}
	bustest.Run(t, func(t testing.TB, handle func(bus.Call)) bus.Bus {
		if urls[t] == "" {
			urls[t] = startServer(t, bin)
		}
		b, err := natsbus.Open(t.Context(), natsbus.Config{URL: urls[t], Handle: handle})
		if err != nil {
			t.Fatal(err)
		}
		b.SetAckWait(2 * time.Second) // after which another reader gets what one that was stopped held
		return b
	})
}

// startServer runs a NATS server of its own process on a free port and returns its address.
func startServer(t testing.TB, bin string) string {
	t.Helper()
	return startServerIn(t, bin, t.TempDir())
}

// startServerIn is startServer with JetStream in dir.
func startServerIn(t testing.TB, bin, dir string) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "nats.conf")
	text := "host: 127.0.0.1\nport: -1\nmax_payload: 5MB\njetstream { store_dir: \"" + dir + "\", sync_interval: always }\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", conf)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address := make(chan string, 1)
	ready := make(chan struct{})
	go func() {
		sc := bufio.NewScanner(stderr)
		for sc.Scan() {
			if _, a, ok := strings.Cut(sc.Text(), "Listening for client connections on "); ok {
				address <- a
			}
			if strings.Contains(sc.Text(), "Server is ready") {
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("nats-server did not start")
	}
	return "nats://" + <-address
}

// An entry that takes longer than the server waits, and those behind it, come once.
func TestWork_SlowReader(t *testing.T) {
	t.Parallel()
	b, err := natsbus.Open(t.Context(), natsbus.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const wait = 300 * time.Millisecond
	b.SetAckWait(wait)
	log, err := b.Log(t.Context(), bus.LogConfig{Name: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(4) {
		if _, err := log.Append(t.Context(), []byte{i}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*wait)
	defer stop()
	var seen []byte
	if err := log.Work(ctx, "reader", func(e bus.Entry) error {
		seen = append(seen, e.Data...)
		if e.Data[0] == 0 {
			time.Sleep(4 * wait)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if string(seen) != "\x00\x01\x02\x03" {
		t.Errorf("the reader was given %v, want each entry once", seen)
	}
}

// A NATS server takes over the folder that an embedded one wrote: entries, and where readers were.
func TestEmbedded_TakenOver(t *testing.T) {
	t.Parallel()
	bin := filepath.Join(t.TempDir(), "nats-server")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	dir := t.TempDir()
	read := func(b bus.Bus, n int) (got []string) {
		t.Helper()
		log, err := b.Log(t.Context(), bus.LogConfig{Name: "facts"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := log.Work(ctx, "reader", func(e bus.Entry) error {
			if len(got) == n {
				return ctx.Err()
			}
			if got = append(got, string(e.Data)); len(got) == n {
				cancel()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	b, err := natsbus.Open(t.Context(), natsbus.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b.SetAckWait(300 * time.Millisecond) // the third entry may be under way when the reader is stopped
	log, err := b.Log(t.Context(), bus.LogConfig{Name: "facts"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"one", "two", "three"} {
		if _, err := log.Append(t.Context(), []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(b, 2); !slices.Equal(got, []string{"one", "two"}) {
		t.Fatalf("before: %q", got)
	}
	b.Close()
	b, err = natsbus.Open(t.Context(), natsbus.Config{URL: startServerIn(t, bin, dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.SetAckWait(300 * time.Millisecond)
	got := read(b, 1)
	for got[len(got)-1] != "three" { // the last ones may repeat
		got = append(got, read(b, 1)...)
	}
	if got[0] == "one" {
		t.Errorf("the reader's place was lost: %q", got)
	}
}
