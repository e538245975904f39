//go:build !linux

package baseline

import "errors"

type tree struct{ root string }

var errNotLinux = errors.New("baseline checks look at Linux devices; run this on one")

var errTooMany = errors.New("too many files")

func openTree(string) (*tree, error)             { return nil, errNotLinux }
func (*tree) close()                             {}
func (*tree) stat(string) (info, error)          { return info{}, errNotLinux }
func (*tree) lstat(string) (info, error)         { return info{}, errNotLinux }
func (*tree) read(string, int) ([]byte, error)   { return nil, errNotLinux }
func (*tree) list(string, int) ([]string, error) { return nil, errNotLinux }
func (*tree) readlink(string) (string, error)    { return "", errNotLinux }
func (m *machine) walk(map[uint32]bool, map[uint32]bool) *findings {
	return &findings{err: errNotLinux}
}
