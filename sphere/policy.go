package sphere

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/fault"
)

// Policy is what a device must run to be trusted, at one time.
type Policy struct {
	Tenant string
	Device string
	Feed   OSFeed // of its group; Retail without one
	// OS are the releases of its feed that count now, newest first: the tenant's and the installation's. None: no operating
	// system is trusted.
	OS []Release
	// Minimum is the oldest OS version that gets client certificates now; empty: any of OS.
	Minimum string
	// Latest is the newest OS version of the feed; empty when there is none.
	Latest string
	// Applications are images that may run beside the OS.
	Applications []Image
	// Development says that the device holds a capability for development in force: it runs images that nobody released.
	Development bool
}

// Verdict is what a policy says of measured software.
type Verdict struct {
	Trusted bool // every image is known: the device may get an update certificate
	Current bool // and the OS is not older than allowed: it may get a client certificate
	OS      *Release
	Reason  string // why not, for people; empty when Current
}

// Judge compares what a device measured with the policy. The OS that it says it runs must be a release, all of whose images, and
// no others of that component, were measured; every other image must be released for applications, or development be
// allowed. No component may be measured twice.
func (p Policy) Judge(version string, measured []Image) Verdict {
	at := slices.IndexFunc(p.OS, func(r Release) bool { return r.Version == version })
	if at < 0 {
		return Verdict{Reason: "the operating system's version " + strconv.Quote(version) + " is not released for this device"}
	}
	byComponent := make(map[string]Image, len(measured))
	for _, m := range measured {
		m = m.normal()
		if _, twice := byComponent[m.Component]; twice {
			return Verdict{Reason: "component " + m.Component + " was measured twice"}
		}
		byComponent[m.Component] = m
	}
	// A tenant may release the version that the installation has, too: one of the sets must fit.
	reason := ""
	for i := range p.OS {
		os := &p.OS[i]
		if os.Version != version {
			continue
		}
		left := make(map[string]Image, len(byComponent))
		for c, m := range byComponent {
			left[c] = m
		}
		fits := true
		for _, want := range os.Images {
			if left[want.Component] != want {
				fits, reason = false, "component "+want.Component+" of the operating system is not the one of version "+version
				break
			}
			delete(left, want.Component)
		}
		if !fits {
			continue
		}
		if !p.Development {
			for _, m := range left {
				if !slices.Contains(p.Applications, m) {
					fits, reason = false, "image "+m.ID+" of component "+m.Component+" is not released"
					break
				}
			}
		}
		if !fits {
			continue
		}
		v := Verdict{Trusted: true, OS: os}
		if p.Minimum != "" && CompareVersions(version, p.Minimum) < 0 {
			v.Reason = "the operating system is older than version " + p.Minimum + ", which is the oldest that is allowed"
			return v
		}
		v.Current = true
		return v
	}
	return Verdict{Reason: reason}
}

// normal is the image in the form in which images compare.
func (i Image) normal() Image {
	return Image{Component: strings.ToLower(i.Component), ID: strings.ToLower(i.ID), SHA256: strings.ToLower(i.SHA256)}
}

const (
	maxVersion    = 32
	maxVersionNum = 1_000_000_000
)

// checkVersion refuses what is no version.
func checkVersion(s string) error {
	if s == "" || len(s) > maxVersion {
		return fault.New(fault.Invalid, "a version has 1 to %d characters", maxVersion)
	}
	for part := range strings.SplitSeq(s, ".") {
		for i := range len(part) {
			if part[i] < '0' || part[i] > '9' {
				return fault.New(fault.Invalid, "a version is numbers with dots between, such as 26.11.1, not %q", s)
			}
		}
		if n, err := strconv.Atoi(part); err != nil || n > maxVersionNum {
			return fault.New(fault.Invalid, "a version is numbers with dots between, such as 26.11.1, not %q", s)
		}
	}
	return nil
}

// CompareVersions orders versions by their numbers: 22.9 < 22.10, and 22.2 = 22.02 = 22.2.0. What is no number counts as 0.
func CompareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		if d := versionPart(as, i) - versionPart(bs, i); d != 0 {
			if d < 0 {
				return -1
			}
			return 1
		}
	}
	return 0
}

func versionPart(parts []string, i int) int {
	if i >= len(parts) {
		return 0
	}
	n, err := strconv.Atoi(parts[i])
	if err != nil || n < 0 || n > maxVersionNum {
		return 0
	}
	return n
}

// counts reports whether a release is one to trust at a time.
func (r Release) counts(now time.Time) bool {
	return !now.Before(r.Released) && (r.Withdrawn.IsZero() || now.Before(r.Withdrawn))
}
