package host

import (
	"encoding/base64"
	"path"
	"slices"
	"strings"
)

// Bounds of what is read of one command line. Agents send at most 4 KiB; what is longer or deeper is read as far as this, and no further.
const (
	maxLine     = 16 << 10 // bytes
	maxCommands = 128
	maxDepth    = 5        // of shells in shells
	maxLooked   = 64 << 10 // bytes searched for the ends of substitutions, many of which may have none
)

// command is one program call in a command line: what is left when quotes, prefixes such as sudo, and shells around it are taken away.
type command struct {
	words    []string // without quotes; words[0] is the program as it was called
	name     string   // of the program: lower case, without path and version; of busybox, the applet
	called   string   // its name as written, without path
	around   []string // prefixes that were taken away: sudo, nohup, env, busybox, xargs, find...
	set      []string // assignments before it, NAME=value
	outputs  []string // files that get its output
	inputs   []string // files that it reads by redirection
	pipeline int      // commands of one pipeline have one number, and stand in order
	into     string   // the command that executes what this one writes: sh of sh -c "$(curl ...)"; empty: none
}

// line is a command line, taken apart.
type line struct {
	raw      string // what the agent said, cut to maxLine
	low      string // the same in lower case, for literals
	commands []command
	joints   int // pipelines so far
	looked   int // bytes that were searched for the ends of substitutions, or read again as calls within calls
}

// token is a word, or an operator of the shell.
type token struct {
	text   string
	op     bool
	quoted bool     // some part of it was
	start  int      // where it begins in the text
	subs   []string // scripts in it, whose output it is: $(...), `...`, <(...)
}

// parse takes a command line apart. program is what the agent says was started; either may be empty.
func parse(program, text string) *line {
	text = text[:min(len(text), maxLine)]
	program = program[:min(len(program), maxLine)]
	l := &line{raw: text}
	if strings.TrimSpace(text) == "" {
		l.raw = program
		if strings.TrimSpace(program) != "" {
			c := command{words: []string{program}, pipeline: l.joint()}
			c.rename()
			l.commands = []command{c}
		}
		l.low = strings.ToLower(l.raw)
		return l
	}
	l.low = strings.ToLower(text)
	first, _, _ := strings.Cut(strings.TrimLeft(text, " \t\"'"), " ")
	// A shell that is said to have been started with something else than its own name: the agent gives the script alone.
	script := program != "" && shells[canonical(base(program))] && !shells[canonical(base(strings.Trim(first, `"'`)))] && !strings.HasPrefix(first, "-") && !strings.HasPrefix(first, "[")
	if script && path.Base(strings.TrimRight(program, " ")) != first && !strings.HasPrefix(first, "busybox") {
		l.script(text, true, 0, "")
		return l
	}
	l.script(text, false, 0, "")
	return l
}

func (l *line) joint() int {
	l.joints++
	return l.joints
}

// script reads a list of commands. With shell, all operators count; without, text is the arguments of one program, whose quotes may have been
// lost, and only operators that stand alone do.
func (l *line) script(text string, shell bool, depth int, into string) {
	if depth > maxDepth {
		return
	}
	pipeline := l.joint()
	var words []token
	var outputs, inputs []string
	flush := func() (stop bool) {
		if len(words) > 0 {
			stop = l.simple(text, words, outputs, inputs, pipeline, shell, depth, into)
		} else if len(outputs) > 0 && len(l.commands) < maxCommands { // "> file" empties it
			l.commands = append(l.commands, command{words: []string{":"}, name: ":", called: ":", outputs: outputs, inputs: inputs, pipeline: pipeline})
		}
		words, outputs, inputs = nil, nil, nil
		return stop
	}
	redirect := ""
	for at := 0; len(l.commands) < maxCommands; {
		t, next, ok := l.scan(text, at, shell)
		if !ok {
			break
		}
		at = next
		if !t.op {
			for _, sub := range t.subs {
				of := ""
				if len(words) > 0 {
					of = canonical(base(words[0].text))
				} else if shell && strings.TrimSpace(t.text) != "" && depth > 0 {
					of = "sh" // the output of the substitution is the command
				}
				l.script(sub, true, depth+1, of)
			}
			switch {
			case redirect == "<":
				inputs, redirect = append(inputs, t.text), ""
			case redirect != "":
				outputs, redirect = append(outputs, t.text), ""
			default:
				words = append(words, t)
			}
			continue
		}
		redirect = ""
		switch t.text {
		case ">", ">>", "&>", ">|", "&>>":
			redirect = ">"
		case "<", "<>":
			redirect = "<"
		case "<<", "<<<":
			redirect = "<"
		case "dup": // 2>&1 and its like
		case "|", "|&":
			if flush() {
				return
			}
		default: // ; & && || newline ( ) { }
			if flush() {
				return
			}
			pipeline = l.joint()
		}
	}
	flush()
}

