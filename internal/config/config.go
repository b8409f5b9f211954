// Package config resolves settings in the order flag > environment > file > default, and remembers
// where each value came from.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
)

// Setting is one thing that can be configured. Key is its name in the file and as a flag.
type Setting struct {
	Key     string                   // mount-point
	Env     string                   // EBS_RELEASE_MOUNT_POINT
	Default string                   // /release
	Usage   string                   // what it does, with its unit
	Check   func(value string) error // optional: refuses a bad value
}

// Value is a resolved setting. Source is "flag --KEY", "environment ENV", "file PATH" or "default".
type Value struct {
	Key    string `json:"key"`
	Env    string `json:"env"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Values are all settings of a program, resolved, in the order of its table.
type Values []Value

// text is a flag that Load reads.
type text struct{ value, kind string }

func (t *text) String() string         { return t.value }
func (t *text) Set(value string) error { t.value = value; return nil }
func (t *text) Type() string           { return t.kind } // what help says that it takes

// kind of value a default is.
func kind(value string) string {
	if _, err := strconv.Atoi(value); err == nil {
		return "int"
	}
	if _, err := time.ParseDuration(value); err == nil {
		return "duration"
	}
	return "string"
}

// AddFlags adds a flag for each setting. The flag's own default stays empty: Load knows the real
// one.
func AddFlags(flags *pflag.FlagSet, table []Setting) {
	for _, s := range table {
		usage := s.Usage + " [$" + s.Env + "]"
		if s.Default != "" {
			usage += fmt.Sprintf(" (default %s)", s.Default)
		}
		flags.Var(&text{kind: kind(s.Default)}, s.Key, usage)
	}
}

// Load resolves every setting of table. A file that does not exist is an empty one, unless --config
// names it (and not ""); a key that the table does not have is an error.
func Load(table []Setting, file string, flags *pflag.FlagSet, getenv func(string) string) (Values, error) {
	if file != "" && flags != nil && flags.Changed("config") {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
	}
	inFile, err := readFile(table, file)
	if err != nil {
		return nil, err
	}
	var values Values
	for _, s := range table {
		v := Value{Key: s.Key, Env: s.Env, Value: s.Default, Source: "default"}
		if fromFile, ok := inFile[s.Key]; ok {
			v.Value, v.Source = fromFile, "file "+file
		}
		if env := getenv(s.Env); env != "" {
			v.Value, v.Source = env, "environment "+s.Env
		}
		if flags != nil && flags.Changed(s.Key) {
			v.Value, v.Source = flags.Lookup(s.Key).Value.String(), "flag --"+s.Key
		}
		if s.Check != nil {
			if err := s.Check(v.Value); err != nil {
				return nil, fmt.Errorf("setting %s: %w", v, err)
			}
		}
		values = append(values, v)
	}
	return values, nil
}

func readFile(table []Setting, file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || file == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")): // an editor's mark of UTF-8, which TOML does not have
		data = data[3:]
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return nil, advice.Try(fmt.Errorf("read configuration %s: it is UTF-16", file), "save it as UTF-8")
	}
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", file, err)
	}
	values := map[string]string{}
	for key, v := range raw {
		if !slices.ContainsFunc(table, func(s Setting) bool { return s.Key == key }) {
			return nil, fmt.Errorf("read configuration %s: there is no setting %q (its flags in --help have the names)", file, key)
		}
		switch v := v.(type) {
		case string:
			values[key] = v
		case int64:
			values[key] = strconv.FormatInt(v, 10)
		case bool:
			values[key] = strconv.FormatBool(v)
		case []any:
			words := make([]string, len(v))
			for i, w := range v {
				words[i] = fmt.Sprint(w)
			}
			values[key] = strings.Join(words, ",")
		default:
			return nil, fmt.Errorf("read configuration %s: %s must be a string, a number, true or false, or a list of strings", file, key)
		}
	}
	return values, nil
}

// Get returns the value of key. A key that the table does not have is a mistake in the program and
// gives "".
func (v Values) Get(key string) string { return v.Of(key).Value }

// Of is Get, with where the value comes from.
func (v Values) Of(key string) Value {
	for _, s := range v {
		if s.Key == key {
			return s
		}
	}
	return Value{}
}

// String is how an error speaks of a setting.
func (v Value) String() string { return fmt.Sprintf("%s is %q (from %s)", v.Key, v.Value, v.Source) }

// Duration returns the value of key as a duration; the table's Check has refused anything else (see
// CheckDuration).
func (v Values) Duration(key string) time.Duration {
	d, _ := time.ParseDuration(v.Get(key))
	return d
}

// Int returns the value of key as a number; the table's Check has refused anything else (see
// CheckInt).
func (v Values) Int(key string) int {
	n, _ := strconv.Atoi(v.Get(key))
	return n
}

// List returns the comma-separated words of key, trimmed, empty ones left out.
func (v Values) List(key string) []string {
	var words []string
	for w := range strings.SplitSeq(v.Get(key), ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// CheckDuration accepts a Go duration above zero: 90s, 4m.
func CheckDuration(value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return errors.New("want a duration above zero, such as 90s or 4m")
	}
	return nil
}

// CheckInt accepts a whole number from low to high.
func CheckInt(low, high int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < low || n > high {
			return fmt.Errorf("want a whole number from %d to %d", low, high)
		}
		return nil
	}
}

// CheckOneOf accepts one of words.
func CheckOneOf(words ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(words, value) {
			return fmt.Errorf("want one of %s", strings.Join(words, ", "))
		}
		return nil
	}
}
