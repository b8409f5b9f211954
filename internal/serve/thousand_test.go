package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/store"
)

// TestAThousandMembersAtOnce: 1,000 members ask for the pointer, all at the same moment and as fast
// as they can, while a publish writes its pack and moves the pointer, again and again. None is
// refused, each sees the last pointer and reads its pack, and no write waits for them.
func TestAThousandMembersAtOnce(t *testing.T) {
	const members, publishes = 1000, 3
	s := start(t, nil)
	at, err := store.NewDirectory(s.dir)
	must(t, err)
	pack := func(n int) string { return fmt.Sprintf("packs/%012x-%012x-%012x", n-1, n, n) }
	last := []byte(pack(publishes))
	begin, all := make(chan struct{}), sync.WaitGroup{}
	for range members {
		all.Go(func() {
			from, err := store.NewHTTP("http://"+s.addr+"/release.json", &http.Transport{})
			if err != nil {
				t.Error(err)
				return
			}
			<-begin
			var version store.Version
			for says := []byte(nil); !bytes.Equal(says, last); {
				data, next, err := store.ReadAll(t.Context(), from, "", 1<<10, version)
				switch {
				case errors.Is(err, store.ErrUnmodified):
					continue
				case err != nil:
					t.Errorf("a member was refused: %v", err)
					return
				}
				says, version = data, next
			}
			object, err := from.Get(t.Context(), string(last), "")
			if err != nil {
				t.Errorf("its pack was refused: %v", err)
				return
			}
			defer object.Body.Close()
			if data, err := io.ReadAll(object.Body); err != nil || len(data) != 4<<10 {
				t.Errorf("a pack of %d bytes: %v", len(data), err)
			}
		})
	}
	close(begin)
	_, version, err := store.ReadAll(t.Context(), at, "release.json", 1<<10, "")
	must(t, err)
	for n := 1; n <= publishes; n++ {
		began := time.Now()
		must(t, at.Put(t.Context(), pack(n), strings.NewReader(strings.Repeat("p", 4<<10))))
		version, err = at.PutIf(t.Context(), "release.json", []byte(pack(n)), version)
		must(t, err)
		if took := time.Since(began); took > patience {
			t.Errorf("a publish took %v", took)
		}
	}
	all.Wait()
	if said := s.log.String(); strings.Contains(said, "connections at once") {
		t.Errorf("connections were closed: %s", said)
	}
}
