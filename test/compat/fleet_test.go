package compat_test

// The scripts about many devices at once, and about devices as models see them.
func init() {
	scripts = append(scripts,
		script{name: "digital twins", args: []string{"digitaltwin.js"}},
		script{name: "jobs", args: []string{"jobs.js"}},
		script{name: "query", args: []string{"query.js"}},
		script{name: "configurations", args: []string{"configurations.js"}},
	)
}
