package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// authorities is the file with the certificate of the lab's S3, on hosts of labs that have one.
const authorities = "/etc/ssl/lab-s3.pem"

// startS3 starts a real S3 server, and lets the hosts reach it through the account, by TLS alone.
func (l *Lab) startS3(ctx context.Context, images *images) (err error) {
	dir := filepath.Join(l.dir.path, "s3")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if l.bucket, err = bucket.Start(ctx, dir); err != nil {
		return err
	}
	certificate, err := selfSigned(l.hardware.network.Gateway())
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	if err := images.write(filepath.Join("base", authorities), string(text), 0o644); err != nil {
		return err
	}
	l.trusted = x509.NewCertPool()
	l.trusted.AppendCertsFromPEM(text)
	listener, err := l.hardware.network.Listen(s3Port)
	if err != nil {
		return err
	}
	l.serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}), l.Account.S3Handler(cloud.Objects{
		Address: l.bucket.Address, Region: bucket.Region, Credentials: l.bucket.Credentials(),
	}))
	return nil
}

// selfSigned makes a key and a certificate for an address.
func selfSigned(address netip.Addr) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	what := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{address.AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, what, what, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// S3 is a client of AWS's SDK on this machine, with the rights of the account's owner, which speaks
// TLS as the hosts do. It makes no request again.
func (l *Lab) S3() *s3.Client {
	admin := l.Account.Admin()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return l.hardware.network.Dial(ctx, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: l.trusted}, DisableKeepAlives: true,
	}
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(l.s3Endpoint()), Region: l.Account.Region(), UsePathStyle: true, Retryer: aws.NopRetryer{},
		HTTPClient:  &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.SecretAccessKey, ""),
	})
}

func (l *Lab) s3Endpoint() string {
	return fmt.Sprintf("https://%s:%d", l.hardware.network.Gateway(), s3Port)
}
