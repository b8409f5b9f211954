// Package instance says which EC2 instance this is, and whether its group has it in a warm pool
// (lifecycle.go), by the instance metadata service (IMDSv2); and what its sshd's host key is.
package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithytime "github.com/aws/smithy-go/time"
)

// Identity is what the instance identity document says
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html). The zone
// is never made from the region and a letter.
type Identity struct {
	InstanceID       string
	AvailabilityZone string
	Region           string
	AccountID        string
	InstanceType     string
}

// The metadata service may be late, answer 404 or hang while an instance comes up (eks-ami #1970,
// #2360; ignition #597): a short time for each try, and tries until the context ends.
const (
	tryTimeout = 2 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

// NewClient returns a client of the metadata service that does not fall back to IMDSv1, gives each
// request tryTimeout, and leaves retries to its caller. The endpoint is 169.254.169.254, or what
// AWS_EC2_METADATA_SERVICE_ENDPOINT says.
func NewClient(cfg aws.Config) *imds.Client {
	return imds.NewFromConfig(cfg, func(o *imds.Options) {
		o.EnableFallback = aws.FalseTernary
		o.Retryer = aws.NopRetryer{}
		// Never through a proxy: one that runs on another instance would answer as that instance
		// (boto #1146, aws-xray-daemon #255).
		straight := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = nil })
		o.HTTPClient = patient{straight.WithTimeout(tryTimeout)}
	})
}

// LoadConfig is the SDK's configuration. The keys of the instance's role are fetched by a NewClient
// that knows it, too (the endpoint and its mode, for IPv6); the calls that need the keys are what
// is retried. No link-local address is reached through a proxy: metadata and keys are the machine's
// own.
func LoadConfig(ctx context.Context, more ...func(*config.LoadOptions) error) (aws.Config, error) {
	quiet := config.WithLogger(logging.Nop{}) // its warnings on stderr help nobody here; errors come back as such
	options := append([]func(*config.LoadOptions) error{quiet, config.WithHTTPClient(HTTPClient())}, more...)
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, err
	}
	role := func(o *ec2rolecreds.Options) { o.Client = NewClient(loaded) }
	return config.LoadDefaultConfig(ctx, append(options, config.WithEC2RoleCredentialOptions(role))...)
}

// Load is the SDK's configuration, with the Region of this instance unless another one is set, and
// who this instance is.
func Load(ctx context.Context, log *slog.Logger) (aws.Config, Identity, error) {
	cfg, err := LoadConfig(ctx)
	if err != nil {
		return aws.Config{}, Identity{}, fmt.Errorf("read the AWS configuration: %w", err)
	}
	me, err := Identify(ctx, NewClient(cfg), log)
	if err != nil {
		return aws.Config{}, Identity{}, err
	}
	cfg.Region = cmp.Or(cfg.Region, me.Region)
	return cfg, me, nil
}

// HTTPClient is the SDK's own, but for what a proxy is asked for.
func HTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = proxy })
}

// proxy is http.ProxyFromEnvironment, but for what is on this machine's own link, NO_PROXY or not:
// 169.254.0.0/16, fe80::/10, and the addresses that EC2, ECS and EKS have for metadata and keys
// over IPv6.
func proxy(r *http.Request) (*url.URL, error) {
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil && (ip.Unmap().IsLinkLocalUnicast() || slices.Contains(metadataIPv6, ip)) {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// metadataIPv6: instance metadata
// (docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html) and EKS pod
// identity (docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html).
var metadataIPv6 = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd00:ec2::23")}

// patient keeps the SDK from putting its own limits on a client of its own kind: 0.25 s to connect
// and 0.5 s until the answer starts, again and again, are too short for a service that is slow
// while an instance comes up.
type patient struct{ imds.HTTPClient }

// Identify asks who this instance is, until it is told or ctx ends. The error says whether the
// token or the document could not be had, by the last try that came to its own end: one that ctx
// cuts off says nothing of the service.
func Identify(ctx context.Context, client *imds.Client, log *slog.Logger) (Identity, error) {
	var last error
	pause := firstPause
	for {
		identity, err := try(ctx, client)
		if err == nil {
			return identity, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		log.Debug("the metadata service did not answer, trying again", "error", err, "pause", pause)
		if smithytime.SleepWithContext(ctx, pause/2+rand.N(pause/2)) != nil {
			return Identity{}, advice.Try(fmt.Errorf("ask the instance metadata service who this is: %w: %w", context.Cause(ctx), last),
				"is this an EC2 instance, with IMDS switched on?")
		}
		pause = min(2*pause, lastPause)
	}
}

func try(ctx context.Context, client *imds.Client) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	document, err := client.GetInstanceIdentityDocument(ctx, &imds.GetInstanceIdentityDocumentInput{})
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w", what(err), shorten(err))
	}
	identity := Identity{
		InstanceID: document.InstanceID, AvailabilityZone: document.AvailabilityZone, Region: document.Region,
		AccountID: document.AccountID, InstanceType: document.InstanceType,
	}
	if identity.InstanceID == "" || identity.AvailabilityZone == "" || identity.Region == "" {
		return Identity{}, fmt.Errorf("the identity document lacks the instance id, zone or region: %+v", identity)
	}
	return identity, nil
}

// what tells a PUT of the token from the GET of the document: they fail for different reasons (hop
// limit, IMDS off; too early). By the text, because the SDK (imds v1.20) hides the inner
// operation's error from errors.As.
func what(err error) string {
	if strings.Contains(err.Error(), "getToken") {
		return "PUT for the token"
	}
	return "GET of the identity document"
}

// shorten takes the SDK's wrappings off: the last operation's own error says it.
func shorten(err error) error {
	for {
		var op *smithy.OperationError
		if !errors.As(err, &op) {
			return err
		}
		err = op.Err
	}
}
