package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/storage/sqlstore"
)

const crashEnv = "VAUBAN_TEST_CRASH_DB"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

// writeUntilKilled is the child of TestKill9: it prints every name once its write is acknowledged.
func writeUntilKilled(path string) {
	sealer, err := secret.OpenSealer(path + ".key")
	if err == nil {
		var s *sqlstore.Store
		if s, err = Open(context.Background(), Config{Path: path, Sealer: sealer}); err == nil {
			var mu sync.Mutex
			for w := range 32 {
				go func() {
					for i := 0; ; i++ {
						name := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
						if err := s.PutSetting(context.Background(), name, []byte(name)); err != nil {
							panic(err)
						}
						mu.Lock()
						os.Stdout.WriteString(name + "\n")
						mu.Unlock()
					}
				}()
			}
			select {}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// What was acknowledged is there after kill -9. (It shows that nothing waits in the process;
// that fsync is called shows TestOpen_Pragmas.)
func TestKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var names []string
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			names = append(names, lines.Text())
			if n == 200 { // in the midst of writing
				time.AfterFunc(time.Duration(round)*7*time.Millisecond, func() { cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the child ended by itself")
		}
		sealer, err := secret.OpenSealer(path + ".key")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Config{Path: path, Sealer: sealer})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if v, err := s.Setting(t.Context(), name); err != nil || string(v) != name {
				t.Errorf("round %d: acknowledged write %s is %q, error %v", round, name, v, err)
				break
			}
		}
		s.Close()
	}
	t.Logf("%d acknowledged writes survived", len(names))
	if len(names) < 600 {
		t.Errorf("only %d writes were acknowledged, want 200 in each round", len(names))
	}
}
