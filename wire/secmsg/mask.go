package secmsg

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"strings"
)

// Mask says how the texts about people in a message are written over; nil leaves them. A function that is given an empty text is not asked.
type Mask struct {
	User    func(name string) string // names of users, and of groups of users, which often are the same
	Command func(line string) string // command lines
	Text    func(line string) string // of the agent's own log, where either may stand
}

// Rewrite returns a message with the texts written over that m names. Everything else stays as it came, but for the layout of FlatBuffers.
// indicator is as Decode's. A body that Decode cannot read cannot be masked either: the error is that of Decode. The result does not alias body.
func Rewrite(indicator string, body []byte, m Mask) ([]byte, error) {
	if _, err := Decode(indicator, body); err != nil {
		return nil, err
	}
	var masked []byte
	var err error
	if new(Report).encoding(indicator, body) == encodingJSON {
		masked, err = m.json(body)
	} else {
		masked, err = m.flatBuffers(body)
	}
	if err != nil {
		return nil, err
	}
	// What a hostile layout made of it is judged as Decode will.
	if _, err := Decode(indicator, masked); err != nil {
		return nil, err
	}
	return masked, nil
}

// of is the function for a JSON member, in either of the two spellings; nil: it stays.
func (m *Mask) of(member string) func(string) string {
	switch strings.ToLower(strings.ReplaceAll(member, "_", "")) {
	case "username", "groupnames", "user", "users", "groups":
		return m.User
	case "commandline":
		return m.Command
	case "message":
		return m.Text
	}
	return nil
}

// json rewrites strings and copies all else. What stands below a member that is masked is masked whole.
func (m *Mask) json(body []byte) ([]byte, error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	out := make([]byte, 0, len(body)+64)
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	type level struct {
		object bool
		key    bool                // the next string is a member's name
		rule   func(string) string // of the member that is being read, or of all below
		fixed  bool                // rule is that of a member above
	}
	var open []level
	done := 0
	for {
		t, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, jsonError(err)
		}
		end := int(d.InputOffset())
		top := len(open) - 1
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{', '[':
				next := level{object: v == '{', key: v == '{'}
				if top >= 0 {
					if rule := open[top].rule; rule != nil {
						next.rule, next.fixed = rule, true
					}
					open[top].key = open[top].object
				}
				open = append(open, next)
			default:
				open = open[:top]
			}
		case string:
			switch {
			case top >= 0 && open[top].key:
				open[top].key = false
				if !open[top].fixed {
					open[top].rule = m.of(v)
				}
			case top >= 0:
				open[top].key = open[top].object
				if rule := open[top].rule; rule != nil && v != "" {
					text, err := json.Marshal(rule(v))
					if err != nil {
						return nil, err
					}
					start := done + bytes.IndexByte(body[done:end], '"')
					out = append(append(out, body[done:start]...), text...)
					done = end
				}
			}
		default:
			if top >= 0 {
				open[top].key = open[top].object
			}
		}
		out = append(out, body[done:end]...)
		done = end
	}
	return append(out, body[done:]...), nil
}

// edit is a field of a FlatBuffer that gets another string.
type edit struct {
	field, at, n int // the field, and where its string lies
	text         string
}

// flatBuffers appends the new strings, points to them and wipes the old ones.
func (m *Mask) flatBuffers(body []byte) ([]byte, error) {
	b := &buffer{b: body}
	root := b.table(b.follow(0))
	first, n := b.vector(b.follow(root.required(3, 4, "events")), 4)
	var edits []edit
	change := func(t table, id int, rule func(string) string) {
		field, ok := t.field(id, 4)
		if !ok || rule == nil {
			return
		}
		at := b.follow(field)
		if s := b.string(at); s != "" {
			edits = append(edits, edit{field, at + 4, b.length(at), rule(s)})
		}
	}
	for i := range n {
		t := b.table(b.follow(first + 4*i))
		kind := t.u8(3)
		if b.err != nil || kind == 0 || int(kind) >= len(payloads) {
			continue
		}
		p := b.table(b.follow(t.required(4, 4, "the event's payload")))
		switch payloads[kind] {
		case "NetworkActivity":
			for id := range 2 {
				first, n := p.vector(id, 4)
				for j := range n {
					flow := b.table(b.follow(first + 4*j))
					common := b.table(b.follow(flow.required(1, 4, "the common part of a flow")))
					change(common, 8, m.Command)
				}
			}
		case "Process":
			change(p, 4, m.User)
			change(p, 5, m.Command)
		case "Log":
			first, n := p.vector(0, 4)
			for j := range n {
				change(b.table(b.follow(first+4*j)), 0, m.Text)
			}
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	out := bytes.Clone(body)
	for _, e := range edits {
		clear(out[e.at : e.at+e.n])
	}
	placed := map[string]int{}
	for _, e := range edits {
		at, ok := placed[e.text]
		if !ok {
			out = append(out, make([]byte, -len(out)&3)...)
			at = len(out)
			placed[e.text] = at
			out = binary.LittleEndian.AppendUint32(out, uint32(len(e.text)))
			out = append(append(out, e.text...), 0)
			if len(out) > MaxSize {
				return nil, ErrTooLarge
			}
		}
		binary.LittleEndian.PutUint32(out[e.field:], uint32(at-e.field))
	}
	return out, nil
}
