package sqlstore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/vauban-iot/vauban/defender/record"
)

// minBlock is how many events must come at once to be packed. Fewer are rows, which are found by their device without unpacking.
const minBlock = 256

// blockInfo is a block without its events.
type blockInfo struct {
	first, last    record.Place
	oldest, newest time.Time
	events         int64
	size           int64
	invalid        int64
	names          []string
	devices        []uint64 // see record.DeviceHash
}

// blockIndex remembers which devices are in which block, so that a list of one device's events unpacks few.
type blockIndex struct {
	mu      sync.Mutex
	blocks  map[record.Place]*blockInfo
	devices map[uint64]int // in how many blocks each is
}

// has says whether the block may hold events of the device.
func (b *blockInfo) has(device string) bool {
	_, ok := slices.BinarySearch(b.devices, record.DeviceHash(device))
	return ok
}

func scanBlock(r *sql.Rows) (*blockInfo, error) {
	b := &blockInfo{}
	err := r.Scan(&b.first.Message, &b.first.Ordinal, &b.last.Message, &b.last.Ordinal, stamp{&b.oldest}, stamp{&b.newest}, &b.events, &b.size, &b.invalid, jsonText{&b.names})
	return b, err
}

func scanBytes(r *sql.Rows) (b []byte, err error) {
	err = r.Scan(&b)
	return b, err
}

const byBlock = ` FROM security_blocks WHERE first = $1 AND first_ordinal = $2`

// blocks are all blocks, those with the latest events first.
func (s *Store) blocks(ctx context.Context) ([]*blockInfo, error) {
	x := &s.events
	x.mu.Lock()
	defer x.mu.Unlock()
	all, err := list(ctx, s, s.b.Reader, "list blocks of security events", scanBlock, `SELECT first, first_ordinal, last, last_ordinal, oldest, newest, events, size, invalid, names
		FROM security_blocks ORDER BY last DESC, last_ordinal DESC, first DESC, first_ordinal DESC`)
	if err != nil {
		return nil, err
	}
	known := make(map[record.Place]*blockInfo, len(all))
	for i, b := range all {
		if old := x.blocks[b.first]; old != nil && old.events == b.events { // a block only loses events
			b.devices, all[i] = old.devices, old
			known[b.first] = old
			continue
		}
		packed, err := one(ctx, s, s.b.Reader, "read devices of security events", scanBytes, `SELECT devices`+byBlock, int64(b.first.Message), b.first.Ordinal)
		if errors.Is(err, errNoRow) { // forgotten meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		for ; len(packed) >= 8; packed = packed[8:] {
			b.devices = append(b.devices, binary.BigEndian.Uint64(packed))
		}
		known[b.first] = b
	}
	if x.devices == nil {
		x.devices = make(map[uint64]int)
	}
	for first, b := range x.blocks {
		if known[first] != b {
			x.count(b, -1)
		}
	}
	for first, b := range known {
		if x.blocks[first] != b {
			x.count(b, 1)
		}
	}
	x.blocks = known
	return slices.DeleteFunc(all, func(b *blockInfo) bool { return known[b.first] != b }), nil
}

func (x *blockIndex) count(b *blockInfo, by int) {
	for _, d := range b.devices {
		if x.devices[d] += by; x.devices[d] == 0 {
			delete(x.devices, d)
		}
	}
}

// inBlocks returns a test of whether a device has events in a block.
func (s *Store) inBlocks(ctx context.Context) (func(device string) bool, error) {
	if _, err := s.blocks(ctx); err != nil {
		return nil, err
	}
	return func(device string) bool {
		s.events.mu.Lock()
		defer s.events.mu.Unlock()
		return s.events.devices[record.DeviceHash(device)] > 0
	}, nil
}

// unpack reads the events of a block; none when it was forgotten meanwhile.
func (s *Store) unpack(ctx context.Context, c Conn, first record.Place) ([]record.Event, error) {
	data, err := one(ctx, s, c, "read security events", scanBytes, `SELECT data`+byBlock, int64(first.Message), first.Ordinal)
	if errors.Is(err, errNoRow) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return record.Unpack(data)
}

func (s *Store) writeBlock(ctx context.Context, c Conn, b *record.Block) error {
	names, err := toJSON(b.Names)
	if err != nil {
		return err
	}
	devices := make([]byte, 0, 8*len(b.Devices))
	for _, d := range b.Devices {
		devices = binary.BigEndian.AppendUint64(devices, d)
	}
	_, err = s.exec(ctx, c, "keep a block of security events", `INSERT INTO security_blocks (first, first_ordinal, last, last_ordinal, oldest, newest, events, size, invalid, names, devices, data)
		VALUES `+tuples(1, 12), int64(b.First.Message), b.First.Ordinal, int64(b.Last.Message), b.Last.Ordinal, micros(b.Oldest), micros(b.Newest), b.Events, b.Size, b.Invalid, names, devices, b.Data)
	return err
}

func (s *Store) dropBlock(ctx context.Context, c Conn, first record.Place) error {
	_, err := s.exec(ctx, c, "forget security events", `DELETE`+byBlock, int64(first.Message), first.Ordinal)
	return err
}

