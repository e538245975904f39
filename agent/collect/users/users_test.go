package users

import (
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vauban-iot/vauban/agent/collect"
	"github.com/vauban-iot/vauban/wire/secmsg"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n\nbroken\n# no:x:1:1\n+::::::\neve:x:0:7::/:\n"
	group  = "root:x:0:\nada:x:1000:\nsudo:x:27:ada, eve\nada2:x:1000:ada\n"
)

func TestParse(t *testing.T) {
	t.Parallel()
	want := []secmsg.LocalUser{
		{UserName: "root", UserID: "0", GroupNames: "root", GroupIDs: "0"},
		{UserName: "ada", UserID: "1000", GroupNames: "ada;sudo", GroupIDs: "1000;27"},
		{UserName: "eve", UserID: "0", GroupNames: "sudo", GroupIDs: "7;27"},
	}
	if got := parse([]byte(passwd), []byte(group)); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	all, err := (&Snapshot{}).Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(o collect.Observation) bool {
		u := o.Item.(secmsg.LocalUser)
		return o.Event == "LocalUsers" && u.UserName == me.Username && u.UserID == me.Uid && strings.HasPrefix(u.GroupIDs+";", me.Gid+";")
	}) {
		t.Errorf("%s is not among %+v", me.Username, all)
	}
	dir := t.TempDir()
	p := filepath.Join(dir, "passwd")
	if err := os.WriteFile(p, []byte(strings.Repeat("a:x:1:1\n", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err = (&Snapshot{Passwd: p, Group: filepath.Join(dir, "none")}).Take(t.Context())
	if len(all) != maxUsers || err == nil || !strings.Contains(err.Error(), "2000 accounts") || !strings.Contains(err.Error(), "none") {
		t.Errorf("%d accounts, %v", len(all), err)
	}
	if _, err := (&Snapshot{Passwd: filepath.Join(dir, "none")}).Take(t.Context()); err == nil {
		t.Error("no file, and no error")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(passwd), []byte(group))
	f.Fuzz(func(t *testing.T, passwd, group []byte) {
		for _, u := range parse(passwd, group) {
			if u.UserName == "" || strings.ContainsAny(u.UserName, ":\n") {
				t.Errorf("%+v", u)
			}
		}
	})
}
