package signin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/secure/precis"

	"github.com/vauban-iot/vauban/fault"
	"github.com/vauban-iot/vauban/internal/secret"
)

// Hash says what a guess at a password costs. Hashes keep what they were made with; when somebody signs in whose
// hash was made with something else, it is made anew.
type Hash struct {
	Memory  int // KiB; 0: 32768
	Passes  int // 0: 3
	Threads int // 0: 1
	// Slots is how many are computed at a time, and so what bounds the memory; 0: one for each processor.
	Slots int
}

// Bounds of hashes that are read: a row of the database must not take the server's memory.
const (
	maxMemory = 1 << 20 // KiB
	maxPasses = 64
	maxLanes  = 32
	saltSize  = 16
	sumSize   = 32
	maxPHC    = 512
	maxWait   = 64 // who waits for a slot; more are told to come back
)

// Bounds of passwords. Length is asked for, and no rules of composition (NIST SP 800-63B §3.1.1.2).
const (
	MinPassword = 12
	MaxPassword = 256 // bytes
)

// checkPassword returns a new password as it is hashed.
func checkPassword(p secret.Secret, mail string) (secret.Secret, error) {
	n, err := normalize(p)
	if err != nil {
		return n, fault.New(fault.Invalid, "a password has no control characters and at most %d bytes", MaxPassword)
	}
	text := string(n.Reveal())
	runes, kinds := 0, map[rune]bool{}
	for _, r := range text {
		runes++
		kinds[r] = true
	}
	switch {
	case runes < MinPassword:
		return n, fault.New(fault.Invalid, "a password has at least %d characters", MinPassword)
	case len(kinds) < 5:
		return n, fault.New(fault.Invalid, "a password has at least 5 different characters")
	case strings.EqualFold(text, mail):
		return n, fault.New(fault.Invalid, "a password is not the mail address")
	}
	return n, nil
}

// normalize makes passwords equal that were typed alike on different keyboards (RFC 8265 §4.2).
func normalize(p secret.Secret) (secret.Secret, error) {
	if len(p.Reveal()) > MaxPassword || !utf8.Valid(p.Reveal()) {
		return secret.Secret{}, errors.New("too long, or no text")
	}
	b, err := precis.OpaqueString.Bytes(p.Reveal())
	if err != nil {
		return secret.Secret{}, err
	}
	return secret.New(b), nil
}

// phc is a hash in the format of the password hashing competition, which argon2's own tools write.
type phc struct {
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

func (h phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.threads,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.sum))
}

var errHash = errors.New("signin: a password hash cannot be read")

func parsePHC(s string) (h phc, err error) {
	if len(s) > maxPHC {
		return h, errHash
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, errHash
	}
	params := strings.Split(parts[3], ",")
	if len(params) != 3 {
		return h, errHash
	}
	var values [3]uint32
	for i, name := range []string{"m=", "t=", "p="} {
		text, ok := strings.CutPrefix(params[i], name)
		n, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != text {
			return h, errHash
		}
		values[i] = uint32(n)
	}
	if values[0] < 8 || values[0] > maxMemory || values[1] < 1 || values[1] > maxPasses || values[2] < 1 || values[2] > maxLanes {
		return h, errHash
	}
	h.memory, h.passes, h.threads = values[0], values[1], uint8(values[2])
	strict := base64.RawStdEncoding.Strict()
	if h.salt, err = strict.DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return phc{}, errHash
	}
	if h.sum, err = strict.DecodeString(parts[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return phc{}, errHash
	}
	if h.String() != s { // base64 takes line breaks
		return phc{}, errHash
	}
	return h, nil
}

// hasher hashes few passwords at a time.
type hasher struct {
	like    phc // what new hashes are made with
	slots   chan struct{}
	waiting atomic.Int32
	nobody  phc // the hash of no password: an unknown account costs as much as a known one
	work    atomic.Int64
}

func newHasher(h Hash, processors int) (*hasher, error) {
	h.Memory, h.Passes, h.Threads = cmp.Or(h.Memory, 32<<10), cmp.Or(h.Passes, 3), cmp.Or(h.Threads, 1)
	h.Slots = cmp.Or(h.Slots, processors)
	if h.Memory < 8*h.Threads || h.Memory > maxMemory || h.Passes < 1 || h.Passes > maxPasses || h.Threads < 1 || h.Threads > maxLanes || h.Slots < 1 {
		return nil, errors.New("signin: the cost of password hashes is out of bounds")
	}
	like := phc{memory: uint32(h.Memory), passes: uint32(h.Passes), threads: uint8(h.Threads)}
	nobody := like
	nobody.salt, nobody.sum = random(saltSize), random(sumSize)
	return &hasher{like: like, slots: make(chan struct{}, h.Slots), nobody: nobody}, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// sum computes in a slot. It fails with Throttled when too many wait, and when ctx ends.
func (h *hasher) sum(ctx context.Context, p secret.Secret, like phc) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	default:
		defer h.waiting.Add(-1)
		if h.waiting.Add(1) > maxWait {
			return nil, throttled(time.Second, "too many people sign in at this moment")
		}
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, fault.Wrap(fault.Timeout, context.Cause(ctx), "the request ended while it waited for its turn")
		}
	}
	defer func() { <-h.slots }()
	h.work.Add(1)
	return argon2.IDKey(p.Reveal(), like.salt, like.passes, like.memory, like.threads, uint32(len(like.sum))), nil
}

// hash returns the hash of a password that checkPassword returned.
func (h *hasher) hash(ctx context.Context, p secret.Secret) (string, error) {
	made := h.like
	made.salt, made.sum = random(saltSize), make([]byte, sumSize)
	var err error
	made.sum, err = h.sum(ctx, p, made)
	if err != nil {
		return "", err
	}
	return made.String(), nil
}

// matches reports whether kept is the hash of p, and whether it should be made anew. It does as much work for a kept of
// "", a password that cannot be one, and a wrong one.
func (h *hasher) matches(ctx context.Context, p secret.Secret, kept string) (match, stale bool, err error) {
	known := h.nobody
	if kept != "" {
		if known, err = parsePHC(kept); err != nil {
			return false, false, err
		}
	}
	n, bad := normalize(p)
	sum, err := h.sum(ctx, n, known)
	if err != nil {
		return false, false, err
	}
	match = subtle.ConstantTimeCompare(sum, known.sum) == 1 && kept != "" && bad == nil
	stale = known.memory != h.like.memory || known.passes != h.like.passes || known.threads != h.like.threads || len(known.sum) != sumSize
	return match, stale, nil
}

func throttled(wait time.Duration, text string) error {
	return &fault.Error{Kind: fault.Throttled, Public: text, RetryAfter: wait}
}
