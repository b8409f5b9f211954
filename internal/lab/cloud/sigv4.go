package cloud

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Credentials are an access key. Session and Expires are zero for a long-term one.
type Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Expires                                    time.Time
}

// accessKey is an access key as the account knows it.
type accessKey struct {
	Credentials
	principal Principal
}

// mint makes an access key for a principal. mu is held, or the account is being made.
func (a *Account) mint(prefix string, who Principal, expires time.Time) Credentials {
	c := Credentials{AccessKeyID: prefix + a.token(16), SecretAccessKey: a.token(40), Expires: expires}
	if !expires.IsZero() {
		c.SessionToken = "IQoJb3JpZ2luX2Vj" + a.token(200)
	}
	a.keys[c.AccessKeyID] = accessKey{c, who}
	return c
}

// skew is how far the date of a request may be off ("within 5 minutes", Elements of an AWS API
// request signature).
const skew = 5 * time.Minute

// skewOfS3 is S3's own ("within 15 minutes of the Amazon S3 system time", Signing and
// authenticating REST requests), and it says so in both directions: RequestTimeTooSkewed.
const skewOfS3 = 15 * time.Minute

// SetClock puts the clock of an instance ahead of AWS's (behind, when it is negative): seen from
// there, the Date of every answer differs by as much, and a signature with its own time is refused
// (row 48). The machine itself keeps its time.
func (a *Account) SetClock(instanceID string, ahead time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clocks[instanceID] = ahead
}

func (a *Account) clockOf(instanceID string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clocks[instanceID]
}

// clockOfKey is that of the instance whose key signed the request; authentic or not.
func (a *Account) clockOfKey(r *http.Request) time.Duration {
	_, credential, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	id, _, _ := strings.Cut(credential, "/")
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clocks[a.keys[id].principal.InstanceID]
}

// authenticate checks a request's Signature Version 4 (IAM User Guide, "Create a signed AWS API
// request") and says who sent it, to which service. hash is of its body, in hex.
func (a *Account) authenticate(r *http.Request, hash string) (who Principal, service string, err error) {
	algorithm, fields, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	part := map[string]string{}
	for f := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
		part[name] = value
	}
	scope := strings.Split(part["Credential"], "/") // key / date / region / service / aws4_request
	if len(scope) == 5 {
		service = scope[3]
	}
	if algorithm != "AWS4-HMAC-SHA256" || len(scope) != 5 || part["Signature"] == "" {
		return who, service, &apiError{"MissingAuthenticationToken", "Request is missing Authentication Token", http.StatusForbidden}
	}
	if namespace(service) == "" || scope[2] != a.opts.Region || scope[4] != "aws4_request" {
		return who, service, &apiError{"SignatureDoesNotMatch",
			"Credential should be scoped to a valid Region and service: " + strings.Join(scope[1:], "/"), http.StatusForbidden}
	}
	a.mu.Lock()
	key, known := a.keys[scope[0]]
	a.mu.Unlock()
	// The session token is matched first: a request without it has a key id that nobody knows
	// ("InvalidClientTokenId").
	if !known || subtle.ConstantTimeCompare([]byte(key.SessionToken), []byte(r.Header.Get("X-Amz-Security-Token"))) != 1 {
		return who, service, wrongKey(service)
	}
	date, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	now := time.Now().Add(-a.clockOf(key.principal.InstanceID))
	if err != nil || date.Format("20060102") != scope[1] {
		return who, service, wrongSignature(service)
	}
	switch {
	case service == "s3" && now.Sub(date).Abs() > skewOfS3:
		return who, service, &apiError{"RequestTimeTooSkewed",
			"The difference between the request time and the current time is too large.", http.StatusForbidden}
	case service == "s3":
	case date.Before(now.Add(-skew)):
		return who, service, tooOld(service, date, now)
	case date.After(now.Add(skew)): // row 48: a clock that is fast looks like wrong keys
		return who, service, wrongSignature(service)
	}
	if !key.Expires.IsZero() && time.Now().After(key.Expires) {
		return who, service, expired(service, "The security token included in the request is expired")
	}
	signed := strings.Split(part["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date"} { // "You must include the host header … and any x-amz-* headers"
		if !slices.Contains(signed, must) {
			return who, service, wrongSignature(service)
		}
	}
	if key.SessionToken != "" && !slices.Contains(signed, "x-amz-security-token") {
		return who, service, wrongSignature(service)
	}
	want := signature(key.SecretAccessKey, scope[1:], r.Header.Get("X-Amz-Date"), canonicalRequest(r, signed, hash))
	if !hmac.Equal([]byte(want), []byte(part["Signature"])) {
		return who, service, wrongSignature(service)
	}
	return key.principal, service, nil
}

func canonicalRequest(r *http.Request, signed []string, hash string) string {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	lines := []string{r.Method, path, canonicalQuery(r.URL.Query())}
	for _, name := range signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		lines = append(lines, name+":"+strings.Join(strings.Fields(value), " "))
	}
	lines = append(lines, "", strings.Join(signed, ";"), hash)
	return strings.Join(lines, "\n")
}

func canonicalQuery(q url.Values) string { return strings.ReplaceAll(q.Encode(), "+", "%20") }

func signature(secret string, scope []string, date, request string) string {
	key := []byte("AWS4" + secret)
	for _, part := range scope {
		key = mac(key, part)
	}
	sum := sha256.Sum256([]byte(request))
	return hex.EncodeToString(mac(key,
		strings.Join([]string{"AWS4-HMAC-SHA256", date, strings.Join(scope, "/"), hex.EncodeToString(sum[:])}, "\n")))
}

func mac(key []byte, data string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(data))
	return m.Sum(nil)
}

// EC2 says AuthFailure and RequestExpired where the newer services say SignatureDoesNotMatch,
// InvalidClientTokenId and ExpiredToken ("Error codes for the Amazon EC2 API"; "Common errors" of
// Auto Scaling and STS).
func wrongKey(service string) *apiError {
	if service == "ec2" {
		return &apiError{"AuthFailure", "AWS was not able to validate the provided access credentials", http.StatusUnauthorized}
	}
	return &apiError{"InvalidClientTokenId", "The security token included in the request is invalid.", http.StatusForbidden}
}

func wrongSignature(service string) *apiError {
	if service == "ec2" {
		return wrongKey(service)
	}
	return &apiError{"SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided.", http.StatusForbidden}
}

// tooOld: what EC2 calls RequestExpired is a SignatureDoesNotMatch for the newer services
// ("Troubleshoot Signature Version 4 for AWS API requests").
func tooOld(service string, date, now time.Time) *apiError {
	if service == "ec2" {
		return expired(service, "")
	}
	const form = "20060102T150405Z"
	return &apiError{"SignatureDoesNotMatch",
		"Signature expired: " + date.Format(form) + " is now earlier than " + now.Add(-skew).UTC().Format(form), http.StatusForbidden}
}

func expired(service, message string) *apiError {
	if service == "ec2" {
		return fail("RequestExpired", "Request has expired.")
	}
	return &apiError{"ExpiredToken", message, http.StatusForbidden}
}
