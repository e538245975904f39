package iot

import "time"

// CertificateOperation is one request of a device for a certificate, as the device may know it (hub-device §3.10).
type CertificateOperation struct {
	RequestID     string // the device's own name for it
	CorrelationID string // a UUID
	Expires       time.Time
}

// CertificateAnswer is how an operation ended.
type CertificateAnswer struct {
	CertificateOperation
	Certificates [][]byte // DER, from the device's own to the root; nil when none was issued
	Refusal      string   // why none was issued
}

// CertificateConflict is a request that an operation stands against: one that is under way, or one that should be
// replaced and is not there. Of the latter nothing but the request id is known.
type CertificateConflict struct {
	Operation CertificateOperation
	Err       error // of the kind that says which
}

func (c *CertificateConflict) Error() string { return c.Err.Error() }

func (c *CertificateConflict) Unwrap() error { return c.Err }
