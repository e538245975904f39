package privacy

import (
	"regexp"
	"strings"
)

const mask = "[masked]"

// assignment is how a variable of the environment, which is set for one command, begins.
var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\[[^\]]*\])?\+?=`)

// Command is what a command line becomes: its first word, and a mark when there were more. Of variables that are set before it the names stay,
// and where a value may hide what follows nothing does.
func Command(line string) string {
	line = strings.TrimSpace(line)
	var b strings.Builder
	for {
		name := assignment.FindString(line)
		if name == "" {
			break
		}
		b.WriteString(name + mask)
		end, plain := value(line[len(name):])
		rest := strings.TrimSpace(line[len(name)+end:])
		if rest == "" {
			return b.String()
		}
		b.WriteByte(' ')
		if !plain {
			return b.String() + mask
		}
		line = rest
	}
	if line == "" {
		return ""
	}
	word := line[:first(line)]
	if assignment.MatchString(strings.TrimLeft(word, `"'`)) {
		word = ""
	}
	switch word {
	case "":
		return b.String() + mask
	case line:
		return b.String() + word
	}
	return b.String() + word + " " + mask
}

// operators end a word of a shell without a space.
const operators = ";&|<>()`"

// value is how long the value of an assignment is. It is not plain when it holds a command of its own, or does not end as a shell would
// have it.
func value(s string) (end int, plain bool) {
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote == '\'':
		case c == '`', c == '$' && strings.HasPrefix(s[i+1:], "("):
			return i, false
		case quote != 0:
		case c == '"', c == '\'':
			quote = c
		case strings.IndexByte(operators, c) >= 0:
			return i, false
		case strings.IndexByte(" \t\r\n", c) >= 0:
			return i, true
		}
	}
	return len(s), quote == 0
}

// first is how long the first word is, quotes and all.
func first(line string) int {
	if q := line[0]; q == '"' || q == '\'' {
		if closing := strings.IndexByte(line[1:], q); closing >= 0 {
			return closing + 2
		}
	}
	end := strings.IndexAny(line, " \t\r\n"+operators)
	if dollar := strings.Index(line, "$("); dollar >= 0 && (end < 0 || dollar < end) {
		end = dollar
	}
	if end < 0 {
		return len(line)
	}
	return end
}
