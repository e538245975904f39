package host

import (
	"slices"
	"strings"
)

func called(l *line, i int) string { return l.commands[i].name }

// later reports whether a command after i runs the file, or makes it one that can be run and is in a place for that.
func (l *line) laterRuns(i int, file string) bool {
	for j := i + 1; j < len(l.commands); j++ {
		c := &l.commands[j]
		for _, r := range c.runs() {
			if strings.ContainsAny(r, "/") && sameFile(r, file) || c.script() != "" && sameFile(c.script(), file) {
				return true
			}
		}
	}
	return false
}

func (l *line) laterMadeProgram(i int, file string) bool {
	for j := i + 1; j < len(l.commands); j++ {
		c := &l.commands[j]
		if c.name == "chmod" && slices.ContainsFunc(c.operands(), func(o string) bool { return sameFile(o, file) }) {
			return true
		}
	}
	return false
}

func decodedAndRun(l *line, i int) string {
	c := &l.commands[i]
	if !c.decodes() {
		return ""
	}
	if shells[c.into] || c.into == "eval" {
		return c.name
	}
	const few = 4 // a pipeline that hides behind more is not looked through
	after := l.after(i)
	for _, next := range after[:min(len(after), few)] {
		if next.executes() {
			return c.name
		}
		files := next.writes()
		for _, f := range files[:min(len(files), few)] {
			if l.laterRuns(i, f) || l.laterMadeProgram(i, f) {
				return c.name
			}
		}
	}
	for _, f := range c.outputs[:min(len(c.outputs), few)] {
		if l.laterRuns(i, f) || l.laterMadeProgram(i, f) {
			return c.name
		}
	}
	if slices.ContainsFunc(l.before(i), func(c command) bool { return strings.Contains(strings.Join(c.words, " "), "f0VMR") }) { // an ELF header
		return c.name
	}
	return ""
}

var decodeCalls = []string{"b64decode", "base64_decode", "decode_base64", "unpack(", "fromhex(", "unhexlify", "base64 -d", "decode64", "gzinflate", "'base64'", "\"base64\"", "marshal.loads"}

var runCalls = []string{"exec", "eval", "system", "subprocess", "popen", "__import__", "passthru", "spawn", "chmod"}

func encodedScript(l *line, i int) string {
	c := &l.commands[i]
	text := c.inline()
	if text != "" && containsAny(text, decodeCalls) && containsAny(text, runCalls) {
		return c.name
	}
	return ""
}

func containsAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// escapes counts the bytes that a text writes as \x7f or \177.
func escapes(s string) (n int) {
	for i := 0; i+3 < len(s); i++ {
		if s[i] == '\\' && (s[i+1] == 'x' || s[i+1] >= '0' && s[i+1] <= '3') {
			n++
			i += 3
		}
	}
	return n
}

func bytesWritten(l *line, i int) string {
	c := &l.commands[i]
	if len(c.outputs) == 0 {
		return ""
	}
	file := c.outputs[0]
	if strings.HasPrefix(file, "/dev/") && !strings.HasPrefix(file, "/dev/shm/") && !strings.HasPrefix(file, "/dev/.") || strings.HasPrefix(file, "/sys/") || strings.HasPrefix(file, "/proc/") {
		return ""
	}
	text := strings.ToLower(strings.Join(c.args(), " "))
	if strings.Contains(text, `\x7felf`) || strings.Contains(text, `\x7f\x45\x4c\x46`) || strings.Contains(text, `\177elf`) || strings.Contains(text, `\177\105\114\106`) {
		return c.name
	}
	if n := escapes(text); n >= 16 && (loose(file) || l.laterRuns(i, file) || l.laterMadeProgram(i, file)) {
		return c.name
	}
	return ""
}
