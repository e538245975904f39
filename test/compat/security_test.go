package compat_test

// The script that counts alerts has its server to itself, and restarts it.
func init() {
	scripts = append(scripts, script{name: "security", args: []string{"security.js"}, alone: true})
}
