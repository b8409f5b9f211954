package cloud

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Objects are a real S3 server, and the keys of its owner.
type Objects struct {
	Address     string // HOST:PORT
	Region      string // that its requests are signed for
	Credentials aws.CredentialsProvider
}

// mostObject is how large a request may be, in bytes: its body is held to look at its signature.
const mostObject = 160 << 20

// S3Handler is the account's S3, in path style: it looks at signature and policies, and hands on,
// in the name of the owner, what is allowed. Faults take its requests by the names of S3's
// operations, and by the key as their resource.
func (a *Account) S3Handler(to Objects) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		operation := s3OperationOf(r, key)
		rec := Call{Service: "s3", Action: operation.name, Resource: key, Mutates: r.Method != http.MethodGet}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostObject))
		if err != nil {
			a.refuseS3(w, r, &apiError{"IncompleteBody", err.Error(), http.StatusBadRequest})
			return
		}
		who, _, err := a.authenticate(r, payloadHash(r, body))
		if err == nil {
			rec.Principal = who.Name()
			body, err = payload(r, body)
		}
		rec = a.arrive(rec)
		pause(a.ctx, a.sample(a.opts.Latency.S3))
		answered := &statusOf{ResponseWriter: w}
		defer func() { rec.Status = answered.status; a.finish(rec) }()
		if err == nil && operation.name == "" {
			err = &apiError{"NotImplemented", "The lab has no " + r.Method + " " + r.URL.RequestURI(), http.StatusNotImplemented}
		}
		if err != nil {
			a.refuseS3(answered, r, err)
			return
		}
		effect, fault := a.fault(rec)
		rec.Faulted = fault != nil
		pause(a.ctx, effect.Delay)
		ask := func(action, arn string, conditions map[string][]string) error {
			c := &call{ctx: a.ctx, account: a, service: "s3", action: action, principal: who}
			return c.ask("s3:"+action, target{arn, conditions})
		}
		conditions := operation.conditions(r, a.opts.AccountID)
		struck := fault != nil && !effect.After && effect.Reply == nil
		if struck {
			if refused := effect.strike(r, a, rec); refused != nil {
				a.refuseS3(answered, r, refused)
				return
			}
		}
		arn := "arn:aws:s3:::" + bucket
		resource := arn
		if key != "" {
			resource += "/" + key
		}
		if err := ask(operation.right, resource, conditions); err != nil {
			a.refuseS3(answered, r, err)
			return
		}
		if effect.Reply != nil {
			effect.Reply(answered)
			return
		}
		if operation.name == "GetBucketLifecycleConfiguration" { // which the real server does not have
			a.answerLifecycle(answered, r)
			return
		}
		// "If the object you request doesn't exist": 404 for who has s3:ListBucket, else 403
		// (GetObject, S3 API reference).
		missing := func() error {
			if operation.name != "GetObject" {
				return nil
			}
			return ask("ListBucket", arn, conditions)
		}
		if fault == nil || !effect.After {
			a.handOn(answered, r, body, to, missing)
			return
		}
		a.handOn(&answer{header: http.Header{}}, r, body, to, missing)
		if refused := effect.strike(r, a, rec); refused != nil {
			a.refuseS3(answered, r, refused)
		}
	})
}

// SetLifecycle gives the buckets lifecycle rules, as XML (LifecycleConfiguration, S3 API
// reference); "": none. Nothing carries them out.
func (a *Account) SetLifecycle(rules string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lifecycle = rules
}

func (a *Account) answerLifecycle(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	rules := a.lifecycle
	a.mu.Unlock()
	if rules == "" {
		a.refuseS3(w, r, &apiError{"NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist", http.StatusNotFound})
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = io.WriteString(w, rules) // the client may have left: nothing to be done
}

// handOn has the real server answer; missing is asked where that has no such object.
func (a *Account) handOn(w http.ResponseWriter, r *http.Request, body []byte, to Objects, missing func() error) {
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }) // S3's own rule
	(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", to.Address, to.Address
			for _, own := range []string{
				"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "Accept-Encoding", "User-Agent",
				"Content-Encoding", "X-Amz-Decoded-Content-Length", "X-Amz-Trailer", // of a body in chunks
			} {
				p.Out.Header.Del(own)
			}
			sum := sha256.Sum256(body)
			hash := hex.EncodeToString(sum[:])
			p.Out.Header.Set("X-Amz-Content-Sha256", hash)
			p.Out.Body, p.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			keys, err := to.Credentials.Retrieve(p.Out.Context())
			if err == nil {
				err = signer.SignHTTP(p.Out.Context(), keys, p.Out, hash, "s3", to.Region, time.Now())
			}
			if err != nil {
				a.log.Error("sign a request to S3", "error", err)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode != http.StatusNotFound {
				return nil
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(bytes.NewReader(text))
			if err == nil && bytes.Contains(text, []byte("<Code>NoSuchKey</Code>")) {
				return missing()
			}
			return err
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { a.refuseS3(w, r, err) },
	}).ServeHTTP(w, r)
}

// statusOf notes the status of an answer.
type statusOf struct {
	http.ResponseWriter

	status int
}

func (s *statusOf) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// refuseS3 answers as S3 does ("REST error responses", S3 API reference).
func (a *Account) refuseS3(w http.ResponseWriter, r *http.Request, err error) {
	known, ok := errors.AsType[*apiError](err)
	if !ok {
		known = &apiError{"InternalError", "the lab failed: " + err.Error(), http.StatusInternalServerError}
	}
	text, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: known.Code, Message: known.Message})
	if err != nil {
		a.log.Error("cannot encode an error", "error", err)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Date", time.Now().Add(-a.clockOfKey(r)).UTC().Format(http.TimeFormat))
	w.WriteHeader(known.Status)
	_, _ = w.Write(text) // the client may have left: nothing to be done
}
