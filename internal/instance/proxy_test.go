package instance_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/instance"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// TestMain is also a process that has a proxy in its environment from the start: net/http reads
// that once.
func TestMain(m *testing.M) {
	if os.Getenv("EBS_RELEASE_TEST_PROXIED") == "" {
		os.Exit(m.Run())
	}
	os.Exit(proxied())
}

func proxied() int {
	ctx, client := context.Background(), instance.HTTPClient().WithTimeout(300*time.Millisecond)
	cfg, err := instance.LoadConfig(ctx)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	// Nobody has to answer there: what counts is whether the proxy is asked.
	_, _ = cfg.Credentials.Retrieve(short(ctx))
	_, _ = instance.NewClient(cfg).GetMetadata(short(ctx), &imds.GetMetadataInput{Path: "instance-id"})
	for _, host := range strings.Fields(os.Getenv("EBS_RELEASE_TEST_PROXIED")) {
		if req, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil); err == nil {
			_, _ = client.Do(req)
		}
	}
	return 0
}

// TestNoProxyIsAskedForMetadata: HTTP_PROXY is set and NO_PROXY is not. A proxy on another instance
// would answer as that instance.
func TestNoProxyIsAskedForMetadata(t *testing.T) {
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Host
		fmt.Fprint(w, "proxied")
	}))
	defer proxy.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{
		"HTTP_PROXY=" + proxy.URL, "HOME=" + t.TempDir(),
		"EBS_RELEASE_TEST_PROXIED=169.254.169.254 169.254.170.2 [fe80::1] [fd00:ec2::254] ec2.eu-west-1.amazonaws.com",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	close(asked)
	var hosts []string
	for h := range asked {
		hosts = append(hosts, h)
	}
	if got := strings.Join(hosts, " "); got != "ec2.eu-west-1.amazonaws.com" {
		t.Errorf("the proxy was asked for %q, want EC2's API alone", got)
	}
}

// TestKeysComeFromTheConfiguredEndpoint: a setting of the profile, as the one for IPv6 is, counts
// for the keys of the role as well.
func TestKeysComeFromTheConfiguredEndpoint(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		fmt.Fprint(w, "TOKEN")
	})
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "role") })
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/role", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"t","Expiration":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	service := httptest.NewServer(mux)
	defer service.Close()
	for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "AWS_PROFILE"} {
		t.Setenv(k, "")
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("[default]\nec2_metadata_service_endpoint = "+service.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file+".none")
	cfg, err := instance.LoadConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.Credentials.Retrieve(short(t.Context()))
	if err != nil || keys.AccessKeyID != "AKID" {
		t.Errorf("keys of %q, %v", keys.AccessKeyID, err)
	}
}

// short is enough for a proxy to be asked.
func short(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	context.AfterFunc(ctx, cancel)
	return ctx
}