// simple reads one call and what it wraps. It reports whether it took the rest of the text too.
func (l *line) simple(text string, words []token, outputs, inputs []string, pipeline int, shell bool, depth int, into string) bool {
	c := command{outputs: outputs, inputs: inputs, pipeline: pipeline, into: into}
	for range maxCommands {
		// Assignments and the words of the shell's own grammar.
		for len(words) > 0 {
			w := words[0]
			if name, _, ok := strings.Cut(w.text, "="); ok && isName(name) {
				c.set = append(c.set, w.text)
			} else if w.quoted || !reserved[w.text] {
				break
			} else if w.text == "for" || w.text == "case" {
				words = nil // its words are no commands
				break
			} else {
				c.around = append(c.around, w.text)
			}
			words = words[1:]
		}
		if len(words) == 0 {
			break
		}
		name := canonical(base(words[0].text))
		rest := words[1:]
		switch {
		case shells[name]:
			at := scriptAt(rest)
			if at < 0 || depth >= maxDepth {
				l.add(c, words)
				return false
			}
			l.add(c, words[:len(words)-len(rest)+at])
			w := rest[at]
			switch {
			case w.quoted || shell && at == len(rest)-1:
				l.nested(c, w.text, depth)
			case shell:
				l.nested(c, join(rest[at:]), depth)
			default: // the quotes were lost: all that follows is the script
				l.nested(c, text[w.start:], depth)
				return true
			}
			return false
		case name == "su" || name == "runuser" || name == "script" || name == "flock" && slices.ContainsFunc(rest, func(t token) bool { return t.text == "-c" }):
			l.add(c, words)
			for i, w := range rest {
				if (w.text == "-c" || w.text == "--command") && i+1 < len(rest) {
					l.nested(c, quotedOr(rest[i+1:]), depth)
					break
				}
			}
			return false
		case name == "eval":
			l.add(c, words)
			l.nested(c, join(rest), depth)
			return false
		case name == "watch":
			l.add(c, words)
			l.nested(c, join(rest[skipOptions(rest, "n", "interval"):]), depth)
			return false
		case name == "find":
			l.add(c, words)
			const few = 4
			seen := 0
			for i, w := range rest {
				if (w.text == "-exec" || w.text == "-execdir" || w.text == "-ok") && i+1 < len(rest) {
					if seen++; seen > few {
						break
					}
					end := slices.IndexFunc(rest[i+1:], func(t token) bool { return t.text == ";" || t.text == `\;` || t.text == "+" })
					if end < 0 {
						end = len(rest) - i - 1
					}
					inner := command{around: append(slices.Clone(c.around), "find"), pipeline: l.joint()}
					if end > 0 {
						l.inner(inner, rest[i+1:i+1+end], shell, depth)
					}
				}
			}
			return false
		}
		skip, ok := prefixes[name]
		if !ok {
			l.add(c, words)
			return false
		}
		n := skip(rest)
		if name == "busybox" && (len(rest) == 0 || strings.HasPrefix(rest[0].text, "-")) {
			l.add(c, words)
			return false
		}
		if n >= len(rest) { // env alone, nohup without a program
			l.add(c, words)
			return false
		}
		c.around = append(c.around, name)
		if name == "xargs" {
			pipeline := c.pipeline
			l.inner(command{around: c.around, set: c.set, outputs: c.outputs, inputs: c.inputs, pipeline: pipeline, into: c.into}, rest[n:], shell, depth)
			return false
		}
		words = rest[n:]
	}
	if len(c.set) > 0 && len(l.commands) < maxCommands { // assignments alone
		c.words, c.name, c.called = []string{":"}, ":", ":"
		l.commands = append(l.commands, c)
	}
	return false
}

// inner reads a call within a call, such as that of find -exec.
func (l *line) inner(c command, words []token, shell bool, depth int) {
	if l.looked += 8 * len(words); depth >= maxDepth || len(l.commands) >= maxCommands || l.looked > maxLooked {
		return
	}
	before := len(l.commands)
	l.simple("", quoteAll(words), c.outputs, c.inputs, c.pipeline, true, depth+1, c.into)
	for i := before; i < len(l.commands); i++ {
		l.commands[i].around = append(slices.Clone(c.around), l.commands[i].around...)
	}
}

