package cloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

func (l *lab) metadataOf(instance string) *imds.Client {
	return imds.New(imds.Options{
		Endpoint: "http://169.254.169.254", HTTPClient: &http.Client{Transport: Transport{l.IMDSHandler(instance)}}, Retryer: aws.NopRetryer{},
	})
}

func TestMetadata(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.instance(RunSpec{Role: "web", Zone: "us-east-1b", UserData: []byte("#!/bin/sh")})
		c := l.metadataOf(id)
		doc, err := c.GetInstanceIdentityDocument(l.ctx, nil)
		l.ok(err)
		if doc.InstanceID != id || doc.Region != "us-east-1" || doc.AvailabilityZone != "us-east-1b" || doc.AccountID != "123456789012" || doc.PrivateIP != "10.0.0.4" {
			t.Errorf("document %+v", doc)
		}
		for path, want := range map[string]string{
			"instance-id": id, "placement/availability-zone": "us-east-1b", "placement/region": "us-east-1", "local-ipv4": "10.0.0.4",
			"block-device-mapping": "ami\nroot", "block-device-mapping/root": "/dev/xvda", "iam/security-credentials/": "web", "placement": "availability-zone\nregion",
		} {
			out, err := c.GetMetadata(l.ctx, &imds.GetMetadataInput{Path: path})
			l.ok(err)
			got, err := io.ReadAll(out.Content)
			l.ok(err)
			if string(got) != want {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}
		data, err := c.GetUserData(l.ctx, nil)
		l.ok(err)
		if got, _ := io.ReadAll(data.Content); string(got) != "#!/bin/sh" {
			t.Errorf("user data %q", got)
		}
		_, err = c.GetMetadata(l.ctx, &imds.GetMetadataInput{Path: "no/such/thing"})
		wantStatus(t, err, http.StatusNotFound)
	})
}

func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.HTTPStatusCode() != status {
		t.Errorf("got %v, want status %d", err, status)
	}
}

func TestMetadataWantsAToken(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		client := &http.Client{Transport: Transport{l.IMDSHandler(l.instance(RunSpec{}))}}
		do := func(method, path string, headers ...string) (int, string) {
			req, err := http.NewRequestWithContext(l.ctx, method, "http://169.254.169.254"+path, nil)
			l.ok(err)
			for i := 0; i < len(headers); i += 2 {
				req.Header.Set(headers[i], headers[i+1])
			}
			resp, err := client.Do(req)
			l.ok(err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			l.ok(err)
			return resp.StatusCode, string(body)
		}
		const ttl, token, path = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token", "/latest/meta-data/instance-id"
		_, good := do("PUT", "/latest/api/token", ttl, "60")
		for name, c := range map[string]struct {
			method, path string
			headers      []string
			status       int
		}{
			"version 1":         {"GET", path, nil, 401},
			"a made-up token":   {"GET", path, []string{token, "x"}, 401},
			"a good token":      {"GET", path, []string{token, good}, 200},
			"no life":           {"PUT", "/latest/api/token", nil, 400},
			"too long a life":   {"PUT", "/latest/api/token", []string{ttl, "21601"}, 400},
			"through a proxy":   {"PUT", "/latest/api/token", []string{ttl, "60", "X-Forwarded-For", "10.0.0.9"}, 403},
			"token by GET":      {"GET", "/latest/api/token", []string{ttl, "60"}, 405},
			"writing":           {"POST", path, []string{token, good}, 405},
			"no role":           {"GET", "/latest/meta-data/iam/security-credentials/", []string{token, good}, 404},
			"no user data":      {"GET", "/latest/user-data", []string{token, good}, 404},
			"outside meta-data": {"GET", "/latest/other", []string{token, good}, 404},
		} {
			if status, _ := do(c.method, c.path, c.headers...); status != c.status {
				t.Errorf("%s: status %d, want %d", name, status, c.status)
			}
		}
		time.Sleep(61 * time.Second)
		if status, _ := do("GET", path, token, good); status != 401 {
			t.Errorf("an expired token got %d", status)
		}
	})
}

func TestRoleCredentialsFromMetadataSignCalls(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.instance(RunSpec{Role: "web"})
		provider := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = l.metadataOf(id) })
		creds, err := provider.Retrieve(l.ctx)
		l.ok(err)
		who, err := l.identity(Credentials{AccessKeyID: creds.AccessKeyID, SecretAccessKey: creds.SecretAccessKey, SessionToken: creds.SessionToken}).
			GetCallerIdentity(l.ctx, &sts.GetCallerIdentityInput{})
		l.ok(err)
		if want := "arn:aws:sts::123456789012:assumed-role/web/" + id; *who.Arn != want || !strings.HasSuffix(*who.UserId, ":"+id) {
			t.Errorf("I am %s %s, want %s", *who.Arn, *who.UserId, want)
		}
		client := l.client(Credentials{}, func(o *ec2.Options) { o.Credentials = aws.NewCredentialsCache(provider) })
		_, err = client.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
		l.ok(err)
		time.Sleep(credentialLife + time.Minute) // the provider fetches new ones by itself
		_, err = client.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{})
		l.ok(err)
		if calls := l.CallsBy(id); len(calls) != 3 || calls[1].Action != "DescribeVolumes" {
			t.Errorf("calls of the instance: %+v", calls)
		}
	})
}

func TestLifecycleStateInMetadata(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.ok(l.CreateGroup(GroupSpec{Name: "web", Desired: 1}))
		l.settles(map[string]int{"InService": 1})
		out, err := l.metadataOf(l.Instances()[0].ID).GetMetadata(l.ctx, &imds.GetMetadataInput{Path: "autoscaling/target-lifecycle-state"})
		l.ok(err)
		if got, _ := io.ReadAll(out.Content); string(got) != "InService" {
			t.Errorf("got %q", got)
		}
	})
}

// Row 26: late, 404, hung.
func TestMetadataFaults(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		id := l.instance(RunSpec{Role: "web"})
		c := l.metadataOf(id)
		get := func() error {
			ctx, cancel := context.WithTimeout(l.ctx, time.Second)
			defer cancel()
			_, err := c.GetMetadata(ctx, &imds.GetMetadataInput{Path: "iam/security-credentials/web"})
			return err
		}
		l.Fault(Fault{Action: "GET */iam/*", Times: 1, Effect: Effect{Fail: NotFound}})
		wantStatus(t, get(), http.StatusNotFound)
		l.Fault(Fault{Action: "GET /latest/meta-data/*", Principal: id, Times: 1, Effect: Effect{Fail: Hang}})
		if err := get(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hung: %v", err)
		}
		l.Fault(Fault{Action: "GET *", Times: 1, Effect: Effect{Delay: 500 * time.Millisecond}})
		start := time.Now()
		l.ok(get())
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("late by %v", took)
		}
	})
}
