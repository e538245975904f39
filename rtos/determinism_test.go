package rtos

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/internal/conform"
)

// busyTrace plays a board on which everything happens at once, with interrupts at times drawn from seed, and answers all its events.
func busyTrace(t *testing.T, seed uint64, drive func(k *Kernel)) []Event {
	t.Helper()
	var events []Event
	random := rand.New(rand.NewPCG(seed, 1))
	k, err := New(Config{Seed: seed, Windows: AllWindows, StackChecking: true, RandomStackFill: true, Tracer: &recorder{event: func(e Event) { events = append(events, e) }}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var s Semaphore
	var m Mutex
	var g EventFlags
	var q Queue
	var b BlockPool
	var p BytePool
	var timers [3]Timer
	if err := k.Start(func(k *Kernel) {
		k.CreateSemaphore(&s, "s", 0)
		k.CreateMutex(&m, "m", Inherit)
		k.CreateEventFlags(&g, "g")
		k.CreateQueue(&q, "q", 2, make([]byte, 32))
		k.CreateBlockPool(&b, "b", 16, make([]byte, 60))
		k.CreateBytePool(&p, "p", make([]byte, 200))
		for i := range timers {
			k.CreateTimer(&timers[i], "timer", func(v uint32) { g.Set(1<<v, Or) }, uint32(i), uint32(i)+1, uint32(i)*17+3, AutoActivate)
		}
		for i := range uint32(5) {
			own := rand.New(rand.NewPCG(seed, uint64(i)+10))
			k.CreateThread(new(Thread), ThreadConfig{Name: "worker", Stack: k.Reserve(512), Priority: 10 + i%3, Threshold: PreemptBelow(8 + i%3), TimeSlice: 2, Start: AutoStart, Entry: func(uint32) {
				for {
					switch own.IntN(9) {
					case 0:
						s.Get(own.Uint32N(3))
					case 1:
						s.Put()
					case 2:
						if m.Get(2) == Success {
							k.Compute(Cycles(own.IntN(100_000)))
							m.Put()
						}
					case 3:
						var actual uint32
						g.Get(1<<own.Uint32N(3), OrClear, &actual, 4)
					case 4:
						q.Send([]uint32{i, 1}, 1)
					case 5:
						q.Receive(make([]uint32, 2), 2)
					case 6:
						var x Block
						if b.Allocate(&x, 1) == Success {
							k.Sleep(own.Uint32N(3))
							x.Release()
						}
					case 7:
						var x Memory
						if p.Allocate(&x, 1+own.Uint32N(90), 1) == Success {
							k.Relinquish()
							x.Release()
						}
					case 8:
						k.Sleep(own.Uint32N(5))
					}
				}
			}})
		}
		var isr func()
		isr = func() {
			s.Put()
			k.At(k.Now()+Cycles(random.IntN(2_000_000)), isr)
		}
		k.At(0, isr)
	}); err != nil {
		t.Fatal(err)
	}
	drive(k)
	return events
}

func TestTrace_SameSeedSameEvents(t *testing.T) {
	run := func(seed uint64) []Event {
		return busyTrace(t, seed, func(k *Kernel) {
			if err := k.RunFor(3 * time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	want := run(42)
	if len(want) < 5000 {
		t.Fatalf("only %d events", len(want))
	}
	if slices.Equal(want, run(43)) {
		t.Error("another seed makes no difference")
	}
	for _, procs := range []int{1, 2} {
		before := runtime.GOMAXPROCS(procs)
		// Several boards at once: they share nothing.
		var got [4][]Event
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = run(42) })
		}
		wg.Wait()
		runtime.GOMAXPROCS(before)
		for i := range got {
			if !slices.Equal(want, got[i]) {
				t.Errorf("board %d with GOMAXPROCS %d: another trace", i, procs)
			}
		}
	}
}

// The kernel may not depend on what differs from run to run: the order of maps, the wall clock, randomness without a seed,
// goroutines, channels. Real time is in one file, which may.
func TestSources_AreDeterministic(t *testing.T) {
	t.Parallel()
	conform.Covers(t, "RTOS-35")
	names, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), ".go") || strings.HasSuffix(n.Name(), "_test.go") {
			continue
		}
		src, err := os.ReadFile(n.Name())
		if err != nil {
			t.Fatal(err)
		}
		files++
		for _, problem := range undetermined(t, n.Name(), src) {
			if n.Name() != "realtime.go" || strings.Contains(problem, "map") || strings.Contains(problem, "rand") {
				t.Error(problem)
			}
		}
	}
	if files < 15 {
		t.Errorf("only %d files were looked at", files)
	}
	bad := `package x
		import ("time"; "math/rand"; "math/rand/v2"; "maps")
		func f(m map[int]int, c chan int) { for range m { time.Now() }; go f(nil, nil); select {}; c <- 1; rand.IntN(3) }`
	if got := undetermined(t, "bad.go", []byte(bad)); len(got) < 8 {
		t.Errorf("the rules miss something: %q", got)
	}
}

func undetermined(t *testing.T, name string, src []byte) (problems []string) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	say := func(n ast.Node, what string) { problems = append(problems, fset.Position(n.Pos()).String()+": "+what) }
	for _, i := range f.Imports {
		switch path := strings.Trim(i.Path.Value, `"`); path {
		case "math/rand", "crypto/rand", "maps", "context", "os", "reflect", "unsafe":
			say(i, "imports "+path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.MapType:
			say(n, "a map")
		case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
			say(n, "a channel")
		case *ast.GoStmt:
			say(n, "a goroutine")
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if !ok || pkg.Obj != nil {
				break
			}
			switch full := pkg.Name + "." + n.Sel.Name; full {
			case "time.Duration", "time.Second", "rand.Rand", "rand.New", "rand.NewPCG":
			default:
				if pkg.Name == "time" || pkg.Name == "rand" {
					say(n, "uses "+full)
				}
			}
		}
		return true
	})
	return problems
}
