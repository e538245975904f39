package avrofile

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vauban-iot/vauban/hub/routing"
	"github.com/vauban-iot/vauban/iot"
)

// FuzzRepair requires of any file that what is left of it after a repair needs none.
func FuzzRepair(f *testing.F) {
	root := f.TempDir()
	s, err := New(root, "hub", routing.Endpoint{Name: "e", Encoding: "AvroDeflate"})
	if err != nil {
		f.Fatal(err)
	}
	m := &iot.Message{From: iot.ID{Device: "d"}, Enqueued: time.Unix(0, 0), Body: []byte("body")}
	for range 2 {
		if err := s.Deliver(f.Context(), []*iot.Message{m}); err != nil {
			f.Fatal(err)
		}
	}
	s.Close()
	data, err := os.ReadFile(filepath.Join(root, "e/hub/1970/01/01/00/00.avro"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-5])
	f.Add([]byte("Obj\x01\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		end, err := whole(file)
		if err != nil || end > int64(len(data)) {
			t.Fatalf("%d of %d bytes are whole (%v)", end, len(data), err)
		}
		if err := file.Truncate(end); err != nil {
			t.Fatal(err)
		}
		if again, err := whole(file); err != nil || again != end {
			t.Fatalf("%d bytes were whole, then %d (%v)", end, again, err)
		}
	})
}
