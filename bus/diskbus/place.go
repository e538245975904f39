package diskbus

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"
)

// place is how far a reader came: two slots, written in turn, of a sequence number (8) and its checksum (4). Every
// entry is noted, so that a process that dies forgets nothing, and synced once in a while, for the machine that does.
type place struct {
	file   *os.File
	done   uint64 // the last entry that the reader was done with
	slot   int64
	synced time.Time
}

const (
	slotBytes   = 512 // a slot has a disk's sector of its own
	slotContent = 12
	placePeriod = 5 * time.Second
)

func openPlace(dir, name string) (*place, error) {
	f, err := os.OpenFile(filepath.Join(dir, "place."+base64.RawURLEncoding.EncodeToString([]byte(name))), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	p := &place{file: f}
	for slot := range int64(2) {
		var b [slotContent]byte
		if _, err := f.ReadAt(b[:], slot*slotBytes); errors.Is(err, io.EOF) {
			continue
		} else if err != nil {
			f.Close()
			return nil, err
		}
		seq := binary.BigEndian.Uint64(b[:])
		if binary.BigEndian.Uint32(b[8:]) == crc32.Checksum(b[:8], castagnoli) && seq > p.done {
			p.done, p.slot = seq, slot
		}
	}
	return p, nil
}

func (p *place) set(seq uint64, now time.Time) error {
	var b [slotContent]byte
	binary.BigEndian.PutUint64(b[:], seq)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	p.slot = 1 - p.slot
	if _, err := p.file.WriteAt(b[:], p.slot*slotBytes); err != nil {
		return err
	}
	p.done = seq
	if now.Sub(p.synced) < placePeriod {
		return nil
	}
	p.synced = now
	return p.file.Sync()
}

func (p *place) close() {
	// What was set is with the system already; a sync that fails here costs repeated entries after a power cut.
	_ = p.file.Sync()
	p.file.Close()
}