// nested reads the script of a shell.
func (l *line) nested(c command, script string, depth int) {
	before := len(l.commands)
	l.script(script, true, depth+1, "")
	for i := before; i < len(l.commands); i++ {
		l.commands[i].around = append(slices.Clone(c.around), l.commands[i].around...)
	}
}

func (l *line) add(c command, words []token) {
	if len(l.commands) >= maxCommands {
		return
	}
	c.words = make([]string, len(words))
	for i, w := range words {
		c.words[i] = w.text
	}
	c.rename()
	l.commands = append(l.commands, c)
}

func (c *command) rename() {
	c.called = base(c.words[0])
	c.name = canonical(c.called)
}

// scriptAt is the index of the script among a shell's arguments; -1: it has none.
func scriptAt(args []token) int {
	for i, a := range args {
		t := a.text
		switch {
		case t == "--" || !strings.HasPrefix(t, "-") && !strings.HasPrefix(t, "+"):
			return -1
		case t == "-o" || t == "+o" || t == "-O" || t == "--rcfile" || t == "--init-file":
			continue // the option's word follows, and has no c of its own: it ends the search unless another option does
		case !strings.HasPrefix(t, "--") && strings.ContainsRune(t, 'c'):
			for j := i + 1; j < len(args); j++ { // options may follow -c
				if u := args[j].text; len(u) < 2 || u[0] != '-' || args[j].quoted {
					return j
				}
			}
			return -1
		}
	}
	return -1
}

func join(ts []token) string {
	var b strings.Builder
	for i, t := range ts {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.text)
	}
	return b.String()
}

// quotedOr is the first word when it was quoted, and all of them otherwise: then the quotes were lost.
func quotedOr(ts []token) string {
	if ts[0].quoted {
		return ts[0].text
	}
	return join(ts)
}

func quoteAll(ts []token) []token {
	all := slices.Clone(ts)
	for i := range all[1:] {
		all[i+1].quoted = true
	}
	return all
}

// prefixes are programs that start another one: each tells how many words of its own stand before that.
var prefixes = map[string]func([]token) int{
	"sudo": func(a []token) int {
		return skipOptions(a, "u", "g", "C", "h", "p", "r", "t", "T", "U", "D", "R", "user", "group", "host", "prompt")
	},
	"doas":    func(a []token) int { return skipOptions(a, "u", "C") },
	"env":     func(a []token) int { return skipAssigned(a, skipOptions(a, "u", "C", "S", "unset", "chdir")) },
	"nohup":   func(a []token) int { return skipOptions(a) },
	"nice":    func(a []token) int { return skipOptions(a, "n", "adjustment") },
	"ionice":  func(a []token) int { return skipOptions(a, "c", "n", "p", "class", "classdata") },
	"setsid":  func(a []token) int { return skipOptions(a) },
	"stdbuf":  func(a []token) int { return skipOptions(a, "i", "o", "e") },
	"timeout": func(a []token) int { return skipOptions(a, "s", "k", "signal", "kill-after") + 1 },
	"time":    func(a []token) int { return skipOptions(a, "f", "o") },
	"chrt":    func(a []token) int { return skipOptions(a, "T", "P", "D") + 1 },
	"taskset": func(a []token) int { return skipOptions(a) + 1 },
	"chroot":  func(a []token) int { return skipOptions(a, "userspec", "groups") + 1 },
	"flock":   func(a []token) int { return skipOptions(a, "w", "E", "timeout") + 1 },
	"unshare": func(a []token) int { return skipOptions(a, "S", "G", "R", "w") },
	"nsenter": func(a []token) int { return skipOptions(a, "t", "S", "G", "target") },
	"setarch": func(a []token) int { return skipOptions(a) + 1 },
	"systemd-run": func(a []token) int {
		return skipOptions(a, "p", "u", "t", "H", "M", "E", "unit", "property", "slice", "description", "uid", "gid", "setenv")
	},
	"busybox": func([]token) int { return 0 },
	"toybox":  func([]token) int { return 0 },
	"xargs": func(a []token) int {
		return skipOptions(a, "n", "I", "i", "L", "P", "d", "a", "s", "E", "max-args", "max-procs", "delimiter", "arg-file")
	},
	"exec":    func(a []token) int { return skipOptions(a, "a") },
	"command": func(a []token) int { return skipOptions(a) },
	"builtin": func(a []token) int { return skipOptions(a) },
}

