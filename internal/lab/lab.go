// Package lab is an EC2 on one machine: the account of package cloud (EC2, Auto Scaling, instance
// metadata), with disks and machines behind it.
//
//	cloud  what EC2 knows, its rules, and its wire protocols
//	disk   volumes and snapshots: files, reflinks, loop devices
//	host   instances: namespaces, a root file system, a network, sshd
//	vm     instances: virtual machines with a kernel of their own, systemd, NVMe disks
//
// This package ties them together and adds what an operator brings: an image with the agent, an
// image with the publisher, and a release server. The two programs are the built ones, installed as
// their packages install them; they find the lab as they find EC2.
//
// A program that uses it calls host.RunInit first thing in main, and Close at the end. When it is
// killed instead, all goes but a temporary directory, which the next lab removes.
package lab

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/disk"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/lab/vm"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Options of a lab. Agent and Publisher are required, the rest has defaults.
type Options struct {
	Agent, Publisher string // the two built programs

	Latency cloud.LatencyTable // zero: no waiting; cloud.Realistic()
	Policy  cloud.Policy       // nil: everything is allowed
	Seed    uint64             // of ids and latencies; 0: from the clock

	RequiredTags []string // keys that the organization demands on every new volume and snapshot

	AttachLimits map[string]int // how many volumes an instance type takes, where it is not 27

	Groups            []string          // names of the groups that the publisher feeds; default "web"
	ServerRole        string            // of the release server; default "ebs-release-publisher"
	AgentSettings     map[string]string // more lines for agent.toml: deadline -> 30s
	PublisherSettings map[string]string // more lines for publisher.toml
	MemberFiles       map[string]string // more programs of members: /etc/ebs-release/drain.d/10-drain -> its text
	ServerBinds       []host.Bind       // directories of this machine that the release server sees, read-only: see MachineFiles

	// ServerKey is the file of the release server's private ssh key, which virtual machines know by
	// their image; default: a new one.
	ServerKey string

	Follow bool // the members follow the pointer by themselves
	Warm   bool // the members read all of a release after the boot
	Launch bool // ebs-release-launch.service runs on members, as it does on each real one

	Cold *disk.Cold // how slow first reads of volumes from snapshots are; nil: as fast as later ones

	S3 bool // the pointer store is StoreInS3, a bucket of a real S3 server behind the account's policies; else a directory

	Dir string // where the lab's temporary directory goes; default os.TempDir()
	Log *slog.Logger
}

// The machine images of a lab, and what their instances are for.
const (
	MemberImage = "ami-00000000000000a6e" // boots as a member: sshd, the agent, then an application
	ServerImage = "ami-0000000000000005e" // boots as a release server: sshd, `ebs-release serve`
	IdleImage   = "ami-0000000000000001d" // is installed as a member, and starts nothing: who launched it runs the agent
)

// Names that the images have built in.
const (
	SSHUser      = "deploy"                       // owner of the release tree
	SSHKey       = "/etc/ebs-release/deploy.key"  // on the release server
	SigningKey   = "/etc/ebs-release/signing.key" // the same: init makes it
	PointerStore = "/srv/release"                 // on the release server
	pointerPort  = 8080

	// StoreInS3 is the pointer store of labs with S3.
	StoreInS3 = "s3://" + bucket.Name + "/" + bucket.Prefix
	s3Port    = 7070

	// PointerURL is the same in all labs, since the release server is the first instance: images
	// that were made elsewhere may name it.
	PointerURL = "http://10.0.0.4:8080/release.json"
)

var subnet = netip.MustParsePrefix("10.0.0.0/16") // each lab has its own network: all use the same addresses

// closeTimeout is how long Close waits for the kernel to let go of everything.
const closeTimeout = time.Minute

// Lab is one account with its machines. It is safe for use by many goroutines. Close it.
type Lab struct {
	Account  *cloud.Account
	Endpoint string // the EC2 endpoint for this machine: http://127.0.0.1:PORT

	opts     Options
	dir      *workDir
	hardware *hardware
	metadata *vm.Metadata // of the virtual machines
	servers  []*http.Server
	bucket   *bucket.Server // nil without S3
	trusted  *x509.CertPool // who the bucket's server is known by
	server   string         // instance id of the release server

	serverKey string // file of its private ssh key, for this machine

	mu  sync.Mutex
	vms map[string]vm.Spec // what instances of an image are made of, by image id: see Register
}

