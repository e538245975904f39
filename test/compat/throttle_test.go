package compat_test

// The script that throttles everybody has its server to itself.
func init() {
	scripts = append(scripts, script{name: "throttle", args: []string{"throttle.js"}, alone: true})
}
