package cloud

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWhatARequestAsksOfS3(t *testing.T) {
	for request, want := range map[string]string{
		"GET /b/k":                        "GetObject s3:GetObject",
		"GET /b/k?x-id=GetObject":         "GetObject s3:GetObject",
		"GET /b?list-type=2&prefix=k":     "ListObjectsV2 s3:ListBucket",
		"GET /b?lifecycle":                "GetBucketLifecycleConfiguration s3:GetLifecycleConfiguration",
		"GET /b?object-lock":              "GetObjectLockConfiguration s3:GetBucketObjectLockConfiguration",
		"PUT /b/k":                        "PutObject s3:PutObject",
		"PUT /b/k?partNumber=1&uploadId=": "UploadPart s3:PutObject",
		"POST /b/k?uploads":               "CreateMultipartUpload s3:PutObject",
		"POST /b/k?uploadId=u":            "CompleteMultipartUpload s3:PutObject",
		"DELETE /b/k":                     "DeleteObject s3:DeleteObject",
		"DELETE /b/k?versionId=v":         "DeleteObject s3:DeleteObjectVersion",
		"DELETE /b/k?uploadId=u":          "AbortMultipartUpload s3:AbortMultipartUpload",
		"GET /b?policy":                   " s3:",
		"GET /b":                          " s3:",
		"PUT /b":                          " s3:",
		"DELETE /b":                       " s3:",
		"POST /b/k":                       " s3:",
	} {
		method, target, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, target, nil)
		_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if o := s3OperationOf(r, key); o.name+" s3:"+o.right != want {
			t.Errorf("%s: %+v, want %s", request, o, want)
		}
	}
	copies := httptest.NewRequest(http.MethodPut, "/b/k", nil)
	copies.Header.Set("X-Amz-Copy-Source", "/b/other")
	if o := s3OperationOf(copies, "k"); o.name != "" {
		t.Errorf("a copy: %+v", o)
	}
}

func TestBodiesInChunks(t *testing.T) {
	const chunks = "5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
	r := httptest.NewRequest(http.MethodPut, "/b/k", nil)
	r.Header.Set("X-Amz-Content-Sha256", unsignedChunks)
	if data, err := payload(r, []byte(chunks)); err != nil || string(data) != "hello world" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := payload(r, []byte(chunks[:9])); err == nil {
		t.Error("one that is cut off is taken")
	}
	if hash := payloadHash(r, []byte(chunks)); hash == unsignedChunks {
		t.Error("without TLS nothing protects a body that is not signed")
	}
	r.TLS = &tls.ConnectionState{}
	if hash := payloadHash(r, []byte(chunks)); hash != unsignedChunks {
		t.Errorf("by TLS: %s", hash)
	}
}
