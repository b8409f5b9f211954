package cloud

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func TestOwnerIsKnownBySignature(t *testing.T) {
	inLab(t, Options{AccountID: "210987654321"}, func(l *lab) {
		who, err := l.sts.GetCallerIdentity(l.ctx, &sts.GetCallerIdentityInput{})
		l.ok(err)
		if *who.Account != "210987654321" || *who.Arn != "arn:aws:iam::210987654321:user/admin" {
			t.Errorf("got %s %s", *who.Account, *who.Arn)
		}
	})
}

func TestWrongSignaturesAreRefused(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		good := l.Admin()
		for name, c := range map[string]struct {
			creds     Credentials
			ec2, rest string // EC2 has codes of its own
		}{
			"unknown key":      {Credentials{AccessKeyID: "AKIAX", SecretAccessKey: good.SecretAccessKey}, "AuthFailure", "InvalidClientTokenId"},
			"wrong secret":     {Credentials{AccessKeyID: good.AccessKeyID, SecretAccessKey: "x"}, "AuthFailure", "SignatureDoesNotMatch"},
			"a token too much": {Credentials{AccessKeyID: good.AccessKeyID, SecretAccessKey: good.SecretAccessKey, SessionToken: "t"}, "AuthFailure", "InvalidClientTokenId"},
		} {
			_, err := l.client(c.creds).DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
			if got := codeOf(err); got != c.ec2 {
				t.Errorf("%s: EC2 says %q, want %q", name, got, c.ec2)
			}
			_, err = l.identity(c.creds).GetCallerIdentity(l.ctx, &sts.GetCallerIdentityInput{})
			if got := codeOf(err); got != c.rest {
				t.Errorf("%s: STS says %q, want %q", name, got, c.rest)
			}
		}
	})
}

func TestExpiredCredentials(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.instance(RunSpec{Role: "web"})
		l.mu.Lock()
		i, _ := l.instances.get(id)
		l.roleCredentials(i, l.machines[id])
		creds := l.machines[id].role
		l.mu.Unlock()
		time.Sleep(credentialLife + time.Second)
		_, err := l.client(creds).DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
		l.wantCode(err, "RequestExpired")
		_, err = l.scaling(creds).DescribeAutoScalingGroups(l.ctx, &autoscaling.DescribeAutoScalingGroupsInput{})
		l.wantCode(err, "ExpiredToken")
	})
}

// tamper changes a signed request on its way.
type tamper struct {
	next   http.RoundTripper
	change func(*http.Request)
}

func (x tamper) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	x.change(r)
	return x.next.RoundTrip(r)
}

func TestTamperedRequestsAreRefused(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		for name, c := range map[string]struct {
			change func(*http.Request)
			code   string
		}{
			"untouched":        {func(*http.Request) {}, ""},
			"another body":     {func(r *http.Request) { r.Body = http.NoBody }, "AuthFailure"},
			"another host":     {func(r *http.Request) { r.Host = "ec2.elsewhere" }, "AuthFailure"},
			"another path":     {func(r *http.Request) { r.URL.Path = "/x" }, "AuthFailure"},
			"a query":          {func(r *http.Request) { r.URL.RawQuery = "a=b" }, "AuthFailure"},
			"an old date":      {func(r *http.Request) { r.Header.Set("X-Amz-Date", "19991231T000000Z") }, "AuthFailure"},
			"another Region":   {func(r *http.Request) { replaceHeader(r, "us-east-1", "eu-west-1") }, "SignatureDoesNotMatch"},
			"another service":  {func(r *http.Request) { replaceHeader(r, "/ec2/", "/sqs/") }, "SignatureDoesNotMatch"},
			"no authorization": {func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationToken"},
			"date not signed":  {func(r *http.Request) { replaceHeader(r, ";x-amz-date", "") }, "AuthFailure"},
		} {
			client := l.client(l.Admin(), func(o *ec2.Options) {
				o.HTTPClient = &http.Client{Transport: tamper{Transport{l.EC2Handler()}, c.change}}
			})
			_, err := client.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
			if got := codeOf(err); got != c.code {
				t.Errorf("%s: got %q (%v), want %q", name, got, err, c.code)
			}
		}
		late := l.client(l.Admin(), func(o *ec2.Options) {
			o.HTTPClient = &http.Client{Transport: tamper{Transport{l.EC2Handler()}, func(*http.Request) { time.Sleep(skew + time.Second) }}}
		})
		_, err := late.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
		l.wantCode(err, "RequestExpired")
	})
}

func replaceHeader(r *http.Request, old, new string) {
	r.Header.Set("Authorization", strings.ReplaceAll(r.Header.Get("Authorization"), old, new))
}
