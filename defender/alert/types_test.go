package alert_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/vauban-iot/vauban/defender/alert"
	"github.com/vauban-iot/vauban/defender/group"
)

// Every alert there may be stands somewhere in MITRE ATT&CK (defender §5): those that are built in and those of every rule of groups.
func TestTypes_HaveTacticsAndTechniques(t *testing.T) {
	t.Parallel()
	tactics := []string{ // of ATT&CK for ICS
		"Initial Access", "Execution", "Persistence", "Privilege Escalation", "Evasion", "Discovery", "Lateral Movement", "Collection", "Command and Control",
		"Inhibit Response Function", "Impair Process Control", "Impact",
	}
	technique := regexp.MustCompile(`^T(0\d{3}|1\d{3}(\.\d{3})?)$`)
	all := alert.Types()
	rules := []string{group.ToIPDenied, group.FromIPDenied, group.UserDenied, group.ProcessDenied, group.RemotesInRange, group.BytesOutInRange}
	for _, r := range group.Empty().Window {
		rules = append(rules, r.RuleType)
	}
	for _, r := range group.Empty().Allow {
		rules = append(rules, r.RuleType)
	}
	for _, r := range rules {
		if !slices.ContainsFunc(all, func(k alert.Type) bool { return k.Name == alert.Custom(r) }) {
			t.Errorf("the rule %s has no type of alert", r)
		}
	}
	for _, k := range all {
		if len(k.Tactics) == 0 || len(k.Techniques) == 0 {
			t.Errorf("%s has tactics %q and techniques %q", k.Name, k.Tactics, k.Techniques)
		}
		for _, tactic := range k.Tactics {
			if !slices.Contains(tactics, tactic) {
				t.Errorf("%s: %q is no tactic of ATT&CK for ICS", k.Name, tactic)
			}
		}
		for _, id := range k.Techniques {
			if !technique.MatchString(id) {
				t.Errorf("%s: %q is no technique", k.Name, id)
			}
		}
	}
}
