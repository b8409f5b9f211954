package report

import (
	"context"
	"errors"
	"slices"
	"sync"

	"ebs-release/internal/store"

	"golang.org/x/sync/errgroup"
)

const (
	// mostListed is for the generation of the pointer and above. A fleet has one or two of each
	// member there; more are somebody's who writes what no agent writes.
	mostListed = 100_000
	// mostBack is how many generations below the pointer's are looked through for members whose
	// report is older. What they reported before that is not known.
	mostBack = 1000
	atOnce   = 16 // requests
	// mostTried is how many reports of one member are read at one look. Only those that are about
	// a volume that it had before, or are withdrawn, come before the one that counts.
	mostTried = 16
)

// Source is a store in S3, as far as reports are read.
type Source interface {
	store.Reader
	List(ctx context.Context, prefix, after string, most int) ([]store.Item, error)
}

// Wanted is a member whose report is looked for.
type Wanted struct {
	Volumes []string // that are attached to it, the root's left out: a report about any other one does not count
	Least   int64    // no report of these volumes has a lower generation
}

// Reader reads reports, and keeps what it has read: most members say nothing new between two looks.
// It is safe for use by many goroutines.
type Reader struct {
	from Source

	mu       sync.Mutex
	kept     map[string]kept  // by key
	searched map[string]int64 // by instance id: it had no report below this generation
}

type kept struct {
	version store.Version
	report  Report
	usable  bool
}

// NewReader reads from a store.
func NewReader(from Source) *Reader {
	return &Reader{from: from, kept: map[string]kept{}, searched: map[string]int64{}}
}

// Newest returns what members have reported last, by instance id: of the reports about one of their
// volumes the newest (Newer). It looks at the generation from and above, where most are, and then
// goes down for those who are missing. A report that was written before Newest was called is seen:
// lists of S3 are strongly consistent.
func (r *Reader) Newest(ctx context.Context, from int64, members map[string]Wanted) (map[string]Report, error) {
	missing := map[string]Wanted{}
	for id, w := range members {
		if len(w.Volumes) > 0 {
			missing[id] = r.further(id, w)
		}
	}
	found := map[string]Report{}
	if len(missing) == 0 {
		return found, nil
	}
	after := Generation(max(from, 0)) // of no report the whole name, so that all of these come after it
	items, err := r.from.List(ctx, Prefix, after, mostListed)
	if err == nil {
		err = r.take(ctx, items, missing, found)
	}
	for below := from; err == nil && len(missing) > 0 && below > max(least(missing), from-mostBack); below -= atOnce {
		var pages []store.Item
		if pages, err = r.listBelow(ctx, below, max(least(missing), below-atOnce, 0)); err == nil {
			err = r.take(ctx, pages, missing, found)
		}
	}
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		for id := range missing {
			r.searched[id] = from
		}
	}
	return found, err
}

// further is what is looked for when an earlier look has found nothing: a member that boots has
// not reported yet, and of one whose volume EC2 brought nobody knows how far down to look. What it
// reports is of the generation of then, or a little below.
func (r *Reader) further(id string, w Wanted) Wanted {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, is := r.searched[id]; is {
		w.Least = max(w.Least, n-atOnce)
	}
	return w
}

func least(members map[string]Wanted) int64 {
	lowest := int64(-1)
	for _, w := range members {
		if lowest < 0 || w.Least < lowest {
			lowest = max(w.Least, 0)
		}
	}
	return lowest
}

// listBelow lists the generations from lowest on that are below another one.
func (r *Reader) listBelow(ctx context.Context, below, lowest int64) ([]store.Item, error) {
	group, ctx := errgroup.WithContext(ctx)
	lists := make([][]store.Item, below-lowest)
	for i := range lists {
		group.Go(func() (err error) {
			lists[i], err = r.from.List(ctx, Generation(lowest+int64(i))+"/", "", mostListed)
			return err
		})
	}
	err := group.Wait()
	return slices.Concat(lists...), err
}

// take moves members from missing to found that items have a report of.
func (r *Reader) take(ctx context.Context, items []store.Item, missing map[string]Wanted, found map[string]Report) error {
	type named struct {
		store.Item
		Report
	}
	said := map[string][]named{} // by instance id
	for _, item := range items {
		if name, ok := ParseKey(item.Key); ok && missing[name.InstanceID].Volumes != nil {
			said[name.InstanceID] = append(said[name.InstanceID], named{item, name})
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	var mu sync.Mutex
	for id, reports := range said {
		volumes := missing[id].Volumes
		slices.SortFunc(reports, func(a, b named) int {
			switch {
			case a.Newer(b.Report):
				return -1
			case b.Newer(a.Report):
				return 1
			}
			return 0
		})
		group.Go(func() error {
			for _, n := range reports[:min(len(reports), mostTried)] {
				is, usable, err := r.read(ctx, n.Item, n.Report)
				if err != nil {
					return err
				}
				if usable && slices.Contains(volumes, is.VolumeID) {
					mu.Lock()
					found[id] = is
					mu.Unlock()
					return nil
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for id := range found {
		delete(missing, id)
	}
	return nil
}

// read returns the report of a name, read anew only where the object is another one.
func (r *Reader) read(ctx context.Context, item store.Item, name Report) (Report, bool, error) {
	r.mu.Lock()
	had, is := r.kept[item.Key]
	r.mu.Unlock()
	if is && item.Version != "" && had.version == item.Version {
		return had.report, had.usable, nil
	}
	usable, err := fetch(ctx, r.from, &name, item.Key)
	if err != nil {
		return Report{}, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[item.Key] = kept{item.Version, name, usable}
	return name, usable, nil
}

// All lists the reports that are there, for who removes them: their objects, and what of them are
// names of reports. Where there are very many it is the first ones.
func All(ctx context.Context, from Source) ([]store.Item, error) {
	items, err := from.List(ctx, Prefix, "", mostListed)
	if errors.Is(err, store.ErrTooMany) {
		return items, nil
	}
	return items, err
}
