package behaviour

import (
	"fmt"
	"net/netip"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const guesses = 10 // failed logins within ten minutes; people give up after three to five

// logins counts those that failed, and notices one that succeeds afterwards.
func (w *watch) logins(e *secmsg.Event, event int) {
	for _, l := range e.Logins() {
		c := &w.d.logins
		if w.now >= c.slot+10*minute {
			// Who guessed until a moment ago may get in now.
			if c.failed < guesses || w.now >= c.slot+30*minute {
				c.failed = 0
				c.slot = w.now
			}
		}
		s := span{at: w.now}
		f := Finding{Detector: Login, Type: alert.BruteForce, Indicator: "logins", Since: from(c.slot), Expected: fmt.Sprintf("fewer than %d failed logins in ten minutes", guesses)}
		if a, err := netip.ParseAddr(l.Remote); err == nil {
			f.Indicator = "logins from " + a.Unmap().WithZone("").String()
		}
		switch {
		case l.Failed:
			c.failed += uint32(min(max(l.Hits, 1), 1<<20))
			if c.failed < guesses {
				continue
			}
			f.Sureness, f.Seen = 70, fmt.Sprintf("%d failed logins, the last for user %.40q", c.failed, l.User)
		case c.failed >= guesses:
			f.Type, f.Sureness, f.Seen = alert.BruteForceSucceeded, 85, fmt.Sprintf("user %.40q signed in after %d failed logins", l.User, c.failed)
			c.failed = 0
			w.strike(w.now)
		default:
			continue
		}
		f.Items = [][2]int{{event, l.Item}}
		w.raise(s, f)
	}
}
