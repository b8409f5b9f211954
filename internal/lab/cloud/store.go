package cloud

import "time"

// store keeps the resources of one kind with their recent past, so that a read can be served as of
// a moment ago: "the EC2 API follows an eventual consistency model … the result of an API command
// might not be immediately visible to all subsequent commands" (EC2 developer guide, "Eventual
// consistency in the Amazon EC2 API"; row 5). An id that was not there yet at that moment is not
// found; a volume may look `available` again.
//
// Values are immutable: a change puts a new value. The account's mutex guards the store.
type store[T any] struct {
	keep time.Duration // how far back reads may go
	rows map[string]*row[T]
	ids  []string // in order of creation
}

type row[T any] struct {
	sequence int // position in ids, from 1: the stuff that NextTokens are made of
	versions []version[T]
}

type version[T any] struct {
	at    time.Time
	value T
	gone  bool
}

// entry is a resource in a list.
type entry[T any] struct {
	sequence int
	value    T
}

func newStore[T any](keep time.Duration) store[T] {
	return store[T]{keep: keep, rows: map[string]*row[T]{}}
}

// get returns the truth.
func (s *store[T]) get(id string) (T, bool) { return s.getAsOf(id, time.Now()) }

// getAsOf returns what was true at a moment.
func (s *store[T]) getAsOf(id string, at time.Time) (T, bool) {
	var none T
	r, ok := s.rows[id]
	if !ok {
		return none, false
	}
	return r.asOf(at)
}

// list returns all that was there at a moment, in order of creation.
func (s *store[T]) list(at time.Time) []entry[T] {
	out := make([]entry[T], 0, len(s.ids))
	for _, id := range s.ids {
		r := s.rows[id]
		if v, ok := r.asOf(at); ok {
			out = append(out, entry[T]{r.sequence, v})
		}
	}
	return out
}

func (s *store[T]) put(id string, value T) { s.add(id, version[T]{at: time.Now(), value: value}) }

// drop makes the resource gone; its past stays readable for a while.
func (s *store[T]) drop(id string) { s.add(id, version[T]{at: time.Now(), gone: true}) }

func (s *store[T]) add(id string, v version[T]) {
	r, ok := s.rows[id]
	if !ok {
		s.ids = append(s.ids, id)
		r = &row[T]{sequence: len(s.ids)}
		s.rows[id] = r
	}
	old := 0 // versions that no read can reach any more
	for old+1 < len(r.versions) && r.versions[old+1].at.Before(v.at.Add(-s.keep)) {
		old++
	}
	r.versions = append(r.versions[old:len(r.versions):len(r.versions)], v)
}

func (r *row[T]) asOf(at time.Time) (T, bool) {
	for i := len(r.versions) - 1; i >= 0; i-- {
		if v := r.versions[i]; !v.at.After(at) {
			return v.value, !v.gone
		}
	}
	var none T
	return none, false
}
