// Package debian says how to make a small Debian tree of this machine's own release, from where
// this machine itself gets its packages: the mirrors and the proxy that its apt uses, and no other
// host.
package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ebs-release/internal/advice"
)

// Suite is the release of this machine, like bookworm: VERSION_CODENAME of os-release(5).
func Suite() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("find this machine's Debian release: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("find this machine's Debian release: /etc/os-release has no VERSION_CODENAME")
}

// Bootstrap is the command line, of mmdebstrap(1), that makes a tree of a suite from this machine's
// sources. more are further options.
func Bootstrap(ctx context.Context, suite, tree string, more ...string) ([]string, error) {
	sources, err := sources(ctx, suite)
	if err != nil {
		return nil, fmt.Errorf("find where this machine gets its packages from: %w", err)
	}
	options, err := output(ctx, "apt-config", "dump")
	if err != nil {
		return nil, err
	}
	line := append([]string{"mmdebstrap", "--quiet"}, more...)
	for option := range strings.Lines(options) {
		if strings.HasPrefix(option, "Acquire::http") { // and https: proxies, certificates
			line = append(line, "--aptopt="+strings.TrimSpace(option))
		}
	}
	return append(append(line, suite, tree), sources...), nil
}

// sources are the files of sources.list(5) that name the suite; all of them when they call it
// stable or the like.
func sources(ctx context.Context, suite string) ([]string, error) {
	places, err := output(ctx, "apt-config", "shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d")
	if err != nil {
		return nil, err
	}
	var files []string
	for place := range strings.Lines(places) { // list='/etc/apt/sources.list'
		_, path, _ := strings.Cut(strings.TrimSpace(place), "=")
		path = strings.Trim(path, "'")
		files = append(files, path)
		for _, pattern := range []string{"*.list", "*.sources"} {
			more, err := filepath.Glob(filepath.Join(path, pattern))
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
		}
	}
	var named, all []string
	for _, file := range files {
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		suites := suitesWithMain(string(data))
		if slices.Contains(suites, suite) {
			named = append(named, file)
		}
		if len(suites) > 0 {
			all = append(all, file)
		}
	}
	switch {
	case len(named) > 0:
		return named, nil
	case len(all) > 0:
		return all, nil
	}
	return nil, advice.Try(fmt.Errorf("apt has no source with the component main in any of %v", files), "add one of %s", suite)
}

var (
	oneLine = regexp.MustCompile(`(?m)^\s*deb\s+(?:\[[^]]*\]\s+)?\S+\s+(\S+)\s+(.*)$`)
	field   = regexp.MustCompile(`(?m)^(\w+):(.*(?:\n[ \t].*)*)$`)
)

// suitesWithMain are the suites that a file of sources takes the component main of, in either
// format.
func suitesWithMain(text string) (suites []string) {
	for _, entry := range oneLine.FindAllStringSubmatch(text, -1) {
		if slices.Contains(strings.Fields(entry[2]), "main") {
			suites = append(suites, entry[1])
		}
	}
	for stanza := range strings.SplitSeq(text, "\n\n") {
		words := map[string][]string{}
		for _, f := range field.FindAllStringSubmatch(stanza, -1) {
			words[strings.ToLower(f[1])] = strings.Fields(f[2])
		}
		if slices.Contains(words["types"], "deb") && slices.Contains(words["components"], "main") && !slices.Contains(words["enabled"], "no") {
			suites = append(suites, words["suites"]...)
		}
	}
	return suites
}

func output(ctx context.Context, argv ...string) (string, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return string(out), nil
}