// skipOptions counts options, with the words that follow those of valued.
func skipOptions(args []token, valued ...string) int {
	for i := 0; i < len(args); i++ {
		t := args[i].text
		switch {
		case t == "--":
			return i + 1
		case len(t) < 2 || t[0] != '-':
			return i
		case slices.Contains(valued, strings.TrimLeft(t, "-")):
			i++
		}
	}
	return len(args)
}

func skipAssigned(args []token, n int) int {
	for n < len(args) {
		name, _, ok := strings.Cut(args[n].text, "=")
		if !ok || !isName(name) {
			break
		}
		n++
	}
	return n
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return s != ""
}

var reserved = setOf("if then elif else fi do done while until ! { } for case esac in function")

var shells = setOf("sh bash dash ash zsh ksh mksh csh tcsh fish rbash hush")

func setOf(words string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// base is the last part of a path, of Unix or Windows. A trailing blank stays: it is what somebody hides behind.
func base(p string) string {
	if i := strings.LastIndexAny(p, `/\`); i >= 0 && i < len(p)-1 {
		p = p[i+1:]
	}
	return p
}

// canonical is the name that rules know a program by.
func canonical(called string) string {
	name := strings.ToLower(strings.TrimSpace(called))
	name = strings.TrimSuffix(strings.TrimPrefix(name, "-"), ".exe") // -sh is a shell of a login
	for _, p := range versioned {
		if rest, ok := strings.CutPrefix(name, p); ok && strings.Trim(rest, "0123456789.-") == "" {
			return p
		}
	}
	if short, ok := aliases[name]; ok {
		return short
	}
	if i := strings.LastIndex(name, "-gcc"); i > 0 { // x86_64-linux-gnu-gcc-12
		return "gcc"
	}
	return name
}

var versioned = []string{"python", "perl", "php", "ruby", "lua", "gcc", "g++", "clang", "tclsh"}

var aliases = map[string]string{
	"nc.openbsd": "nc", "nc.traditional": "nc", "ncat": "nc", "netcat": "nc", "iptables-legacy": "iptables", "iptables-nft": "iptables",
	"ip6tables": "iptables", "ip6tables-legacy": "iptables", "ip6tables-nft": "iptables", "podman": "docker", "nerdctl": "docker", "nodejs": "node",
	"pypy": "python", "pypy3": "python", "luajit": "lua", "gawk": "awk", "mawk": "awk", "nawk": "awk", "original-awk": "awk", "dbclient": "ssh", "autossh": "ssh",
	"php-cgi": "php", "vim": "vi", "vim.basic": "vi", "vim.tiny": "vi", "nvim": "vi", "view": "vi", "egrep": "grep", "fgrep": "grep", "wget2": "wget", "source": ".",
}

// scan reads a token from at on; ok is false at the end.
func (l *line) scan(s string, at int, shell bool) (t token, next int, ok bool) {
	for at < len(s) && (s[at] == ' ' || s[at] == '\t' || s[at] == '\r' || s[at] == '\n' && !shell) {
		at++
	}
	if at >= len(s) {
		return token{}, at, false
	}
	if shell && s[at] == '#' { // a remark, to the end of its line
		end := strings.IndexByte(s[at:], '\n')
		if end < 0 {
			return token{}, len(s), false
		}
		return l.scan(s, at+end, shell)
	}
	if op, n := operator(s[at:]); n > 0 && (shell || alone(s, at, n)) {
		return token{text: op, op: true, start: at}, at + n, true
	}
	t.start = at
	var b strings.Builder
	for at < len(s) {
		c := s[at]
		if c == ' ' || c == '\t' || c == '\r' || c == '\n' {
			break
		}
		switch {
		case c == '\'':
			t.quoted = true
			end := strings.IndexByte(s[at+1:], '\'')
			if end < 0 {
				if !shell && b.Len() > 0 { // an apostrophe
					b.WriteByte(c)
					at++
					continue
				}
				end = len(s) - at - 1
			}
			b.WriteString(s[at+1 : at+1+end])
			at = min(at+end+2, len(s))
			continue
		case c == '"':
			t.quoted = true
			at++
			for at < len(s) && s[at] != '"' {
				if s[at] == '\\' && at+1 < len(s) && strings.IndexByte("\"\\$`", s[at+1]) >= 0 {
					at++
					b.WriteByte(s[at])
					at++
					continue
				}
				if inner, n := l.substitution(s[at:]); n > 0 {
					t.subs = append(t.subs, inner)
					b.WriteString(s[at : at+n])
					at += n
					continue
				}
				b.WriteByte(s[at])
				at++
			}
			at = min(at+1, len(s))
			continue
		case c == '\\' && at+1 < len(s):
			if !shell && s[at+1] != ' ' && s[at+1] != '"' && s[at+1] != '\\' && s[at+1] != ';' { // a path of Windows, or an escape of printf
				b.WriteByte(c)
			}
			b.WriteByte(s[at+1])
			at += 2
			continue
		}
		if inner, n := l.substitution(s[at:]); n > 0 {
			t.subs = append(t.subs, inner)
			b.WriteString(s[at : at+n])
			at += n
			continue
		}
		if shell {
			if _, n := operator(s[at:]); n > 0 {
				break
			}
		} else if c == ';' && at+1 < len(s) && s[at+1] == ' ' && b.Len() > 0 && !t.quoted { // "cd /tmp; wget ..."
			break
		}
		b.WriteByte(c)
		at++
	}
	t.text = b.String()
	return t, at, true
}

