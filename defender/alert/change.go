package alert

import (
	"context"
	"fmt"
	"time"
)

// Place is where a change stands among all changes of alerts. Places grow in the order in which changes became visible.
type Place struct {
	Change   int64 `json:"change"`
	Sequence int64 `json:"sequence"` // of the alert: changes that were made at once share a number
}

// After reports whether p stands behind o.
func (p Place) After(o Place) bool {
	return p.Change > o.Change || p.Change == o.Change && p.Sequence > o.Sequence
}

// String is for people.
func (p Place) String() string { return fmt.Sprintf("%d.%d", p.Change, p.Sequence) }

// Change is an alert as it stands, with its evidence, and where its last change stands. What changes an alert is that it is made, that its status
// becomes another, and that its count doubles: who follows is told of a flood twenty times and not a million times.
type Change struct {
	Alert
	Place Place
	Born  Place     // where the change stands that made it
	At    time.Time // of the last change
}

// Closed reports whether nobody has to look at a any more.
func (a *Alert) Closed() bool { return a.Status == Dismissed || a.Status == Resolved }

// Changes are what a [Store] tells those who follow it.
type Changes interface {
	// AlertChanges lists the alerts whose last change stands behind after, in the order of changes. An alert that changed several
	// times stands once. limit is 1..1000; 0 means 100.
	AlertChanges(ctx context.Context, after Place, limit int) ([]Change, error)
	// CountAlertChanges is how many there are, counted up to most.
	CountAlertChanges(ctx context.Context, after Place, most int) (int, error)
	// LastAlertChange is a place behind all changes there are, and before all there will be.
	LastAlertChange(ctx context.Context) (Place, error)
	// AlertsChanged lists the alerts whose last change was from from until before to (zero: no bound), by sequence, behind the sequence after.
	AlertsChanged(ctx context.Context, from, to time.Time, after uint64, limit int) ([]Change, error)
}
