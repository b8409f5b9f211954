// Package bucket is an S3 on this machine: versitygw, a real S3 server over a directory, with one
// bucket. It is built once, outside of the tree.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"ebs-release/internal/lab/cache"
	"ebs-release/internal/lab/child"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	smithytime "github.com/aws/smithy-go/time"
)

const (
	module  = "github.com/versity/versitygw/cmd/versitygw"
	version = "v1.8.0" // its conditional PUT and GET are right

	startTime = 20 * time.Second
	pollTime  = 50 * time.Millisecond

	// Name is the bucket that is there.
	Name = "releases"
	// Prefix is where a lab's store is.
	Prefix = "prod"
	// Region is what requests are signed for.
	Region = "us-east-1"

	accessKey = "AKIAEXAMPLEROOTKEY00"
	secretKey = "a secret of this lab alone, 40 chars long"
)

// Server is a running S3.
type Server struct {
	// Address is 127.0.0.1:PORT.
	Address string

	objects string // the directory of the buckets
	process *child.Process
}

// Start starts a server that keeps its objects in dir, which has to take extended attributes: a
// tmpfs does not always. It dies with this process, however that ends. Close it.
func Start(ctx context.Context, dir string) (*Server, error) { return start(ctx, dir) }

// StartVersioned starts one whose bucket can keep versions.
func StartVersioned(ctx context.Context, dir string) (*Server, error) {
	versions := filepath.Join(dir, "versions")
	if err := os.MkdirAll(versions, 0o755); err != nil {
		return nil, err
	}
	return start(ctx, dir, "--versioning-dir", versions)
}

func start(ctx context.Context, dir string, more ...string) (*Server, error) {
	program, err := install(ctx)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", module, err)
	}
	objects, users := filepath.Join(dir, "objects"), filepath.Join(dir, "iam")
	if err := errors.Join(os.MkdirAll(filepath.Join(objects, Name), 0o755), os.MkdirAll(users, 0o755)); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "versitygw.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"--port", address, "--region", Region, "--iam-dir", users, "posix"}, more...)
	cmd := exec.Command(program, append(args, objects)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := child.Start(cmd, nil)
	if err != nil {
		return nil, err
	}
	s := &Server{Address: address, objects: objects, process: p}
	if err := s.ready(ctx); err != nil {
		said, _ := os.ReadFile(log.Name())
		s.Close()
		return nil, fmt.Errorf("versitygw on %s: %w: %s", address, err, said)
	}
	return s, nil
}

// ready waits for an answer, whatever it is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+"/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-s.process.Done:
			return errors.New("it ended at once")
		default:
		}
		if smithytime.SleepWithContext(ctx, pollTime) != nil {
			return err
		}
	}
}

// Config is the SDK's configuration for the owner of the bucket.
func (s *Server) Config(context.Context) (aws.Config, error) {
	return aws.Config{Region: Region, Credentials: s.Credentials(), BaseEndpoint: aws.String("http://" + s.Address)}, nil
}

// Credentials are the owner's.
func (s *Server) Credentials() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")
}

// Objects is the directory in which the buckets are directories, and objects are files.
func (s *Server) Objects() string { return s.objects }

// PID is that of its process, for who measures it.
func (s *Server) PID() int { return s.process.Cmd.Process.Pid }

// Close ends the server and waits for its end.
func (s *Server) Close() { s.process.Kill() }

// freeAddress is one that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// install returns the program. The first call on this machine builds it, in about a minute; calls
// of other processes meanwhile wait for it.
func install(ctx context.Context) (string, error) {
	dir := filepath.Join(cache.Directory(), "versitygw-"+version)
	unlock, err := cache.Lock(ctx, dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	program := filepath.Join(dir, filepath.Base(module))
	if _, err := os.Stat(program); err == nil { // go install puts it there as a whole
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", module+"@"+version)
	cmd.Dir = dir // not in a module: with its own versions
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
}