// fresh leaves out events that are kept already: the log gives some again after a crash, in other company.
func (s *Store) fresh(ctx context.Context, c Conn, events []record.Event) ([]record.Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	first := slices.MinFunc(events, func(a, b record.Event) int { return a.Place.Compare(b.Place) }).Place
	last := slices.MaxFunc(events, func(a, b record.Event) int { return a.Place.Compare(b.Place) }).Place
	scan := func(r *sql.Rows) (p record.Place, err error) {
		err = r.Scan(&p.Message, &p.Ordinal)
		return p, err
	}
	kept := make(map[record.Place]bool)
	if len(events) >= minBlock { // rows that are there already refuse others themselves
		rows, err := list(ctx, s, c, "find security events", scan, `SELECT message, ordinal FROM security_events WHERE message >= $1 AND message <= $2`, int64(first.Message), int64(last.Message))
		if err != nil {
			return nil, err
		}
		for _, p := range rows {
			kept[p] = true
		}
	}
	blocks, err := list(ctx, s, c, "find blocks of security events", scan, `SELECT first, first_ordinal FROM security_blocks WHERE last >= $1 AND first <= $2`, int64(first.Message), int64(last.Message))
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		packed, err := s.unpack(ctx, c, b)
		if err != nil {
			return nil, err
		}
		for i := range packed {
			kept[packed[i].Place] = true
		}
	}
	if len(kept) == 0 {
		return events, nil
	}
	return slices.DeleteFunc(slices.Clone(events), func(e record.Event) bool { return kept[e.Place] }), nil
}

// inFilter says whether a block may hold events that f asks for.
func (b *blockInfo) inFilter(f *record.Filter) bool {
	return (f.Before == record.Place{} || b.first.Compare(f.Before) < 0) && (f.From.IsZero() || !b.newest.Before(f.From)) && (f.To.IsZero() || b.oldest.Before(f.To)) &&
		(!f.Invalid || b.invalid > 0) && (f.Name == "" || slices.Contains(b.names, f.Name)) && (f.Device == "" || b.has(f.Device))
}

func matches(e *record.Event, f *record.Filter) bool {
	return (f.Before == record.Place{} || e.Place.Compare(f.Before) < 0) && (f.From.IsZero() || !e.Enqueued.Before(f.From)) && (f.To.IsZero() || e.Enqueued.Before(f.To)) &&
		(!f.Invalid || e.Problem != "") && (f.Name == "" || e.Name == f.Name) && (f.Device == "" || e.Device == f.Device)
}

// packedBefore adds the newest events of blocks to those of rows: limit of all, newest first.
func (s *Store) packedBefore(ctx context.Context, rows []record.Event, f *record.Filter, limit int) ([]record.Event, error) {
	blocks, err := s.blocks(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if len(rows) >= limit && rows[limit-1].Place.Compare(b.last) > 0 {
			break // what follows is older still
		}
		if !b.inFilter(f) {
			continue
		}
		events, err := s.unpack(ctx, s.b.Reader, b.first)
		if err != nil {
			return nil, err
		}
		for i := range events {
			if matches(&events[i], f) {
				rows = append(rows, events[i])
			}
		}
		slices.SortFunc(rows, func(a, b record.Event) int { return b.Place.Compare(a.Place) })
		rows = rows[:min(len(rows), limit)]
	}
	return rows, nil
}

// packedAfter adds the oldest events of blocks to those of rows: limit of all, oldest first.
func (s *Store) packedAfter(ctx context.Context, rows []record.Event, f *record.Span, limit int) ([]record.Event, error) {
	blocks, err := s.blocks(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(blocks, func(a, b *blockInfo) int { return a.first.Compare(b.first) })
	in := &record.Filter{From: f.From, To: f.To}
	for _, b := range blocks {
		if len(rows) >= limit && rows[limit-1].Place.Compare(b.first) < 0 {
			break
		}
		if b.last.Compare(f.After) <= 0 || !b.inFilter(in) {
			continue
		}
		events, err := s.unpack(ctx, s.b.Reader, b.first)
		if err != nil {
			return nil, err
		}
		for i := range events {
			if events[i].Place.Compare(f.After) > 0 && matches(&events[i], in) {
				rows = append(rows, events[i])
			}
		}
		slices.SortFunc(rows, func(a, b record.Event) int { return a.Place.Compare(b.Place) })
		rows = rows[:min(len(rows), limit)]
	}
	return rows, nil
}

// countPacked counts the events of blocks after a place.
func (s *Store) countPacked(ctx context.Context, after record.Place) (n int64, err error) {
	blocks, err := s.blocks(ctx)
	if err != nil {
		return 0, err
	}
	for _, b := range blocks {
		switch {
		case b.first.Compare(after) > 0:
			n += b.events
		case b.last.Compare(after) > 0:
			events, err := s.unpack(ctx, s.b.Reader, b.first)
			if err != nil {
				return 0, err
			}
			for i := range events {
				if events[i].Place.Compare(after) > 0 {
					n++
				}
			}
		}
	}
	return n, nil
}
