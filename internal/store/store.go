// Package store keeps objects by key where the publisher writes them and the members read them: in
// a directory that `ebs-release serve` gives out (Directory; HTTP reads it from elsewhere), or
// below a prefix of an S3 bucket (S3). What the objects say is not its business.
//
//	key      a slash-separated path below the place, such as release.json
//	version  which content a key has; a change of the content is a change of the version
//
// Two writers are kept apart by PutIf alone: it replaces exactly the version that its caller has
// read. All kinds pass the same tests (contract_test.go).
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"ebs-release/internal/advice"
)

// Version is opaque: the hash of a file, the ETag of an object of S3. "": there is none.
type Version string

// MaxDocument is the largest object that has a version, in bytes: what is replaced by PutIf.
const MaxDocument = 16 << 20

// documentTime is for reading one.
const documentTime = 15 * time.Second

// Reader is where objects are read.
type Reader interface {
	// Get opens an object, unless it still has the version that the caller has: ErrUnmodified.
	// ErrNotFound: there is none. ctx holds for reading the body, too; the caller closes it.
	Get(ctx context.Context, key string, unless Version) (Object, error)
	// String is the place, for a person: without a password.
	String() string
}

// Store is where objects are written.
type Store interface {
	Reader
	// PutIf replaces the object if it still has the version was ("": if there is none), and returns
	// its new version. ErrChanged: another one was there, and nothing was written. ErrUnclear: it
	// may be written, now or a moment later. After any other error nothing was written.
	PutIf(ctx context.Context, key string, data []byte, was Version) (Version, error)
	// Put writes an object, whatever was there, from where body is up to its end. It is streamed,
	// and read more than once where a try fails. It is there as a whole or not at all.
	Put(ctx context.Context, key string, body io.ReadSeeker) error
	// List returns the objects whose keys begin with prefix and come after another key ("": all of
	// these), sorted by key. More than most are ErrTooMany, with the first ones.
	List(ctx context.Context, prefix, after string, most int) ([]Item, error)
	// Delete removes an object; one that is not there is fine.
	Delete(ctx context.Context, key string) error
}

// Object is an open object.
type Object struct {
	Body    io.ReadCloser
	Size    int64   // in bytes; -1: not known
	Version Version // "" above MaxDocument in a directory, and where a web server says none
}

// Item is an object in a list.
type Item struct {
	Key      string
	Size     int64
	Modified time.Time
	Version  Version // "" in a directory, which would have to read each
}

var (
	// ErrNotFound says that no object has the key.
	ErrNotFound = errors.New("there is no such object")
	// ErrDenied says that there is no such object, or that it may not be read: S3 tells the two
	// apart only for who may list the bucket.
	ErrDenied = errors.New("it is not there, or may not be read")
	// ErrUnmodified says that the object has the version that the caller has.
	ErrUnmodified = errors.New("it has not changed")
	// ErrChanged says that somebody else wrote the object first. Nothing was written.
	ErrChanged = errors.New("somebody else wrote it meanwhile")
	// ErrTooMany says that a list goes on beyond what its caller wants.
	ErrTooMany = errors.New("there are too many objects")
	// ErrTooLarge says that an object has more bytes than its reader takes.
	ErrTooLarge = errors.New("it is larger")
	// ErrUnclear says that nobody knows whether an object was written, or still will be.
	ErrUnclear = errors.New("it is not known whether it was written")
)

// named is an error of one of these kinds in words of its own.
type named struct {
	error
	kind error
}

func (n named) Unwrap() []error { return []error{n.error, n.kind} }

// Error says what was tried, on what, and what came of it, with advice.
type Error struct {
	Op    string        // read, write, list, delete, look at
	On    string        // s3://bucket/prefix/key, /srv/release/release.json, http://…
	Err   error         // what was answered, and what to do
	Final bool          // another try does not change it
	Wait  time.Duration // what the server asks for before another try; 0: nothing
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.On, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReadAll returns an object of at most most bytes, and its version, within documentTime.
func ReadAll(ctx context.Context, r Reader, key string, most int64, unless Version) ([]byte, Version, error) {
	ctx, cancel := context.WithTimeout(ctx, documentTime)
	defer cancel()
	object, err := r.Get(ctx, key, unless)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = object.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(object.Body, most+1))
	switch {
	case err != nil:
		return nil, "", &Error{Op: opRead, On: object.on(r, key), Err: advice.Try(fmt.Errorf("the answer is cut off after %d bytes: %w",
			len(data), err),
			"again; then look at what is between here and there")}
	case int64(len(data)) > most:
		return nil, "", &Error{Op: opRead, On: object.on(r, key),
			Err: advice.Try(fmt.Errorf("%w than %d KiB: this is not what is wanted", ErrTooLarge, most>>10),
				"look at what lies there, and who put it there")}
	}
	return data, object.Version, nil
}

func (Object) on(r Reader, key string) string {
	if key == "" {
		return r.String()
	}
	return r.String() + "/" + key
}

const (
	firstBackoff = 250 * time.Millisecond
	mostBackoff  = 5 * time.Second
)

// Backoff is how long who reads for a member waits after a try that failed, from 1: it doubles from
// a quarter of a second to five seconds, with jitter, as many instances boot at once. What a server
// asks for (Error.Wait) goes first.
func Backoff(try int, told time.Duration) time.Duration {
	if told > 0 {
		return told
	}
	wait := mostBackoff
	if try < 6 {
		wait = min(firstBackoff<<(try-1), mostBackoff)
	}
	return wait/2 + rand.N(wait/2)
}

const (
	opRead   = "read"
	opWrite  = "write"
	opList   = "list"
	opDelete = "delete"
	opLook   = "look at"
)

// checkKey keeps a key below its place: S3 takes any, a directory must not.
func checkKey(key string) error {
	if key == "" || len(key) > 512 || path.Clean("/"+key) != "/"+key || strings.ContainsAny(key, "\x00\\") {
		return fmt.Errorf("%q is no key of an object", key)
	}
	return nil
}
