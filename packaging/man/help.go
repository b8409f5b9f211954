package main

import (
	"fmt"
	"strings"
)

// help is what --help of one verb says, taken apart.
type help struct {
	text     []string // paragraphs; one with line breaks in it is a table, to be left as it is
	usage    string   // ebs-release publish SOURCE [flags]
	examples []string // lines
	commands []entry
	flags    []entry
}

// entry is a verb or a flag, with one line about it.
type entry struct{ name, about string }

// parse reads the help that a verb prints: text, then sections with a heading at the margin and
// indented lines. Global flags are on the page once, as the flags of the program.
func parse(out string) (help, error) {
	var h help
	section := ""
	var paragraph []string
	table := false
	flush := func() {
		between := " "
		if table {
			between = "\n"
		}
		if len(paragraph) > 0 {
			h.text = append(h.text, strings.Join(paragraph, between))
		}
		paragraph, table = nil, false
	}
	for line := range strings.SplitSeq(out, "\n") {
		line = strings.TrimRight(line, " \r")
		if heading, ok := strings.CutSuffix(line, ":"); ok && isSection(heading) {
			flush()
			section = heading
			continue
		}
		trimmed := strings.TrimSpace(line)
		switch section {
		case "":
			if trimmed == "" {
				flush()
			} else {
				paragraph = append(paragraph, line)
				table = table || strings.Contains(line, "  ")
			}
		case "Examples":
			if trimmed != "" || len(h.examples) > 0 {
				h.examples = append(h.examples, strings.TrimPrefix(line, "  "))
			}
		default:
			switch {
			case trimmed == "" || !strings.HasPrefix(line, " "): // the last lines say how to get more help
			case section == "Flags" && !strings.HasPrefix(trimmed, "-") && len(h.flags) > 0:
				h.flags[len(h.flags)-1].about += " " + trimmed
			default:
				h.add(section, trimmed)
			}
		}
	}
	if h.usage == "" {
		return help{}, fmt.Errorf("the help has no usage line:\n%s", out)
	}
	return h, nil
}

func isSection(heading string) bool {
	switch heading {
	case "Usage", "Aliases", "Examples", "Available Commands", "Additional Commands", "Flags", "Global Flags", "Additional help topics":
		return true
	}
	return false
}

func (h *help) add(section, line string) {
	switch section {
	case "Usage":
		if h.usage == "" || strings.HasSuffix(h.usage, "[flags]") { // a verb with verbs below has two usage lines: the second is the useful one
			h.usage = line
		}
	case "Available Commands", "Additional Commands":
		h.commands = append(h.commands, columns(line))
	case "Flags":
		h.flags = append(h.flags, columns(line))
	}
}

// columns splits "-o, --output string   format of reports" at the first gap of two spaces or more.
func columns(line string) entry {
	name, about, _ := strings.Cut(line, "  ")
	return entry{name, strings.TrimSpace(about)}
}
