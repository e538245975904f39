// Package report is what devices tell of their failures, and the files that people read it in (sphere §10).
package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/iot"
)

// Limits.
const (
	// MaxEvents and Window bound a download: events that ended in the last 14 days, the latest 1000.
	MaxEvents = 1000
	Window    = 14 * 24 * time.Hour
	// MaxKept is how many events are kept of one device, so that a broken one does not hide the others.
	MaxKept = 250
	// MaxUpload is how many events a device tells at once.
	MaxUpload = 200

	maxWord        = 64
	maxDescription = 1024
	maxCount       = 1_000_000
	ahead          = 10 * time.Minute // clocks of devices may be that much fast
)

// Types of events that Azure's devices tell (sphere §10). Others are taken, too.
const (
	AppCrash  = "AppCrash"
	AppExit   = "AppExit"
	AppUpdate = "AppUpdate"
)

// Event is what happened Count times on a device between Start and End. Two events of one device with the same Type, Class
// and Description are one event that happened more often.
type Event struct {
	Device      string
	Type        string // AppCrash, AppExit, AppUpdate...
	Class       string
	Category    string // of the latest
	Description string
	Count       int64
	Start       time.Time
	End         time.Time
}

// Check refuses, with fault.Invalid, what no device should tell at this time, and returns the event in the form in which it is
// kept: UTC, whole seconds, a count of 1 where none is given.
func (e Event) Check(now time.Time) (Event, error) {
	for what, s := range map[string]string{"type": e.Type, "class": e.Class, "category": e.Category} {
		if len(s) > maxWord || !printable(s) {
			return e, fault.New(fault.Invalid, "the %s of an event has at most %d printable characters", what, maxWord)
		}
	}
	if e.Count == 0 {
		e.Count = 1
	}
	if e.End.IsZero() {
		e.End = e.Start
	}
	e.Start, e.End = e.Start.UTC().Truncate(time.Second), e.End.UTC().Truncate(time.Second)
	switch {
	case e.Type == "":
		return e, fault.New(fault.Invalid, "an event has a type")
	case len(e.Description) > maxDescription || !printable(e.Description):
		return e, fault.New(fault.Invalid, "the description of an event has at most %d printable characters", maxDescription)
	case e.Count < 1 || e.Count > maxCount:
		return e, fault.New(fault.Invalid, "an event happens 1 to %d times", maxCount)
	case e.Start.Year() < 1970 || e.End.Before(e.Start):
		return e, fault.New(fault.Invalid, "an event starts, and does not end before it starts")
	case e.End.After(now.Add(ahead)):
		return e, fault.New(fault.Invalid, "an event ends in the future; set the device's clock")
	}
	return e, nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// columns of the Legacy file, in the order of sphere §10. The Integrated one has category, too, as its last.
var columns = []string{"Device ID", "Event Type", "Event Class", "Event Count", "Description", "Start Time (UTC)", "End Time (UTC)"}

const category = "Event Category"

const csvTime = "2006-01-02 15:04:05"

// WriteCSV writes events as the tools' download-error-report does. Integrated adds the column of categories.
//
// Texts come from devices and files go to spreadsheets, so a text that a spreadsheet would run as a formula gets an apostrophe
// before it.
func WriteCSV(w io.Writer, events []Event, integrated bool) error {
	c := csv.NewWriter(w)
	head := columns
	if integrated {
		head = append(append([]string(nil), columns...), category)
	}
	if err := c.Write(head); err != nil {
		return fmt.Errorf("write error report: %w", err)
	}
	for _, e := range events {
		row := []string{
			e.Device, inert(e.Type), inert(e.Class), strconv.FormatInt(e.Count, 10), inert(e.Description),
			e.Start.UTC().Format(csvTime), e.End.UTC().Format(csvTime),
		}
		if integrated {
			row = append(row, inert(e.Category))
		}
		if err := c.Write(row); err != nil {
			return fmt.Errorf("write error report: %w", err)
		}
	}
	c.Flush()
	return c.Error()
}

// formula is what makes spreadsheets run a cell: a sign at its start, where some take a semicolon or a tab for the end of the cell before,
// and East Asian ones the wide form of the sign.
var formula = regexp.MustCompile(`(^|[;|\t\r\n])(\s*)([=+\-@＝＋－＠])`)

// inert keeps spreadsheets from running s.
func inert(s string) string { return formula.ReplaceAllString(s, "$1$2'$3") }

// Insight is an event as listDeviceInsights of ARM answers it (sphere §10).
type Insight struct {
	DeviceID          string `json:"deviceId"`
	Description       string `json:"description"`
	StartTimestampUTC string `json:"startTimestampUtc"`
	EndTimestampUTC   string `json:"endTimestampUtc"`
	EventCategory     string `json:"eventCategory"`
	EventClass        string `json:"eventClass"`
	EventType         string `json:"eventType"`
	EventCount        int64  `json:"eventCount"`
}

// Insight is the JSON form of the event.
func (e Event) Insight() Insight {
	return Insight{
		DeviceID: e.Device, Description: e.Description, StartTimestampUTC: iot.FormatTime(e.Start), EndTimestampUTC: iot.FormatTime(e.End),
		EventCategory: e.Category, EventClass: e.Class, EventType: e.Type, EventCount: e.Count,
	}
}
