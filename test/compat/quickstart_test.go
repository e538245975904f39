package compat_test

func init() {
	scripts = append(scripts, script{name: "getting-started board", args: []string{"quickstart.js"}})
}
