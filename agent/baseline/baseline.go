// Package baseline checks how a Linux device is set up: filesystems, services, network, logging, accounts and permissions, by
// a baseline of our own whose numbers are those of the CIS Distribution Independent Linux benchmark, and by a custom file in
// the format of the v1 agents' scanner (defender §3.4).
//
// It only reads. Files that are not regular are never opened, nothing that a file says becomes a command, and the few programs
// that are run are a fixed list of those that show something (program.go).
package baseline

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// Config says what is checked.
type Config struct {
	// Root is where the device's files lie. Empty or / is the running system; of another directory, say an image that is
	// mounted, only files are looked at, and checks that ask a kernel or a program are skipped.
	Root string
	// GroupsDisabled and ChecksDisabled name what is skipped (Baseline_GroupsDisabled, Baseline_ChecksDisabled): groups as
	// Filesystem, checks by their id or by what follows the distribution in it, as Filesystem-1.1.2. Case does not count.
	GroupsDisabled, ChecksDisabled []string
	// CustomFile is a baseline of the operator's own below Root, run beside ours; empty: none. It counts only while its SHA-256
	// is CustomSHA256, in hex.
	CustomFile, CustomSHA256 string
	// TempDir is where the file of the self test may lie, below Root; empty: the system's directory for temporary files.
	TempDir string

	live bool // the tree stands for a running system: for tests
}

// maxDisabled bounds a list of what is skipped.
const maxDisabled = 1000

// CustomCheck is the id of the result that says why a custom file was not run.
const CustomCheck = "CustomBaseline"

// A Scanner checks a device. It may be used again and again, by one goroutine at a time.
type Scanner struct {
	cfg Config
}

var _ collect.Snapshot = (*Scanner)(nil)

// New returns a scanner. It refuses a root that is no directory; what is wrong with a custom file, which may change and comes
// from afar, each scan says in a result.
func New(cfg Config) (*Scanner, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.TempDir == "" {
		cfg.TempDir = os.TempDir()
	}
	if i, err := os.Stat(cfg.Root); err != nil {
		return nil, fmt.Errorf("the root of the device's files: %w", err)
	} else if !i.IsDir() {
		return nil, fmt.Errorf("the root of the device's files: %s is not a directory", cfg.Root)
	}
	if len(cfg.GroupsDisabled) > maxDisabled || len(cfg.ChecksDisabled) > maxDisabled {
		return nil, fmt.Errorf("more than %d groups or checks are disabled", maxDisabled)
	}
	cfg.GroupsDisabled, cfg.ChecksDisabled = slices.Clone(cfg.GroupsDisabled), slices.Clone(cfg.ChecksDisabled)
	return &Scanner{cfg}, nil
}

// Take runs all checks (collect.Snapshot). What could not be found out is a check of its own with the result ERROR; the error
// is for a scan that did not come to its end.
func (s *Scanner) Take(ctx context.Context) ([]collect.Observation, error) {
	r, err := s.Scan(ctx)
	if err != nil {
		return nil, err
	}
	obs := make([]collect.Observation, len(r.Results))
	for i := range r.Results {
		obs[i] = collect.Observation{Event: "Baseline", Time: r.Time, Hits: 1, Check: new(r.Results[i].check())}
	}
	return obs, nil
}

func (r *Result) check() secmsg.BaselineCheck {
	why := r.Text
	if r.Outcome == Pass {
		why = "" // some that pass have something to say, but it is no error
	}
	return secmsg.BaselineCheck{
		ID: r.Audit.ID, Result: r.Outcome.Word(), Error: why, Description: r.Audit.Description,
		Severity: strings.ToUpper(r.Audit.Severity), Remediation: r.Audit.Remediation,
	}
}

// Scan runs all checks.
func (s *Scanner) Scan(ctx context.Context) (*Report, error) {
	t, err := openTree(s.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("the root of the device's files: %w", err)
	}
	defer t.close()
	m := newMachine(ctx, t, &s.cfg)
	ours := builtin(m.distro, s.cfg.TempDir)
	r := &Report{Baseline: ours.ID, Orig: ours.OrigID, Time: m.now.UTC()}
	known := map[string]bool{}
	add := func(audits []Audit) {
		for i := range audits {
			if a := &audits[i]; !known[a.ID] {
				known[a.ID] = true
				r.Results = append(r.Results, s.result(m, a))
			}
		}
	}
	add(ours.Audits)
	if s.cfg.CustomFile != "" {
		custom, err := s.custom(m)
		if err != nil {
			r.Error = fmt.Sprintf("the custom baseline file %s was not run: %v", s.cfg.CustomFile, err)
			r.Results = append(r.Results, Result{
				Audit: &Audit{ID: CustomCheck, Number: CustomCheck, RuleID: ruleID(CustomCheck), Severity: important,
					Description: "The custom baseline file is run", Remediation: "Give the agent the path of the file and its SHA-256, in hex."},
				Outcome: Error, Text: text(r.Error),
			})
		} else {
			add(custom.Audits)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("the baseline scan was ended: %w", err)
	}
	return r, nil
}

func (s *Scanner) result(m *machine, a *Audit) Result {
	v := skipf("it is disabled by the configuration")
	if !s.disabled(a) {
		v = m.verdict(a)
	}
	return Result{Audit: a, Outcome: v.outcome, Text: text(v.why)}
}

// text is what may be sent: of a bounded length, and readable.
func text(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:497], "") + "..."
	}
	return s
}

func (s *Scanner) disabled(a *Audit) bool {
	is := func(names ...string) func(string) bool {
		return func(d string) bool {
			d = strings.TrimSpace(d)
			return slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, d) })
		}
	}
	return slices.ContainsFunc(s.cfg.GroupsDisabled, is(a.Group)) ||
		slices.ContainsFunc(s.cfg.ChecksDisabled, is(a.ID, a.CCE, shortID(a), a.Number))
}

func shortID(a *Audit) string {
	if a.Group == "" {
		return ""
	}
	return a.Group + "-" + a.Number
}

// custom reads the operator's file. It includes our baseline, whose audits are run anyway, by its id or by that of a group;
// files beside it are not followed, as nothing vouches for their contents.
func (s *Scanner) custom(m *machine) (*Baseline, error) {
	want, err := hex.DecodeString(strings.TrimSpace(s.cfg.CustomSHA256))
	if err != nil || len(want) != sha256.Size {
		return nil, errors.New("its SHA-256 is not given as 64 hex digits (sha256sum prints them)")
	}
	b, err := m.tree.read(s.cfg.CustomFile, maxXML)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); subtle.ConstantTimeCompare(sum[:], want) != 1 {
		return nil, fmt.Errorf("its SHA-256 is %x, not the one that was given", sum)
	}
	custom, err := Parse(b)
	if err != nil {
		return nil, err
	}
	for _, inc := range custom.Includes {
		if !slices.Contains(includable, strings.TrimSuffix(inc.ID, ".1")) {
			return nil, fmt.Errorf("it includes the baseline %q; this agent has %s", shorten(inc.ID), strings.Join(includable, " and "))
		}
	}
	return custom, nil
}

// includable are the baselines that a custom file may include: ours, and its part about SSH under the name that files for the
// v1 scanner use.
var includable = []string{"Vauban.Linux", "SSH.Linux"}

// scanTime is how scanners write when they looked.
func scanTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
