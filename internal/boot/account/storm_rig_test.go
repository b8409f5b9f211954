package account

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/instance"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/notes"
	"ebs-release/internal/pointer"
	"ebs-release/internal/serve"
	"ebs-release/internal/status"
	"ebs-release/internal/store"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// What a boot does beside EC2, about as long as it takes on a machine.
const (
	probeTime  = 100 * time.Millisecond // the kernel shows a disk: docs/failures.md, "Timing"
	mountTime  = 30 * time.Millisecond  // check, mount: docs/performance.md, "the agent's own"
	serverTime = time.Millisecond       // an answer of the release server
	objectTime = 150 * time.Millisecond // of S3: "small object latencies of roughly 100–200 milliseconds" (S3 performance design patterns)
)

// stormWorld is an account, a store and machines in a bubble of made-up time, without sockets. What
// asks them is the agent's own code.
type stormWorld struct {
	*testing.T
	account  *cloud.Account
	machines *stormMachines
	place    string // the setting pointer
	snapshot string
	asked    requests // of server
	objects  *objects
	server   http.Handler // the pointer's
	notes    notes.Dir
	run      status.Dir        // empty
	brought  map[string]string // instance -> the volume that EC2 attached with its launch
}

const (
	stormStore = "0123456789abcdef"
	stormURL   = "http://releases.internal/release.json"
	stormPlace = "s3://releases/prod"
	deadline   = 6 * time.Minute // of a boot: the setting's default
)

// newStorm makes one. latency has the request limits; how long a machine takes to have power is
// nothing, so that all agents start at the same moment.
func newStorm(t *testing.T, inS3 bool) *stormWorld {
	latency := cloud.Realistic()
	machines := &stormMachines{disks: map[string]chan struct{}{}, started: make(chan string, 2000)}
	account, err := cloud.New(cloud.Options{Latency: latency, Hardware: machines, Seed: 7})
	must(t, err)
	t.Cleanup(account.Close)
	w := &stormWorld{T: t, account: account, machines: machines, notes: notes.Dir(t.TempDir()), run: status.Dir(t.TempDir()), place: stormURL}
	if inS3 {
		w.place = stormPlace
		w.objects = newObjects()
		w.server = w.asked.counted(objectTime, w.objects)
	}
	w.publish()
	return w
}

// publish makes a snapshot and a pointer that names it, one pack behind.
func (w *stormWorld) publish() {
	api := ec2.NewFromConfig(w.admin(), func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} })
	made, err := api.CreateVolume(w.Context(), &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
	must(w.T, err)
	must(w.T, w.account.Wait(w.Context(), func() bool { return w.account.Volumes()[0].State == "available" }))
	snapshot, err := api.CreateSnapshot(w.Context(), &ec2.CreateSnapshotInput{VolumeId: made.VolumeId, TagSpecifications: []types.TagSpecification{{
		ResourceType: types.ResourceTypeSnapshot, Tags: []types.Tag{{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleRelease)}},
	}}})
	must(w.T, err)
	w.snapshot = *snapshot.SnapshotId
	must(w.T, w.account.Wait(w.Context(), func() bool { return w.account.Snapshots()[0].State == "completed" }))

	pack := bytes.Repeat([]byte("pack"), 100<<10) // 400 KiB: what the demo's 139 changed files take
	sum := sha256.Sum256(pack)
	hash, from, to := hex.EncodeToString(sum[:]), strings.Repeat("a", 64), strings.Repeat("b", 64)
	edge := pointer.Edge{From: from, To: to, Release: "20261122T231500Z-" + to[:12], Bytes: int64(len(pack)), SHA256: hash, Made: time.Now()}
	edge.Pack = pointer.PackKey(from, to, hash)
	secret, err := pointer.NewKey()
	must(w.T, err)
	p := pointer.Pointer{
		Schema: pointer.Signed, Store: stormStore, Generation: 7, Release: edge.Release, Digest: to, Snapshots: map[string]string{"us-east-1": w.snapshot},
		SnapshotOf: &pointer.Held{Generation: 6, Release: "20261121T231500Z-" + from[:12], Digest: from}, Revision: 9,
		Created: time.Now(), By: "alice", Keys: []string{secret.Public().String()}, Edges: []pointer.Edge{edge},
	}
	document, err := p.Sign(secret)
	must(w.T, err)
	if w.objects != nil {
		w.objects.put("/releases/prod/release.json", document)
		w.objects.put("/releases/prod/"+edge.Pack, pack)
		return
	}
	dir := w.TempDir()
	must(w.T, os.Mkdir(filepath.Join(dir, "packs"), 0o755))
	must(w.T, os.WriteFile(filepath.Join(dir, "release.json"), document, 0o644))
	must(w.T, os.WriteFile(filepath.Join(dir, edge.Pack), pack, 0o644))
	w.server = w.asked.counted(serverTime, serve.New(dir, io.Discard))
}

