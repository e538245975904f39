//go:build !linux

package intel

func huge[E any]([]E) {}
