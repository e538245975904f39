// Package upload lets devices store files (hub-device §4.4): it grants the upload of one file at a
// time under a token of its own, counts what is under way, and tells services what was stored.
package upload

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/hub/notice"
	"github.com/vauban-iot/vauban/internal/nonce"
	"github.com/vauban-iot/vauban/internal/secret"
	"github.com/vauban-iot/vauban/iot"
	"github.com/vauban-iot/vauban/wire/blobsas"
)

// Container is the one that holds the files of devices. Its name starts no other path of the hub's
// host, and fits what storage clients accept (3 to 63 lower-case letters, digits and dashes).
const Container = "vauban-uploads"

// Limits (hub-device §7).
const (
	MaxActive = 10        // uploads of one device under way
	Life      = time.Hour // of a grant
	maxName   = 1024      // of a blob with its device, in characters
	maxParts  = 254       // of its path
)

// The refusals with a code of their own.
var (
	ErrTooMany     = fault.New(fault.QueueFull, "the device has %d uploads under way already", MaxActive)       // 403006
	ErrNoStorage   = fault.New(fault.Invalid, "this hub stores no files")                                       // 400014
	ErrCorrelation = fault.New(fault.Invalid, "the correlation id is not one of this hub's")                    // 400015
	ErrUnknown     = fault.New(fault.Invalid, "the upload of this correlation id is unknown, over or expired")  // 400016
	ErrNothing     = fault.New(fault.Invalid, "the upload is said to have succeeded, but nothing was uploaded") // 400020
)

// Active is an upload under way.
type Active struct {
	CorrelationID string
	ID            iot.ID
	Blob          string
	Started       time.Time
	Expires       time.Time
}

// Store keeps the uploads under way. Every write is on disk when the call returns.
type Store interface {
	// BeginUpload keeps u, unless limit uploads of its device that are not expired at now are kept
	// already (ErrTooMany); fault.NotFound for an unknown identity.
	BeginUpload(ctx context.Context, u Active, limit int, now time.Time) error
	// ActiveUpload returns one of id that is not expired at now; fault.NotFound.
	ActiveUpload(ctx context.Context, id iot.ID, correlationID string, now time.Time) (Active, error)
	// EndUpload forgets an upload and puts note, unless it is nil, into the queue notice.Files, where
	// it expires; fault.NotFound.
	EndUpload(ctx context.Context, id iot.ID, correlationID string, note json.RawMessage, now, expires time.Time) error
	// ExpireUploads forgets those whose time is past, and returns how many.
	ExpireUploads(ctx context.Context, now time.Time) (int, error)
}

// Blobs is the store of files.
type Blobs interface {
	// Stat describes a file; fault.NotFound.
	Stat(ctx context.Context, name string) (size int64, modified time.Time, err error)
}

// Config of a service. All fields but Now are required.
type Config struct {
	Host  string // host[:port] of the endpoint that takes the files
	Key   secret.Secret
	Store Store
	Blobs Blobs
	Now   func() time.Time // nil: time.Now
}

// Service grants and ends uploads.
type Service struct {
	cfg Config
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Host == "" || cfg.Key.IsZero() || cfg.Store == nil || cfg.Blobs == nil {
		return nil, errors.New("hub/upload: incomplete configuration")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg}, nil
}

// Begin grants id the upload of a file called name, in the folder of its own. Failures are ErrTooMany,
// fault.Invalid and NotFound.
func (s *Service) Begin(ctx context.Context, id iot.ID, name string) (iot.Upload, error) {
	blob := id.String() + "/" + name
	if err := checkName(name, blob); err != nil {
		return iot.Upload{}, err
	}
	now := s.cfg.Now()
	u := Active{CorrelationID: newCorrelationID(), ID: id, Blob: blob, Started: now, Expires: now.Add(Life)}
	if err := s.cfg.Store.BeginUpload(ctx, u, MaxActive, now); err != nil {
		return iot.Upload{}, err
	}
	grant := blobsas.Grant{Container: Container, Blob: blob, Permissions: "rw", Expiry: u.Expires}
	return iot.Upload{
		CorrelationID: u.CorrelationID, Host: s.cfg.Host, Container: Container, Blob: blob,
		Token: "?" + grant.Sign(s.cfg.Key.Reveal()),
	}, nil
}

// checkName refuses what a file store or a URL would read as another name.
func checkName(name, blob string) error {
	switch {
	case name == "":
		return fault.New(fault.Invalid, "blobName is missing")
	case !utf8.ValidString(name):
		return fault.New(fault.Invalid, "blobName is not valid UTF-8")
	case utf8.RuneCountInString(blob) > maxName:
		return fault.New(fault.Invalid, "blobName has more than %d characters with the name of its device", maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }):
		return fault.New(fault.Invalid, "blobName holds a control character or a backslash")
	}
	parts := strings.Split(name, "/")
	if len(parts) > maxParts {
		return fault.New(fault.Invalid, "the path of blobName has more than %d parts", maxParts)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." {
			return fault.New(fault.Invalid, "a part of blobName's path is empty, . or ..")
		}
	}
	return nil
}

// correlation is what newCorrelationID makes.
var correlation = regexp.MustCompile(`^[0-9a-f]{32}$`)

func newCorrelationID() string { return nonce.New() }

// End takes back a grant and, after a success, puts a notice of the file into the queue of files.
// Failures are ErrCorrelation, ErrUnknown and ErrNothing.
func (s *Service) End(ctx context.Context, id iot.ID, correlationID string, success bool) error {
	if !correlation.MatchString(correlationID) {
		return ErrCorrelation
	}
	now := s.cfg.Now()
	u, err := s.cfg.Store.ActiveUpload(ctx, id, correlationID, now)
	if fault.Is(err, fault.NotFound) {
		return ErrUnknown
	}
	if err != nil {
		return err
	}
	var note json.RawMessage
	if success {
		size, modified, err := s.cfg.Blobs.Stat(ctx, u.Blob)
		if fault.Is(err, fault.NotFound) {
			return ErrNothing
		}
		if err != nil {
			return err
		}
		note = notice.File{Device: id.Device, Name: u.Blob, URI: s.uri(u.Blob), Size: size, Modified: modified, At: now}.Document()
	}
	err = s.cfg.Store.EndUpload(ctx, id, correlationID, note, now, now.Add(notice.Life))
	if fault.Is(err, fault.NotFound) {
		return ErrUnknown
	}
	return err
}

func (s *Service) uri(blob string) string {
	u := url.URL{Scheme: "https", Host: s.cfg.Host, Path: "/" + Container + "/" + blob}
	return u.String()
}

// Expire forgets the uploads whose time is past.
func (s *Service) Expire(ctx context.Context) error {
	_, err := s.cfg.Store.ExpireUploads(ctx, s.cfg.Now())
	return err
}