// web is all that a machine reaches over the network but for its metadata: EC2, STS and S3 at one
// endpoint, and the release server.
func (w *stormWorld) web() http.RoundTripper {
	ec2 := w.account.EC2Handler()
	return cloud.Transport{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "releases.internal", strings.Contains(r.Header.Get("Authorization"), "/s3/aws4_request"):
			w.server.ServeHTTP(rw, r)
		default:
			ec2.ServeHTTP(rw, r)
		}
	})}
}

func (w *stormWorld) config(keys aws.CredentialsProvider) aws.Config {
	return aws.Config{
		Region: "us-east-1", BaseEndpoint: aws.String("http://aws.lab"), Credentials: keys,
		HTTPClient: &http.Client{Transport: w.web(), Timeout: 10 * time.Second},
	}
}

func (w *stormWorld) admin() aws.Config {
	admin := w.account.Admin()
	return w.config(credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, ""))
}

// metadata is instance.NewClient without sockets.
func (w *stormWorld) metadata(instanceID string) *imds.Client {
	return imds.NewFromConfig(aws.Config{}, func(o *imds.Options) {
		o.EnableFallback, o.Retryer = aws.FalseTernary, aws.NopRetryer{}
		o.HTTPClient = &http.Client{Transport: cloud.Transport{Handler: w.account.IMDSHandler(instanceID)}}
	})
}

// load is instance.Load without sockets.
func (w *stormWorld) load(instanceID string) func(context.Context, *slog.Logger) (aws.Config, instance.Identity, error) {
	return func(ctx context.Context, log *slog.Logger) (aws.Config, instance.Identity, error) {
		client := w.metadata(instanceID)
		cfg := w.config(aws.NewCredentialsCache(ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = client })))
		me, err := instance.Identify(ctx, client, log)
		return cfg, me, err
	}
}

// boot is what `up` does, within its deadline, on a machine that takes no longer than it must.
func (w *stormWorld) boot(instanceID string, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(w.Context(), deadline)
	defer cancel()
	load := w.load(instanceID)
	reach := source.Pointers{Log: log}
	var err error
	if w.objects != nil {
		reach.Fetcher, err = pointer.NewFetcher(stormPlace, func(ctx context.Context) (aws.Config, error) {
			cfg, _, err := load(ctx, log)
			return cfg, err
		}, log)
	} else {
		reach.Fetcher, err = pointer.NewHTTPFetcher(stormURL, w.web(), log)
	}
	if err != nil {
		return err
	}
	account := New(Settings{Pointer: w.place, Volume: volume.Request{
		Owner: volume.Owner{Role: volume.RoleMember, MountPoint: "/release"}, Type: "gp3",
	}, RunDir: w.run}, log)
	account.load, account.notes = load, w.notes
	machine := stormMachine{w, instanceID, reach.Fetcher}
	parts := boot.Parts{Instance: stormInstance{account, w.metadata(instanceID)}, Pointers: reach, Volumes: account, Disks: machine, Mounts: machine, Gate: machine}
	_, err = boot.Run(ctx, parts, machine, log)
	return err
}

// stormInstance is the account, whose metadata service has no socket.
type stormInstance struct {
	*Account

	client *imds.Client
}

func (i stormInstance) Warmed(ctx context.Context) (bool, error) {
	return instance.InWarmPool(ctx, i.client, i.log)
}

// stormMachines are cloud.Hardware that does nothing at once.
type stormMachines struct {
	cloud.Hardware // what is not below is not called
	started        chan string
	mu             sync.Mutex
	disks          map[string]chan struct{} // closed when the disk is there
}

