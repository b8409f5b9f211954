package report

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestVerifiedAsATag(t *testing.T) {
	const id = "20261122T231500Z-9f31c0de77aa"
	v := Verified{When: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC), Files: 20000, Bytes: 1 << 40, Bad: 2, Healed: 1}
	tag := v.Tag(id)
	if got, is := ParseTag(tag); got != id || !reflect.DeepEqual(*is, v) || len(tag) > 256 {
		t.Errorf("%q: %q, %+v", tag, got, is)
	}
	for _, wrong := range []string{
		"", id, strings.Replace(tag, "files", "file", 1), strings.Replace(tag, "20000", "-1", 1), strings.Replace(tag, "2026-", "26-", 1), tag + " x",
		strings.Replace(tag, id, "x", 1),
	} {
		if got, is := ParseTag(wrong); got != "" || is != nil {
			t.Errorf("%q: %q, %+v", wrong, got, is)
		}
	}
	for word, v := range map[string]*Verified{"": nil, "2 damaged": &v, "2026-11-23T08:00:00Z": {When: v.When}} {
		if got := v.Word(); got != word {
			t.Errorf("%q, want %q", got, word)
		}
	}
}

// What a member writes of what it has read is bounded, and a report without it is one still.
func TestVerifiedInAReport(t *testing.T) {
	for text, want := range map[string]bool{
		`{"schema":1,"volume_id":"vol-1"}`: false,
		`{"schema":1,"volume_id":"vol-1","verified":{"when":"2026-11-23T08:00:00Z","files":3,"bytes":4}}`:          true,
		`{"schema":1,"volume_id":"vol-1","verified":{"when":"2026-11-23T08:00:00Z","files":3,"bytes":4,"bad":-1}}`: false,
	} {
		var r Report
		if !r.read([]byte(text)) || (r.Verified != nil) != want {
			t.Errorf("%s: %+v", text, r)
		}
	}
}
