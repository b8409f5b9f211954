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
const mostObject = 64 << 20

// S3Handler is the account's S3, in path style: it looks at signature and policy, and hands on, in
// the name of the owner, what is allowed.
func (a *Account) S3Handler(to Objects) http.Handler {
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }) // S3's own rule
	proxy := func(w http.ResponseWriter, r *http.Request, body []byte, listing func() error) {
		(&httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", to.Address, to.Address
				for _, own := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", "Accept-Encoding", "User-Agent"} {
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
				if resp.StatusCode == http.StatusNotFound {
					return listing()
				}
				return nil
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { a.refuseS3(w, r, err) },
		}).ServeHTTP(w, r)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostObject))
		if err != nil {
			a.refuseS3(w, r, &apiError{"IncompleteBody", err.Error(), http.StatusBadRequest})
			return
		}
		who, _, err := a.authenticate(r, body)
		if err != nil {
			a.refuseS3(w, r, err)
			return
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		action, known := map[string]string{http.MethodGet: "GetObject", http.MethodPut: "PutObject", http.MethodDelete: "DeleteObject"}[r.Method]
		arn := "arn:aws:s3:::" + bucket
		ask := func(action, arn string) error {
			c := &call{ctx: a.ctx, account: a, service: "s3", action: action, principal: who}
			return c.ask("s3:"+action, target{arn, map[string][]string{"aws:ResourceAccount": {a.opts.AccountID}}})
		}
		switch {
		case !known || key == "" && r.Method != http.MethodGet:
			err = &apiError{"NotImplemented", "The lab has no " + r.Method + " " + r.URL.Path, http.StatusNotImplemented}
		case key == "":
			err = ask("ListBucket", arn)
		default:
			err = ask(action, arn+"/"+key)
		}
		if err != nil {
			a.refuseS3(w, r, err)
			return
		}
		// "If the object you request doesn't exist": 404 for who has s3:ListBucket, else 403
		// (GetObject, S3 API reference).
		proxy(w, r, body, func() error {
			if r.Method != http.MethodGet || key == "" {
				return nil
			}
			return ask("ListBucket", arn)
		})
	})
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