func (m *stormMachines) disk(volumeID string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disks[volumeID] == nil {
		m.disks[volumeID] = make(chan struct{})
	}
	return m.disks[volumeID]
}

func (m *stormMachines) Attach(_ context.Context, a cloud.AttachSpec) error {
	close(m.disk(a.VolumeID))
	return nil
}

func (m *stormMachines) Launch(_ context.Context, i cloud.InstanceSpec) error {
	m.started <- i.ID
	return nil
}

func (m *stormMachines) CreateVolume(context.Context, string, int32, string) error { return nil }
func (m *stormMachines) DeleteVolume(context.Context, string) error                { return nil }
func (m *stormMachines) CreateSnapshot(context.Context, string, string) error      { return nil }
func (m *stormMachines) Detach(_ context.Context, _, _ string, _ bool) error       { return nil }
func (m *stormMachines) Terminate(context.Context, string) error                   { return nil }

// stormMachine is what boot.Run knows of a machine: its kernel, its mounts, systemd.
type stormMachine struct {
	world *stormWorld
	id    string
	from  *pointer.Fetcher
}

func (stormMachine) Started(string, boot.Facts)                {}
func (stormMachine) Ended(string, time.Duration, bool, error)  {}
func (stormMachine) Open(context.Context, boot.Facts) error    { return nil }
func (stormMachine) Unused(context.Context, boot.Volume) error { return nil }
func (stormMachine) Unmount(context.Context) error             { return nil }
func (stormMachine) Check(ctx context.Context, d boot.Disk) (boot.Disk, error) {
	time.Sleep(mountTime)
	d.Kind = "ext4"
	return d, nil
}
func (stormMachine) Visible(context.Context, boot.Volume, boot.Disk) error { return nil }
func (stormMachine) Look(context.Context, []boot.Volume) (*boot.Mounted, error) {
	return nil, nil
}

// Brought is what came with the launch: the snapshot's release, one pack behind.
func (m stormMachine) Brought(_ context.Context, want boot.Wanted) ([]boot.Found, error) {
	id, is := m.world.brought[m.id]
	if !is {
		return nil, nil
	}
	time.Sleep(mountTime)
	return []boot.Found{{Volume: boot.Volume{ID: id, Attached: true, Protected: true, Brought: true, Store: want.Store}, Generation: 6}}, nil
}

func (m stormMachine) Here(_ context.Context, v boot.Volume) (bool, error) {
	select {
	case <-m.world.machines.disk(v.ID):
		return true, nil
	default:
		return false, nil
	}
}

func (m stormMachine) Find(ctx context.Context, v boot.Volume) (boot.Disk, error) {
	if m.world.brought[m.id] == v.ID { // the kernel has shown it before the agent ran
		return boot.Disk{Path: "/dev/nvme1n1"}, nil
	}
	select {
	case <-m.world.machines.disk(v.ID):
		time.Sleep(probeTime)
		return boot.Disk{Path: "/dev/nvme1n1"}, nil
	case <-ctx.Done():
		return boot.Disk{}, ctx.Err()
	}
}

func (m stormMachine) Prepare(context.Context, boot.Volume, boot.Disk) (boot.Prepared, error) {
	return stormTree{m}, nil
}

// stormTree is a volume that is one pack behind.
type stormTree struct{ stormMachine }

func (stormTree) Place(context.Context) error              { return nil }
func (stormTree) Close(context.Context) error              { return nil }
func (stormTree) Check(context.Context, boot.Wanted) error { return nil }

func (stormTree) Holding(context.Context) (int64, string, bool) {
	return 7, "20261122T231500Z-" + strings.Repeat("b", 12), true
}

// CatchUp fetches the pack as package catchup does.
func (t stormTree) CatchUp(ctx context.Context, want boot.Wanted) error {
	p, err := pointer.Parse([]byte(want.Document))
	if err != nil {
		return err
	}
	from, err := t.from.Store(ctx)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		data, _, err := store.ReadAll(ctx, from, p.Edges[0].Pack, p.Edges[0].Bytes, "")
		if err == nil && int64(len(data)) != p.Edges[0].Bytes {
			err = fmt.Errorf("a pack of %d bytes", len(data))
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(store.Backoff(try, 0))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
