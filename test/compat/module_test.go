package compat_test

// The scripts about modules.
func init() {
	scripts = append(scripts, script{name: "module", args: []string{"module.js"}})
}
