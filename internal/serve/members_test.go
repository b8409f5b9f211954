package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"

	"ebs-release/internal/store"
)

// The members' end of it: the same reader that a boot has.
func TestMembersReadTheStore(t *testing.T) {
	s := start(t, nil)
	whole := bytes.Repeat([]byte("pack"), 1<<20)
	put(t, s.dir, packKey, whole)
	from, err := store.NewHTTP("http://"+s.addr+"/release.json", nil)
	must(t, err)
	ctx := t.Context()

	data, version, err := store.ReadAll(ctx, from, "", 1<<10, "")
	if err != nil || string(data) != "{\"schema\":1}\n" || version == "" {
		t.Fatalf("%q, version %q, %v", data, version, err)
	}
	for _, key := range []string{"", "release.json"} {
		if _, err := from.Get(ctx, key, version); !errors.Is(err, store.ErrUnmodified) {
			t.Errorf("%q with its version: %v", key, err)
		}
	}
	put(t, s.dir, "release.json", []byte("next"))
	if data, next, err := store.ReadAll(ctx, from, "", 1<<10, version); err != nil || string(data) != "next" || next == version {
		t.Errorf("with the version before: %q, version %q, %v", data, next, err)
	}

	object, err := from.Get(ctx, packKey, "")
	must(t, err)
	got, err := io.ReadAll(object.Body)
	object.Body.Close()
	if err != nil || !bytes.Equal(got, whole) || object.Size != int64(len(whole)) {
		t.Errorf("a pack: %d bytes of %d, said %d: %v", len(got), len(whole), object.Size, err)
	}
	for _, key := range []string{"packs/0-1-2", "history.jsonl", ".store"} {
		if _, err := from.Get(ctx, key, ""); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// A member that is told to come again knows after how long.
func TestMembersAreToldToWait(t *testing.T) {
	s := start(t, func(l *limits) { l.packs = 0 })
	from, err := store.NewHTTP("http://"+s.addr+"/release.json", http.DefaultTransport)
	must(t, err)
	_, err = from.Get(t.Context(), packKey, "")
	if said, ok := errors.AsType[*store.Error](err); !ok || said.Final || said.Wait.Seconds() != 5 {
		t.Errorf("%+v", err)
	}
}
