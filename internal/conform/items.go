package conform

import (
	"embed"
	"fmt"
	"strings"
	"sync"
)

//go:embed items/*.txt
var files embed.FS

// Spec is one wire reference's checklist.
type Spec struct {
	Name   string // hub-device
	Prefix string // HD
	Items  []Item
}

// Item is one line of a checklist.
type Item struct {
	ID   string // HD-21
	Text string
}

// order is that of the specs in the register.
var order = []string{"hub-device", "hub-service", "dps", "edge", "defender", "sphere", "rtos", "central"}

// Specs returns the checklists of all eight wire references.
var Specs = sync.OnceValue(func() []Spec {
	var specs []Spec
	for _, name := range order {
		data, err := files.ReadFile("items/" + name + ".txt")
		if err != nil {
			panic(err)
		}
		s := Spec{Name: name}
		for line := range strings.Lines(string(data)) {
			id, text, ok := strings.Cut(strings.TrimRight(line, "\n"), "\t")
			prefix, _, dash := strings.Cut(id, "-")
			if !ok || !dash {
				panic(fmt.Sprintf("conform: %s: bad line %q", name, line))
			}
			s.Prefix = prefix
			s.Items = append(s.Items, Item{ID: id, Text: text})
		}
		specs = append(specs, s)
	}
	return specs
})

var ids = sync.OnceValue(func() map[string]bool {
	m := make(map[string]bool)
	for _, s := range Specs() {
		for _, it := range s.Items {
			m[it.ID] = true
		}
	}
	return m
})

func known(id string) bool { return ids()[id] }