// Start makes a lab with a release server, which boots while Start returns: see ReleaseServer. On
// failure all is taken down again.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, advice.Try(errors.New("start lab: it needs root, for namespaces and loop devices"), "sudo")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if len(opts.Groups) == 0 {
		opts.Groups = []string{"web"}
	}
	opts.Dir = cmp.Or(opts.Dir, os.TempDir())
	if err := sweep(opts.Dir); err != nil {
		opts.Log.Warn("sweep after dead labs", "error", err)
	}
	l := &Lab{opts: opts, vms: map[string]vm.Spec{}}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) (err error) {
	if l.dir, err = newWorkDir(l.opts.Dir); err != nil {
		return err
	}
	hw := &hardware{kindOf: l.kindOf, instances: map[string]machines{}, changed: make(chan struct{})}
	hw.life, hw.end = context.WithCancel(context.Background())
	l.hardware = hw
	if hw.store, err = disk.Open(ctx, l.dir.path, l.dir.name(), l.opts.Log); err != nil {
		return err
	}
	if l.opts.Cold != nil {
		hw.store.Cool(*l.opts.Cold)
		hw.rateOf = l.initializationRate
	}
	if hw.network, err = host.NewNetwork(ctx, l.dir.path, subnet); err != nil {
		return err
	}
	hw.hosts, hw.vms = newHosts(hw.store, hw.network, l.hostSpec), vm.NewHardware(hw.store, l.vmSpec)
	l.Account, err = cloud.New(cloud.Options{
		Subnet: subnet, Latency: l.opts.Latency, Hardware: l.hardware, Policy: l.opts.Policy,
		AttachLimits: l.opts.AttachLimits, RequiredTags: l.opts.RequiredTags, Seed: l.opts.Seed, Log: l.opts.Log,
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) { return hw.network.Dial(ctx, address) },
	})
	if err != nil {
		return err
	}
	if l.metadata, err = l.vmSwitch().ServeMetadata(ctx, hw.vms.MetadataOf(l.Account.IMDSHandler)); err != nil {
		return err
	}
	inside, err := hw.network.Listen(80)
	if err != nil {
		return err
	}
	l.serve(inside, l.Account.EC2Handler())
	outside, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.serve(outside, l.Account.EC2Handler())
	l.Endpoint = "http://" + outside.Addr().String()

	images, err := newImages(ctx, hw.network.Path("images"), l.opts)
	if err != nil {
		return err
	}
	l.serverKey = images.key()
	if err := os.Mkdir(filepath.Join(l.dir.path, "vm"), 0o755); err != nil {
		return err
	}
	if l.opts.S3 { // its certificate is a part of the images
		if err := l.startS3(ctx, images); err != nil {
			return err
		}
	}
	role := cmp.Or(l.opts.ServerRole, "ebs-release-publisher")
	spec := cloud.RunSpec{ImageID: ServerImage, Role: role, Tags: map[string]string{"Name": "release-server"}}
	if l.server, err = l.Account.RunInstance(ctx, spec); err != nil {
		return err
	}
	server, err := l.instance(l.server)
	if err != nil {
		return err
	}
	if url := fmt.Sprintf("http://%s:%d/release.json", server.Address, pointerPort); url != PointerURL {
		return fmt.Errorf("the pointer is at %s, and the images say %s", url, PointerURL)
	}
	if l.opts.S3 {
		return images.configure(StoreInS3, StoreInS3)
	}
	return images.configure(PointerURL, PointerStore)
}

// Serve answers HTTP on a port of the network that the hosts are in, until Close: a web server of
// somebody's, for pointers that go wrong.
func (l *Lab) Serve(port int, handler http.Handler) (url string, err error) {
	listener, err := l.hardware.network.Listen(port)
	if err != nil {
		return "", fmt.Errorf("serve on port %d: %w", port, err)
	}
	l.serve(listener, handler)
	return fmt.Sprintf("http://%s:%d", l.hardware.network.Gateway(), port), nil
}

func (l *Lab) serve(listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	l.servers = append(l.servers, server)
	go server.Serve(listener) // ends with Close
}

// Close takes down all that the lab started, in any state, and says what it could not.
func (l *Lab) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout, fmt.Errorf("gave up after %s", closeTimeout))
	defer cancel()
	var errs []error
	if l.hardware != nil && l.hardware.store != nil {
		errs = append(errs, l.ThawDisks()) // else nothing that waits for one ends
	}
	if l.Account != nil {
		l.Account.Close()
	}
	for _, s := range l.servers {
		errs = append(errs, s.Close())
	}
	if l.bucket != nil {
		l.bucket.Close()
	}
	if l.metadata != nil {
		errs = append(errs, l.metadata.Close())
	}
	if l.hardware != nil {
		errs = append(errs, l.hardware.close(ctx))
	}
	if l.dir != nil {
		errs = append(errs, l.dir.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab: %w", err)
	}
	return nil
}

// Environ are the variables that point an AWS SDK or the AWS CLI on this machine at the lab, with
// the rights of the account's owner.
func (l *Lab) Environ() []string {
	admin := l.Account.Admin()
	return []string{
		"AWS_ENDPOINT_URL=" + l.Endpoint,
		"AWS_REGION=" + l.Account.Region(),
		"AWS_DEFAULT_REGION=" + l.Account.Region(), // the AWS CLI reads this one only
		"AWS_ACCESS_KEY_ID=" + admin.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + admin.SecretAccessKey,
	}
}

// EC2 is a client of AWS's SDK on this machine, with the rights of the account's owner.
func (l *Lab) EC2() *ec2.Client {
	admin := l.Account.Admin()
	return ec2.New(ec2.Options{
		BaseEndpoint: aws.String(l.Endpoint), Region: l.Account.Region(),
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, ""),
	})
}

// Dir is the lab's temporary directory; consoles are in its directory console, those of virtual
// machines in its directory vm.
func (l *Lab) Dir() string { return l.dir.path }
