package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"ebs-release/internal/push"
	"ebs-release/internal/words"
)

// How long a member is left alone after a try that failed. What passes by itself (a lost
// connection) is tried again soon; what a person has to fix (a full disk, a wrong host key) more
// and more seldom.
const (
	shortRest   = 500 * time.Millisecond
	longestRest = 5 * time.Second
	finalRest   = 2 * time.Second
	longestWait = time.Minute
)

// rest is the pause after this many failed tries in a row, with jitter.
func (p *Publisher) rest(tries int, err error) time.Duration {
	first, most := shortRest, longestRest
	if isFinal(err) {
		first, most = finalRest, longestWait
	}
	pause := min(first<<min(tries-1, 10), most)
	return pause*3/4 + p.jitter(pause/2)
}

func (p *Publisher) jitter(below time.Duration) time.Duration {
	if p.Jitter != nil {
		return p.Jitter(below)
	}
	return rand.N(below)
}

// isFinal tells errors that another try a moment later will not fix.
func isFinal(err error) bool {
	for _, final := range []error{
		push.ErrNoHostKey, push.ErrHostKey, push.ErrLogin, push.ErrNoAgent, push.ErrNoSpace, push.ErrRefused, push.ErrFenced,
	} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// timeoutError: a step on a member took longer than this, MemberTimeout.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprintf("took longer than %v", time.Duration(e)) }

// cause is what is wrong, in words that are the same for all members with the same trouble: the
// innermost error. Where there are two, the first says of what kind the other is.
func cause(err error) string {
	if slow, ok := errors.AsType[timeoutError](err); ok {
		return slow.Error()
	}
	for {
		inner := errors.Unwrap(err)
		if both, ok := err.(interface{ Unwrap() []error }); ok {
			inner = both.Unwrap()[0]
		}
		if inner == nil {
			return words.OneLine(err)
		}
		err = inner
	}
}

// MaxFailures is how many members may fail before no new one is begun. The zero value is no limit.
type MaxFailures struct {
	limited bool
	most    int // a count, or a percentage of the members
	percent bool
}

// ParseMaxFailures reads "3", "10%", or "" for no limit.
func ParseMaxFailures(value string) (MaxFailures, error) {
	if value == "" {
		return MaxFailures{}, nil
	}
	number, percent := strings.CutSuffix(value, "%")
	most, err := strconv.Atoi(number)
	if err != nil || most < 0 || percent && most > 100 {
		return MaxFailures{}, fmt.Errorf("%q: want how many members may fail, such as 3 or 10%%", value)
	}
	return MaxFailures{limited: true, most: most, percent: percent}, nil
}

func (m MaxFailures) String() string {
	switch {
	case !m.limited:
		return ""
	case m.percent:
		return fmt.Sprintf("%d%%", m.most)
	}
	return strconv.Itoa(m.most)
}

func (m MaxFailures) exceeded(failed, total int) bool {
	if m.percent {
		return m.limited && failed*100 > m.most*total
	}
	return m.limited && failed > m.most
}

// errTooMany is why a member was not begun.
var errTooMany = errors.New("too many members failed")

// errNotBegun: the time was up before it was this member's turn. Nothing is wrong with it.
var errNotBegun = errors.New("it was not its turn yet")

// tooMany says whether more members have failed than may. The error names them.
func (ms *members) tooMany() error {
	p := ms.progress()
	if !ms.Settings.MaxFailures.exceeded(p.Failed, p.Total) {
		return nil
	}
	return fmt.Errorf("%w (%d of %d, --max-failures %s): %s",
		errTooMany, p.Failed, p.Total, ms.Settings.MaxFailures, ms.group(ms.having(StandsFailed)))
}

// group names members and what is wrong with them, those with the same trouble together. They may
// be worked on meanwhile.
func (ms *members) group(some []*member) string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var order []string
	same := map[string][]*member{}
	for _, m := range some {
		key := m.reason()
		if m.err != nil {
			key = cause(m.err)
		}
		if same[key] == nil {
			order = append(order, key)
		}
		same[key] = append(same[key], m)
	}
	var parts []string
	for _, key := range order {
		if alike := same[key]; len(alike) == 1 {
			parts = append(parts, alike[0].why())
		} else {
			text := fmt.Sprintf("%s: %s", names(alike), key)
			if alike[0].err != nil && cause(alike[0].err) != words.OneLine(alike[0].err) { // what was said there, too
				text += ", such as " + alike[0].why()
			}
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, "; ")
}

// names lists members, not more than a person reads.
func names(some []*member) string {
	const most = 8
	var ids []string
	for _, m := range some {
		ids = append(ids, m.InstanceID)
	}
	slices.Sort(ids)
	if len(ids) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
	}
	return strings.Join(ids, ", ")
}

// passes tells errors after which the member is simply looked at again later: nothing is wrong with
// it.
func passes(err error) bool {
	return errors.Is(err, push.ErrNotReady) || errors.Is(err, errTooMany) || errors.Is(err, errNotBegun)
}

// note keeps how a try on a member ended, and tells a failure the first time that it has this
// cause.
func (ms *members) note(ctx context.Context, m *member, err error) {
	ms.mu.Lock()
	m.busy = false
	interrupted := ctx.Err() != nil
	begun := !errors.Is(err, errTooMany) && !errors.Is(err, errNotBegun)
	if begun && (!interrupted || m.err == nil) { // an interrupt must not hide what was wrong
		m.err = err
	}
	var told *Event
	switch {
	case err == nil:
		m.tries, m.again = 0, time.Time{}
	case interrupted || passes(err):
	default:
		m.tries++
		m.again = time.Now().Add(ms.rest(m.tries, err))
		if why := cause(err); m.told != why {
			m.told = why
			told = &Event{Kind: KindFailed, Member: m.InstanceID, Cause: why, Text: words.OneLine(m.named())}
		}
	}
	m.giveSlotBack() // only now: who takes it next must know of the failure
	ms.mu.Unlock()
	if told != nil {
		ms.say(*told)
	}
}
