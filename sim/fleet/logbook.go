package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/vauban-iot/vauban/board"
	"github.com/vauban-iot/vauban/board/fat"
	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/wear"
	"github.com/vauban-iot/vauban/rtos"
)

// logbook is a file on the external flash of a board that a thread goes on writing, so that what happens to flash shows: power that goes in the middle
// of a write, and pages that wear out.
type logbook struct {
	u     *unit
	did   Logged
	known uint64 // the last line that a write acknowledged
}

// Logged is what became of a board's logbook.
type Logged struct {
	Written uint64 `json:"written"`
	Failed  uint64 `json:"failed"` // writes; the flash is worn out, or the power went
	Lost    uint64 `json:"lost"`   // lines that were acknowledged and are not there after a reset: none, unless the flash is worn out
	Wear    uint32 `json:"mostErases"`
	Out     int    `json:"pagesWornOut"`
}

const (
	logName  = "LOG.TXT"
	logPages = 16      // of the flash
	logSize  = 2 << 10 // of the file
)

// logPart is what the file system takes on the board.
func logPart() board.Part {
	return board.Part{Name: "logbook", Flash: 12 << 10, RAM: 3 << 10}
}

func (l *logbook) define(k *rtos.Kernel) {
	firmware.Must(k.CreateThread(new(rtos.Thread), rtos.ThreadConfig{Name: "logbook", Stack: k.Reserve(2048), Priority: 15, Start: rtos.AutoStart, Entry: func(uint32) { l.run(k) }}))
}

func (l *logbook) run(k *rtos.Kernel) {
	var files *fat.Volume
	var pages *wear.Volume
	next := l.known
	every := firmware.Ticks(k, l.u.plan.Of.Log)
	for ; ; firmware.Must(k.Sleep(every)) {
		if files == nil {
			var err error
			if pages, files, err = l.mount(); err != nil {
				l.did.Failed++
				continue
			}
			next = l.last(files)
			l.did.Lost += l.known - min(next, l.known)
			l.known = next
		}
		err := l.write(files, next+1)
		_, l.did.Wear, l.did.Out = pages.Wear()
		if err != nil {
			l.did.Failed++
			files = nil
			continue
		}
		next++
		l.did.Written, l.known = l.did.Written+1, next
	}
}

// mount opens the volume; a flash without one gets it.
func (l *logbook) mount() (*wear.Volume, *fat.Volume, error) {
	pages, err := wear.Mount(l.u.hw.QSPI, 0, logPages)
	if errors.Is(err, wear.ErrNotFormatted) {
		pages, err = wear.Format(l.u.hw.QSPI, 0, logPages)
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := fat.Mount(pages)
	if errors.Is(err, fat.ErrCorrupt) { // the power went while it was being made, or pages are worn out
		files, err = fat.Format(pages, "LOG")
	}
	return pages, files, err
}

// last is the number of the last line; 0: there is none.
func (l *logbook) last(files *fat.Volume) uint64 {
	text, err := files.ReadFile(logName)
	if err != nil {
		return 0
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	number, _, _ := bytes.Cut(lines[len(lines)-1], []byte(" "))
	n, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// write adds a line, and drops the oldest ones that are too many.
func (l *logbook) write(files *fat.Volume, n uint64) error {
	text, err := files.ReadFile(logName)
	if err != nil && !errors.Is(err, fat.ErrNotFound) {
		return err
	}
	at := l.u.hw.RTC.Time()
	text = fmt.Appendf(text, "%d %s up %v, started by %v\n", n, at.UTC().Format("2006-01-02T15:04:05"), l.u.hw.Uptime().Round(1e6), l.u.hw.Reason())
	for len(text) > logSize {
		text = text[bytes.IndexByte(text, '\n')+1:]
	}
	return files.WriteFile(logName, text, at)
}