// alone reports whether the operator of n bytes stands between blanks, so that it is no part of an argument.
func alone(s string, at, n int) bool {
	end := at + n
	if s[at] == ';' && at > 0 && s[at-1] != ' ' && end < len(s) && s[end] == ' ' {
		return true
	}
	if strings.IndexByte("(){}", s[at]) >= 0 {
		return false
	}
	if s[at] >= '0' && s[at] <= '9' || s[at] == '>' || s[at] == '<' || s[at] == '&' && n > 1 { // 2>/dev/null
		return (at == 0 || s[at-1] == ' ') && end < len(s)
	}
	return (at == 0 || s[at-1] == ' ') && (end == len(s) || s[end] == ' ')
}

// operator is the one at the beginning of s, and its length; 0: there is none.
func operator(s string) (string, int) {
	digits := 0
	for digits < len(s) && digits < 2 && s[digits] >= '0' && s[digits] <= '9' {
		digits++
	}
	if digits > 0 && (digits == len(s) || s[digits] != '>' && s[digits] != '<') {
		return "", 0
	}
	rest := s[digits:]
	for _, op := range [...]string{">&", "<&"} {
		if strings.HasPrefix(rest, op) {
			n := len(op)
			start := n
			for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '-') {
				n++
			}
			if n > start {
				return "dup", digits + n
			}
			return ">", digits + n // >& file
		}
	}
	for _, op := range [...]string{"&>>", "<<<", "&&", "||", "|&", "&>", ">>", "<<", "<>", ">|", ";;"} {
		if strings.HasPrefix(rest, op) {
			return op, digits + len(op)
		}
	}
	if rest != "" && strings.IndexByte(";|&<>(){}\n", rest[0]) >= 0 {
		if (rest[0] == '<' || rest[0] == '>') && len(rest) > 1 && rest[1] == '(' {
			return "", 0 // a process substitution
		}
		if rest[0] == '{' && len(rest) > 1 && rest[1] != ' ' && rest[1] != '\n' || rest[0] == '}' { // a brace expansion
			return "", 0
		}
		return rest[:1], digits + 1
	}
	return "", 0
}

// substitution is the script of a $(...), <(...), >(...) or `...` at the beginning of s, and the length of it all; 0: there is none.
func (l *line) substitution(s string) (string, int) {
	if l.looked > maxLooked {
		return "", 0
	}
	if s[0] == '`' {
		end := strings.IndexByte(s[1:], '`')
		if end < 0 {
			l.looked += len(s)
			return "", 0
		}
		l.looked += end
		return s[1 : 1+end], end + 2
	}
	if len(s) < 2 || s[1] != '(' || s[0] != '$' && s[0] != '<' && s[0] != '>' {
		return "", 0
	}
	deep := 0
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\'':
			if end := strings.IndexByte(s[i+1:], '\''); end >= 0 {
				i += end + 1
			}
		case '(':
			deep++
		case ')':
			if deep--; deep == 0 {
				l.looked += i
				return s[2:i], i + 1
			}
		}
	}
	l.looked += len(s)
	return "", 0
}

// decoded reads base64 that a command line carries; empty: it is none.
func decoded(s string) string {
	if len(s) < 8 || len(s) > maxLine {
		return ""
	}
	for _, e := range [...]*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		if b, err := e.DecodeString(s); err == nil {
			return string(b)
		}
	}
	return ""
}
