package transfer_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/hubtest"
	"github.com/vauban-iot/vauban/hub/transfer"
)

// file is an import of n devices with twins: two tags, and desired properties with an object.
func file(n int, mode string) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"id":"device-%06d","importMode":%q,"status":"enabled","authentication":{"type":"sas","symmetricKey":{"primaryKey":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","secondaryKey":"ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="}},`+
			`"tags":{"site":"s%d","floor":%d},"properties":{"desired":{"interval":%d,"led":{"on":true,"color":"red"}}}}`+"\n", i, mode, i%1000, i%20, 10+i%50)
	}
	return b.Bytes()
}

// Benchmark100k measures the import and the export of 100,000 identities with twins, whole jobs on SQLite with every write on disk:
//
//	go test ./hub/transfer -run '^$' -bench 100k -benchtime 1x -count 3
func Benchmark100k(b *testing.B) {
	const devices = 100_000
	blobs := newMemory()
	for _, step := range []struct{ name, mode string }{
		{"import/create", "create"}, {"import/createOrUpdate", "createOrUpdate"}, {"import/update", "createOrUpdate"}, {"import/delete", "delete"},
	} {
		data := file(devices, step.mode)
		b.Run(step.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				w := hubtest.New(b, hubtest.Options{Memory: true, Blobs: blobs})
				if step.name == "import/update" || step.name == "import/delete" {
					blobs.set("devices.txt", file(devices, "create"))
					done(b, w, transfer.Request{Type: transfer.Import})
				}
				blobs.set("devices.txt", data)
				b.StartTimer()
				done(b, w, transfer.Request{Type: transfer.Import})
			}
			b.ReportMetric(devices*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/job")
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Run("export", func(b *testing.B) {
		w := hubtest.New(b, hubtest.Options{Memory: true, Blobs: blobs})
		blobs.set("devices.txt", file(devices, "create"))
		done(b, w, transfer.Request{Type: transfer.Import})
		b.ResetTimer()
		for b.Loop() {
			done(b, w, transfer.Request{Type: transfer.Export})
		}
		b.ReportMetric(devices*float64(b.N)/b.Elapsed().Seconds(), "devices/s")
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/job")
		b.ReportMetric(0, "ns/op")
	})
}

// done runs a job and waits for its success.
func done(b *testing.B, w *hubtest.World, r transfer.Request) {
	b.Helper()
	r.Input, r.Output, r.InputBlob, r.OutputBlob = "memory", "memory", "devices.txt", "out.txt"
	j, err := w.CreateTransfer(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Minute); !j.Status.Over(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("the job does not end")
		}
		if j, err = w.Transfer(b.Context(), j.ID); err != nil {
			b.Fatal(err)
		}
	}
	if j.Status != transfer.Completed || j.Failure != "" {
		b.Fatalf("the job is %s: %s", j.Status, j.Failure)
	}
}
