package vuln

// For the benchmarks of the external tests.
var (
	SomePackages = somePackages
	Generated    = func(w interface{ WriteString(string) (int, error) }, n int) error { return generated(w, n) }
)
