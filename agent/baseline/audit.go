package baseline

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"syscall"
)

// A Baseline is a list of audits, in the shape of the custom baseline file (defender §3.4).
type Baseline struct {
	ID     string `xml:"BaselineId,attr"`
	OrigID string `xml:"BaseOrigId,attr"`
	// Includes name other baselines whose audits belong to this one.
	Includes []Include `xml:"baselines>baseline"`
	Audits   []Audit   `xml:"audits>audit"`
}

// Include names another baseline.
type Include struct {
	ID string `xml:"id,attr"`
}

// An Audit is one thing that should be so on a device.
type Audit struct {
	// ID names the audit among all of a device: CIS-debian-12-Filesystem-1.1.2.
	ID    string `xml:"-"`
	Group string `xml:"-"` // Filesystem; empty in custom files

	Number      string `xml:"msid,attr"`
	CCE         string `xml:"cceid,attr"`
	RuleID      string `xml:"ruleId,attr"`
	Severity    string `xml:"severity,attr"` // Critical, Important, Warning or Informational
	Description string `xml:"description,attr"`
	Impact      string `xml:"impact,attr"`
	Remediation string `xml:"remediation,attr"`

	Dependencies []Dependency `xml:"dependency"`
	Checks       []Check      `xml:"check"`
}

// A Dependency must hold for an audit to say anything about a device.
type Dependency struct {
	Type  string `xml:"type,attr"` // FileExists, FileNotExists, PackageInstalled, PackageNotInstalled, ServiceStatus
	Value string `xml:",chardata"`
}

// A Check is one command on the distributions that it is for. Which attributes count depends on the command.
type Check struct {
	Distro  string `xml:"distro,attr"` // the grammar of §3.4; * for all
	Command string `xml:"command,attr"`

	Path          string `xml:"path,attr"`
	Regex         string `xml:"regex,attr"`
	Filter        string `xml:"filter,attr"`
	Expect        string `xml:"expect,attr"`
	Key           string `xml:"key,attr"`
	Value         string `xml:"value,attr"`
	Variable      string `xml:"variable,attr"`
	User          string `xml:"user,attr"`
	Service       string `xml:"service,attr"`
	Package       string `xml:"packagename,attr"`
	Owner         string `xml:"owner,attr"`
	Group         string `xml:"group,attr"`
	Mode          string `xml:"mode,attr"`
	ModeMask      string `xml:"mode-mask,attr"`
	AllowStricter string `xml:"allow-stricter,attr"`
	FailOnError   string `xml:"fail-on-error,attr"`
	MinLen        string `xml:"minlen,attr"`
	Exec          string `xml:"exec-command,attr"`
	Version       string `xml:"version,attr"`
	Type          string `xml:"type,attr"`
	Justification string `xml:"justification,attr"`

	Unknown []xml.Attr `xml:",any,attr"`
}

// Outcome is how an audit ended.
type Outcome int

// The outcomes. Missing and NotApplicable are one SKIP in the micro agent's words; the v1 scanner tells MISS and SKIP apart.
const (
	Pass          Outcome = iota
	Fail                  // the device is not as it should be
	Error                 // it could not be found out
	Missing               // what would be looked at is not there
	NotApplicable         // another distribution, an unmet dependency, or disabled
)

// Word is the outcome in the micro agent's spelling (defender §1.4).
func (o Outcome) Word() string {
	return [...]string{"PASS", "FAIL", "ERROR", "SKIP", "SKIP"}[o]
}

// ScannerWord is the outcome in the v1 scanner's spelling (defender §3.4).
func (o Outcome) ScannerWord() string {
	return [...]string{"PASS", "FAIL", "ERR", "MISS", "SKIP"}[o]
}

// A verdict is an outcome and why.
type verdict struct {
	outcome Outcome
	why     string
}

func pass() verdict                          { return verdict{outcome: Pass} }
func failf(format string, a ...any) verdict  { return verdict{Fail, fmt.Sprintf(format, a...)} }
func errorf(format string, a ...any) verdict { return verdict{Error, fmt.Sprintf(format, a...)} }
func missf(format string, a ...any) verdict  { return verdict{Missing, fmt.Sprintf(format, a...)} }
func skipf(format string, a ...any) verdict  { return verdict{NotApplicable, fmt.Sprintf(format, a...)} }

// gone reports that a file is not there, also because its directory is none.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// unread is the verdict of a check that could not read what it must.
func unread(err error) verdict {
	switch {
	case gone(err):
		return failf("%v", err)
	case errors.Is(err, fs.ErrPermission):
		return errorf("%v; run the agent as root", err)
	}
	return errorf("%v", err)
}

// verdict runs an audit: all checks for this distribution must pass.
func (m *machine) verdict(a *Audit) verdict {
	for _, d := range a.Dependencies {
		ok, err := m.met(d)
		if errors.Is(err, errNoPackages) || errors.Is(err, errNotRunning) {
			return missf("its dependency %s %q: %v", d.Type, strings.TrimSpace(d.Value), err)
		}
		if err != nil {
			return errorf("its dependency %s %q: %v", d.Type, strings.TrimSpace(d.Value), err)
		}
		if !ok {
			return skipf("its dependency %s %q is not met", d.Type, strings.TrimSpace(d.Value))
		}
	}
	// Of several checks the worst outcome counts; one that passed outweighs those that found nothing to look at.
	rank := map[Outcome]int{Fail: 4, Error: 3, Pass: 2, Missing: 1}
	worst := skipf("it has no check for %s %s", m.distro.name, m.distro.version)
	for _, c := range a.Checks {
		ok, err := m.distro.matches(c.Distro)
		if err != nil {
			return errorf("%v", err)
		}
		if !ok {
			continue
		}
		if v := m.run(&c); rank[v.outcome] > rank[worst.outcome] {
			worst = v
		}
	}
	return worst
}

func (m *machine) run(c *Check) verdict {
	cmd, ok := commands[c.Command]
	if !ok {
		return errorf("this agent knows no command %q", c.Command)
	}
	if len(c.Unknown) > 0 {
		return errorf("%s: unknown attribute %q", c.Command, c.Unknown[0].Name.Local)
	}
	for _, need := range strings.Fields(cmd.needs) {
		if attribute(c, need) == "" {
			return errorf("%s needs the attribute %s", c.Command, need)
		}
	}
	if err := m.ctx.Err(); err != nil {
		return errorf("the scan was ended: %v", err)
	}
	return cmd.run(m, c)
}

// regexp compiles an expression once in a scan. Go's expressions take time in proportion to what they read.
func (m *machine) regexp(s string) (*regexp.Regexp, error) {
	if len(s) > maxRegex {
		return nil, fmt.Errorf("a regular expression of %d characters is too long (at most %d)", len(s), maxRegex)
	}
	if re, ok := m.regexes[s]; ok {
		return re, nil
	}
	re, err := regexp.Compile(s)
	if err == nil {
		m.regexes[s] = re
	}
	return re, err
}
