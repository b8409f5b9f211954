package follow

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/release"
	"ebs-release/internal/store"
)

// counting counts the packs that are fetched, for a volume with another id.
type counting struct {
	*world
	fetched atomic.Int32
	id      atomic.Value
}

func (c *counting) Volume(ctx context.Context) (*release.Volume, string, error) {
	v, _, err := c.world.Volume(ctx)
	return v, c.id.Load().(string), err
}

type countingReader struct {
	store.Reader
	fetched *atomic.Int32
}

func (c *counting) Store(ctx context.Context) (store.Reader, error) {
	r, err := c.world.Store(ctx)
	return countingReader{r, &c.fetched}, err
}

func (c countingReader) Get(ctx context.Context, key string, unless store.Version) (store.Object, error) {
	c.fetched.Add(1)
	return c.Reader.Get(ctx, key, unless)
}

// Nothing can be made of a release that was edited: that costs its packs seldom, and says what to
// do. Another pointer and another base are tried at once.
func TestAnEditedBase(t *testing.T) {
	w := newWorld(t, 3)
	v, err := release.Open(w.member)
	must(t, err)
	defer v.Close()
	on, err := v.Current()
	must(t, err)
	path := w.member + "/releases/" + on + "/same"
	was, err := os.Stat(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte("xxxx"), 0o644))
	c := &counting{world: w}
	c.id.Store("vol-1")
	f := w.follower()
	f.Store, f.Member = c, c
	w.follow(t, f, func() {
		w.say(w.names(2, 2))
		w.pass(50 * time.Minute)
		if n := c.fetched.Load(); n != 1 || !strings.Contains(w.told.Trouble, ". Try: ebs-release-agent up") || strings.Count(w.told.Trouble, "Try: ") != 1 {
			t.Errorf("%d packs fetched, told %+v", n, w.told)
		}
		w.pass(2 * time.Hour)
		if n := c.fetched.Load(); n < 2 || n > 4 {
			t.Errorf("%d packs fetched in three hours", n)
		}
		before := c.fetched.Load()
		w.say(w.names(3, 3))
		w.pass(longest)
		if c.fetched.Load() == before {
			t.Error("another pointer was not tried")
		}
		must(t, os.WriteFile(path, []byte("same"), 0o644)) // as another volume has it
		must(t, os.Chtimes(path, was.ModTime(), was.ModTime()))
		c.id.Store("vol-2")
		w.pass(mostPause)
		if is := w.holds(); is.release != w.releases[2].ID || w.told.Trouble != "" || w.told.Reported.VolumeID != "vol-2" {
			t.Errorf("another volume was not tried: it is %+v, told %+v", is, w.told)
		}
	})
}
