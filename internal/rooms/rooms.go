// Package rooms holds the drawing of the house as a test: which room imports which
// (testdata/imports.txt, read as a diff in review) and that imports go down only.
package rooms
