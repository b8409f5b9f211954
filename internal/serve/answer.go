package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"regexp"
	"strings"
	"time"

	"ebs-release/internal/advice"
)

// mostDocument is the largest document that is given out, in bytes: a pointer with all its edges is
// far smaller.
const mostDocument = 1 << 20

const (
	neverKept   = "no-store"                            // a cache on the way would serve a stale release
	keptForGood = "public, max-age=31536000, immutable" // RFC 8246
	tryAgain    = "5"                                   // s, Retry-After when too many packs are asked for at once
)

// packName is what follows packs/: two digests and a hash, FROM-TO-HASH.
var packName = regexp.MustCompile(`^[0-9a-z-]{1,100}$`)

// documentType knows the keys that are given out beside packs.
func documentType(key string) (string, bool) {
	switch key {
	case "release.json":
		return "application/json", true
	case "snap.txt":
		return "text/plain; charset=utf-8", true
	}
	return "", false
}

// ServeHTTP answers one request. What the store's directory has beside documents and packs (the
// history, locks, files that are being written) is as if it were not there.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", neverKept)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// net/http reads what is left of a body, for as long as the connection lets it.
		w.Header().Set("Connection", "close")
		if err := control.SetReadDeadline(time.Now().Add(s.limits.header)); err != nil {
			return // the connection is gone
		}
	}
	// As it was sent: a path that is written in another way than ours is none of ours.
	key, rooted := strings.CutPrefix(r.URL.EscapedPath(), "/")
	name, pack := strings.CutPrefix(key, packsDir+"/")
	contentType, document := documentType(key)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET and HEAD only", http.StatusMethodNotAllowed)
	case r.ContentLength != 0:
		http.Error(w, "want a request without a body", http.StatusBadRequest)
	case rooted && document:
		w.Header().Set("Content-Type", contentType)
		s.document(w, r, key)
	case rooted && pack && packName.MatchString(name):
		s.pack(w, control, r, name)
	default:
		http.Error(w, "there are only /release.json, /snap.txt and /packs/NAME", http.StatusNotFound)
	}
}

// document reads a document anew each time. Its ETag is the version that the store gives it.
func (s *Server) document(w http.ResponseWriter, r *http.Request, key string) {
	select {
	case s.documents <- struct{}{}:
	case <-r.Context().Done(): // the client went away
		return
	}
	data, err := s.readDocument(key)
	<-s.documents
	if err != nil {
		s.failed(w, key, "nothing has been published yet", err)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	// No Last-Modified: two versions may be of one second. Without ReadFrom: header and body leave in
	// one write.
	http.ServeContent(struct{ http.ResponseWriter }{w}, r, "", time.Time{}, bytes.NewReader(data))
}

func (s *Server) readDocument(key string) ([]byte, error) {
	file, info, err := open(s.dir, "", key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	if info.Size() > mostDocument {
		return nil, fmt.Errorf("it has %d bytes, want at most %d", info.Size(), mostDocument)
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(file, data) // it does not change: the store replaces files
	return data, err
}

func (s *Server) pack(w http.ResponseWriter, control *http.ResponseController, r *http.Request, name string) {
	select {
	case s.packs <- struct{}{}:
	default:
		s.log.say("%d packs are given out at once: more are asked for, and told to come again in %s s", s.limits.packs, tryAgain)
		w.Header().Set("Retry-After", tryAgain)
		http.Error(w, "too many packs are asked for at once", http.StatusServiceUnavailable)
		return
	}
	defer func() { <-s.packs }()
	file, info, err := open(s.dir, packsDir, name)
	if err != nil {
		s.failed(w, packsDir+"/"+name, "there is no such pack, or not any more", err)
		return
	}
	defer func() { _ = file.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", keptForGood)
	// Its name says what a pack has. Time and size are for one that somebody put right by hand: who
	// goes on with the second half of it begins again.
	w.Header().Set("ETag", fmt.Sprintf(`"%s-%x-%x"`, name, info.Size(), info.ModTime().UnixNano()))
	http.ServeContent(steadyWriter{w, control, s.limits}, r, "", time.Time{}, file)
}

// failed tells the client no more than it has to know. key is one of ours, so the log may have it.
func (s *Server) failed(w http.ResponseWriter, key, missing string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, missing, http.StatusNotFound)
	case errors.Is(err, errNotOurs):
		s.log.say("%v", advice.Try(fmt.Errorf("%s/%s is not given out: %w", s.dir, key, err), "a regular file in its place"))
		http.Error(w, missing, http.StatusNotFound)
	default:
		s.log.say("%v", advice.Try(fmt.Errorf("read %s/%s: %w", s.dir, key, err), "`ls -lan %s`, as the user that serves it", s.dir))
		http.Error(w, "the store cannot be read; its server's log says why", http.StatusInternalServerError)
	}
}

// steadyWriter gives each part of an answer a deadline of its own, so that a client may be slow but
// not stand still. It keeps sendfile(2): net finds a file behind one io.LimitedReader.
type steadyWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limits  limits
}

func (w steadyWriter) ReadFrom(src io.Reader) (n int64, err error) {
	from, ok := src.(*io.LimitedReader)
	if !ok {
		from = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for from.N > 0 {
		if err := w.control.SetWriteDeadline(time.Now().Add(w.limits.part)); err != nil {
			return n, err
		}
		done, err := io.CopyN(w.ResponseWriter, from.R, min(from.N, w.limits.partBytes))
		n, from.N = n+done, from.N-done
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
