// Package users lists the accounts of the machine and their groups.
package users

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

// What is read of the files: a device has dozens of accounts.
const (
	maxFile  = 1 << 20
	maxUsers = 1024
)

// Snapshot lists accounts. The zero value is ready.
type Snapshot struct {
	Passwd string // default /etc/passwd
	Group  string // default /etc/group
}

var _ collect.Snapshot = (*Snapshot)(nil)

// Take returns a LocalUser for each account.
func (s *Snapshot) Take(context.Context) ([]collect.Observation, error) {
	passwd, err := readFile(s.Passwd, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := readFile(s.Group, "/etc/group") // without it, users have their own group's number alone
	users := parse(passwd, group)
	if n := len(users); n > maxUsers {
		users = users[:maxUsers]
		err = errors.Join(err, fmt.Errorf("%d accounts are more than the %d that are told", n, maxUsers))
	}
	now := time.Now()
	all := make([]collect.Observation, 0, len(users))
	for _, u := range users {
		all = append(all, collect.Observation{Event: "LocalUsers", Time: now, Hits: 1, Item: u})
	}
	return all, err
}

func readFile(path, usual string) ([]byte, error) {
	if path == "" {
		path = usual
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// parse reads the two files. A user's groups are the own one and then those that name the user, in the order of the file.
func parse(passwd, group []byte) []secmsg.LocalUser {
	names := map[string]string{}     // of groups, by number
	members := map[string][]string{} // the groups of a user, as numbers
	for f := range lines(group, 4) {
		if _, known := names[f[2]]; !known {
			names[f[2]] = f[0]
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				members[m] = append(members[m], f[2])
			}
		}
	}
	var users []secmsg.LocalUser
	for f := range lines(passwd, 4) {
		u := secmsg.LocalUser{UserName: f[0], UserID: f[2]}
		var ids, groups []string
		seen := map[string]bool{}
		for _, id := range append([]string{f[3]}, members[f[0]]...) {
			if seen[id] {
				continue
			}
			seen[id] = true
			ids = append(ids, id)
			if n := names[id]; n != "" {
				groups = append(groups, n)
			}
		}
		u.GroupIDs, u.GroupNames = strings.Join(ids, ";"), strings.Join(groups, ";")
		users = append(users, u)
	}
	return users
}

// lines yields the fields of each line that has at least n and a name.
func lines(b []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			f := strings.Split(s.Text(), ":")
			if len(f) < n || f[0] == "" || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], "+") {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}
