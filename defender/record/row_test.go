package record

import (
	"encoding/json"
	"testing"
	"time"
)

// A device's clock says what it likes, and must not make the list of events unreadable.
func TestRows_YearsThatJSONDoesNotHave(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   time.Time
		said bool
	}{
		{time.Time{}, false},
		{time.Date(1970, 1, 1, 0, 0, 7, 0, time.UTC), true},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), true},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), false},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -14*3600)), false},
		{time.Date(-1, 12, 31, 10, 0, 0, 0, time.UTC), false},
	} {
		row := (&Event{Name: "Heartbeat", Time: c.at}).Rows("hub")[0]
		text, err := json.Marshal(row)
		if err != nil || (row.TimeStamp != nil) != c.said || c.said && !row.TimeStamp.Equal(c.at) {
			t.Errorf("a time of %v: %s, %v; want a TimeStamp: %v", c.at, text, err, c.said)
		}
	}
}
