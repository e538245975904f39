package iot

import (
	"context"
	"time"
)

// Visit is a device that proved itself for one request and keeps no session, as over HTTPS
// (hub-device §4). Package hub provides it, and so does anything else behind such a head.
type Visit interface {
	// Telemetry returns once all messages are on disk. When it fails, some of them may be.
	Telemetry(ctx context.Context, ms []Message) error
	// Receive locks the next waiting cloud-to-device message; ok is false when there is none.
	Receive(ctx context.Context, lock time.Duration) (m Mail, ok bool, err error)
	// Settle ends the lock of a message; fault.LockLost.
	Settle(ctx context.Context, lockToken string, how Settlement) error
	// BeginUpload grants the upload of a file.
	BeginUpload(ctx context.Context, name string) (Upload, error)
	// EndUpload takes back the grant and, after a success, tells services of the file.
	EndUpload(ctx context.Context, correlationID string, success bool) error
}

// Settlement is what a receiver does with a locked message (hub-service §6.3).
type Settlement int

// The settlements.
const (
	Completed Settlement = iota // done with
	Abandoned                   // to be delivered again
	Rejected                    // never to be delivered again
)

// Upload is the permission to store one file (hub-device §4.4).
type Upload struct {
	CorrelationID string
	Host          string // host[:port] of the store
	Container     string
	Blob          string // {device}/{name}
	Token         string // query of the URL, with its question mark
}
