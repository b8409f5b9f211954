package cloud

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httputil"
)

// s3Operation is what a request asks of S3; without a name: what the lab does not have.
type s3Operation struct {
	name  string // of the API
	right string // that it needs ("Actions, resources, and condition keys for Amazon S3", Service Authorization Reference)
}

// s3OperationOf tells an operation by method, by whether there is a key, and by the first of its
// subresources ("Amazon S3 REST API", S3 API reference).
func s3OperationOf(r *http.Request, key string) s3Operation {
	type form struct {
		method      string
		object      bool
		subresource string
	}
	operations := map[form]s3Operation{
		{http.MethodGet, false, "list-type"}:   {"ListObjectsV2", "ListBucket"},
		{http.MethodGet, false, "lifecycle"}:   {"GetBucketLifecycleConfiguration", "GetLifecycleConfiguration"},
		{http.MethodGet, false, "versioning"}:  {"GetBucketVersioning", "GetBucketVersioning"},
		{http.MethodGet, false, "object-lock"}: {"GetObjectLockConfiguration", "GetBucketObjectLockConfiguration"},
		{http.MethodGet, true, ""}:             {"GetObject", "GetObject"},
		{http.MethodPut, true, ""}:             {"PutObject", "PutObject"},
		{http.MethodPut, true, "uploadId"}:     {"UploadPart", "PutObject"},
		{http.MethodPost, true, "uploads"}:     {"CreateMultipartUpload", "PutObject"},
		{http.MethodPost, true, "uploadId"}:    {"CompleteMultipartUpload", "PutObject"},
		{http.MethodDelete, true, ""}:          {"DeleteObject", "DeleteObject"},
		{http.MethodDelete, true, "versionId"}: {"DeleteObject", "DeleteObjectVersion"},
		{http.MethodDelete, true, "uploadId"}:  {"AbortMultipartUpload", "AbortMultipartUpload"},
	}
	which := form{method: r.Method, object: key != ""}
	query := r.URL.Query()
	for _, name := range []string{"list-type", "lifecycle", "versioning", "object-lock", "uploads", "uploadId", "versionId"} {
		if which.subresource == "" && query.Has(name) {
			which.subresource = name
		}
	}
	if r.Header.Get("X-Amz-Copy-Source") != "" {
		return s3Operation{}
	}
	return operations[which]
}

// conditions are the condition keys of a request that the policies of the project use. s3:if-match,
// s3:if-none-match and s3:ObjectCreationOperation: "Enforce conditional writes on Amazon S3
// buckets" (S3 User Guide, conditional-writes-enforce).
func (o s3Operation) conditions(r *http.Request, account string) map[string][]string {
	all := map[string][]string{"aws:ResourceAccount": {account}, "aws:SecureTransport": truth(r.TLS != nil)}
	if o.right == "PutObject" {
		all["s3:ObjectCreationOperation"] = truth(o.name == "PutObject" || o.name == "CompleteMultipartUpload")
		for _, name := range []string{"If-Match", "If-None-Match"} {
			if value := r.Header.Get(name); value != "" {
				all["s3:"+name] = []string{value}
			}
		}
	}
	return all
}

// What a request says of its body instead of the hash ("Authenticating Requests: Using the
// Authorization Header", S3 API reference).
const (
	unsigned       = "UNSIGNED-PAYLOAD"
	unsignedChunks = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// payloadHash is what the signature has to be over. SDKs do not sign the body where TLS protects
// it.
func payloadHash(r *http.Request, body []byte) string {
	if said := r.Header.Get("X-Amz-Content-Sha256"); r.TLS != nil && (said == unsigned || said == unsignedChunks) {
		return said
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// payload takes the body out of its chunks, which have HTTP's own form. The checksum behind them is
// for the real server to make.
func payload(r *http.Request, body []byte) ([]byte, error) {
	if r.Header.Get("X-Amz-Content-Sha256") != unsignedChunks {
		return body, nil
	}
	data, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(body)))
	if err != nil {
		return nil, &apiError{"IncompleteBody", err.Error(), http.StatusBadRequest}
	}
	return data, nil
}
