// Package linefile appends whole lines to files: a crash leaves a file that ends with a line, or half of one that the next Append cuts off.
package linefile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Append adds lines, each with its line feed, to the file at path, which it makes unless it is there. They are on disk when it returns. What a
// crash left of a line goes: whoever wrote it writes it again.
func Append(path string, lines []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	end, err := whole(f, size)
	if err != nil {
		return err
	}
	if end < size {
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	if _, err := f.WriteAt(lines, end); err != nil {
		return errors.Join(err, f.Truncate(end)) // or the next line would be broken
	}
	if err := f.Sync(); err != nil || size > 0 {
		return err
	}
	d, err := os.Open(filepath.Dir(path)) // the file is new
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// whole is the length of the file up to its last line feed, which mostly is its last byte.
func whole(f io.ReaderAt, size int64) (int64, error) {
	for n := int64(1); size > 0; n = 64 << 10 {
		n = min(n, size)
		buf := make([]byte, n)
		if _, err := f.ReadAt(buf, size-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf, '\n'); i >= 0 {
			return size - n + int64(i) + 1, nil
		}
		size -= n
	}
	return 0, nil
}
