package pointer

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

const digest = "9f31c0de77aa0000000000000000000000000000000000000000000000000000"

func sample(generation int64) Pointer {
	return Pointer{
		Schema: 1, Generation: generation, Release: "20261122T231500Z-9f31c0de77aa", Digest: digest,
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
		Created:   time.Date(2026, 11, 22, 23, 15, 0, 0, time.UTC), By: "alice", Message: "fix <b>",
	}
}

func TestRenderedPointerIsReadBack(t *testing.T) {
	want := sample(42)
	got, err := Parse(want.Render())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if got.Legacy() {
		t.Fatal("a JSON pointer is not a legacy one")
	}
	if id, err := got.Snapshot("eu-west-1"); err != nil || id != "snap-0123456789abcdef0" {
		t.Fatalf("Snapshot = %q, %v", id, err)
	}
	if _, err := got.Snapshot("us-east-1"); err == nil || !strings.Contains(err.Error(), "no snapshot in region us-east-1, only in eu-west-1") {
		t.Fatalf("Snapshot of another region: %v", err)
	}
}

func TestPlainLineIsALegacyPointer(t *testing.T) {
	for _, line := range []string{"snap-0123456789abcdef0", "snap-0123456789abcdef0\n", " snap-0123456789abcdef0\r\n", "snap-01234567\n"} {
		p, err := Parse([]byte(line))
		if err != nil {
			t.Fatalf("Parse(%q): %v", line, err)
		}
		want := strings.TrimSpace(line)
		if id, err := p.Snapshot("anywhere"); !p.Legacy() || p.Generation != 0 || err != nil || id != want {
			t.Fatalf("Parse(%q) = %+v, snapshot %q, %v", line, p, id, err)
		}
		if got := string(p.Render()); got != want+"\n" {
			t.Fatalf("Render = %q", got)
		}
	}
}

func TestUnknownFieldsOfAKnownSchemaArePassedOver(t *testing.T) {
	data := bytes.Replace(sample(3).Render(), []byte("{"), []byte(`{"colour": "blue",`), 1)
	if p, err := Parse(data); err != nil || p.Generation != 3 {
		t.Fatalf("got %+v, %v", p, err)
	}
}

func TestBadPointersSayWhatIsWrong(t *testing.T) {
	good := string(sample(42).Render())
	with := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("test bug: no %q in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, tc := range []struct{ name, data, want string }{
		{"empty", "", "is empty"},
		{"only a newline", " \n", "is empty"},
		{"HTML", "<!DOCTYPE html><html><body>Sign in</body></html>", "is HTML"},
		{"10 MB", strings.Repeat("x", 10<<20), "larger than 128 KiB"},
		{"words", "It works!\nsecond line", `it begins with "It works!\nsecond line"`},
		{"a JSON list", "[1]", "neither JSON nor a line"},
		{"garbage JSON", `{"schema": 1, "generation": oops}`, "not valid JSON: invalid character 'o'"},
		{"cut off", good[:len(good)/2], "not valid JSON: it is cut off"},
		{"two documents", good + good, "there is more after its end"},
		{"no schema", `{"generation": 7}`, "has no schema"},
		{"unknown schema", with(`"schema": 1`, `"schema": 7`), "has schema 7, this program knows schemas 1 and 2: update"},
		{"a signed one without its envelope", with(`"schema": 1`, `"schema": 2`), "it is cut off"},
		{"packs, and no signature", with(`"schema": 1`, `"schema": 1, "edges": [{}]`), "lists packs or keys, and is not signed"},
		{"keys, and no signature", with(`"schema": 1`, `"schema": 1, "keys": ["x"]`), "lists packs or keys, and is not signed"},
		{"other types in an unknown schema", `{"schema": 3, "generation": {"a": 1}}`, "has schema 3"},
		{"generation 0", with(`"generation": 42`, `"generation": 0`), "generation 0, want a generation of 1"},
		{"negative generation", with(`"generation": 42`, `"generation": -1`), "generation -1"},
		{"generation too large", with(`"generation": 42`, `"generation": 99999999999999999999`), "not valid JSON"},
		{"a generation that JSON cannot hold", with(`"generation": 42`, `"generation": 9007199254740992`), "generation 9007199254740992"},
		{"the highest integer", with(`"generation": 42`, `"generation": 9223372036854775807`), "generation 9223372036854775807"},
		{"release climbs out", with("20261122T231500Z-9f31c0de77aa", "../../etc"), `release "../../etc" is not a release id`},
		{"digest too short", with(digest, "9f31"), `digest "9f31" is not 64`},
		{"digest in capitals", with(digest, strings.ToUpper(digest)), "is not 64 lower-case hex digits"},
		{"no snapshots", with(`"eu-west-1": "snap-0123456789abcdef0"`, ""), "names no snapshot"},
		{"wrong snapshot id", with("snap-0123456789abcdef0", "vol-0123456789abcdef0"), `snapshot id "vol-0123456789abcdef0" for eu-west-1 is wrong`},
		{"empty region", with(`"eu-west-1"`, `""`), `"" is not a region`},
		{"wrong snapshot id in a line", "snap-xyz\n", `no valid snapshot id: "snap-xyz"`},
		{"two lines", "snap-01234567\nsnap-01234567\n", "no valid snapshot id"},
		{"not UTF-8", "\xff\xfe\x00", `begins with "\xff\xfe\x00"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Parse([]byte(tc.data))
			if err == nil {
				t.Fatalf("taken for a pointer: %+v", p)
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 200 {
				t.Fatalf("error %q, want one short line with %q", err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(42).Render())
	f.Add([]byte("snap-0123456789abcdef0\n"))
	f.Add([]byte("<html>"))
	f.Add([]byte(`{"schema":1,"generation":1,"release":"x","digest":"","snapshots":{"":"snap-01234567"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("not one line: %q", err)
			}
			return
		}
		again, err := Parse(p.Render())
		if err != nil {
			t.Fatalf("what Parse took, Render made invalid: %v\n%s", err, p.Render())
		}
		if !again.Created.Equal(p.Created) {
			t.Fatalf("created: %v, then %v", p.Created, again.Created)
		}
		again.Created = p.Created
		if !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v, then %+v", p, again)
		}
	})
}

func TestRegionsOfAllPartitions(t *testing.T) {
	for _, region := range []string{"eu-central-1", "us-gov-west-1", "cn-north-1", "us-iso-east-1", "eusc-de-east-1"} {
		if err := CheckRegion(region); err != nil {
			t.Error(err)
		}
	}
	for _, region := range []string{"", "e-central-1", "eu-central", "eu-central-1a", "eu", "../eu-central-1"} {
		if CheckRegion(region) == nil {
			t.Errorf("%q passes", region)
		}
	}
}
