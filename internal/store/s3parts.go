package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"time"

	"ebs-release/internal/advice"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// What S3 takes ("Amazon S3 multipart upload limits", S3 User Guide, qfacts). One PutObject ends at
// 5 GiB; a part that failed is sent again alone, so parts are used well below.
const (
	partSize  = 128 << 20 // bytes of a part; what is larger than one is sent in parts
	mostParts = 10_000
	abortTime = 10 * time.Second // for giving up an upload, also after ctx ended
)

// putParts sends size bytes of body, from at on, part after part. None is held in memory.
func (s *S3) putParts(ctx context.Context, key string, body io.ReadSeeker, at, size int64) (err error) {
	upload := &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), Metadata: map[string]string{writeName: rand.Text()},
	}
	begun, err := s.api.CreateMultipartUpload(ctx, upload)
	if err != nil {
		return s.failed(opWrite, key, rightToPut, err)
	}
	defer func() {
		if left := s.abortAfter(ctx, err, key, begun.UploadId); left != nil {
			err = advice.Errorf("%w; %w", err, left)
		}
	}()
	each := max(s.part, (size+mostParts-1)/mostParts)
	var parts []types.CompletedPart
	for start := int64(0); start < size; start += each {
		p := &part{whole: body, start: at + start, size: min(each, size-start)}
		if _, err := p.Seek(0, io.SeekStart); err != nil {
			return s.wrap(opWrite, key, err)
		}
		number := aws.Int32(int32(len(parts) + 1))
		sent, err := s.bodies.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.bucket, Key: upload.Key, UploadId: begun.UploadId, PartNumber: number, Body: p, ContentLength: aws.Int64(p.size),
		})
		if err != nil {
			return s.failed(opWrite, key, rightToPut, err)
		}
		parts = append(parts, types.CompletedPart{
			PartNumber: number, ETag: sent.ETag, ChecksumCRC32: sent.ChecksumCRC32, ChecksumCRC64NVME: sent.ChecksumCRC64NVME,
		})
	}
	_, err = s.bodies.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: upload.Key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if answer := answerTo(err); err != nil && (answer.unclear() || answer.code == codeNoUpload) {
		// Made again, it may meet its own success.
		err = s.failed(opWrite, key, rightToPut, err)
		_, err = s.readBack(ctx, &s3.PutObjectInput{Bucket: upload.Bucket, Key: upload.Key, Metadata: upload.Metadata}, key, err)
		return err
	}
	return s.failed(opWrite, key, rightToPut, err)
}

// abortAfter has S3 forget the parts of an upload that failed, which cost as objects do until then.
func (s *S3) abortAfter(ctx context.Context, failed error, key string, id *string) error {
	if failed == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	_, err := s.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key), UploadId: id})
	if err == nil || answerTo(err).status == http.StatusNotFound {
		return nil
	}
	why, _ := advice.Of(s.failed(opDelete, key, "s3:AbortMultipartUpload", err))
	return advice.Try(fmt.Errorf("the parts that S3 has taken are left, and cost: %s", why),
		"a lifecycle rule with AbortIncompleteMultipartUpload")
}

// part is a stretch of a body.
type part struct {
	whole           io.ReadSeeker
	start, size, at int64
}

func (p *part) Read(into []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	n, err := p.whole.Read(into[:min(int64(len(into)), p.size-p.at)])
	p.at += int64(n)
	return n, err
}

func (p *part) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.at
	case io.SeekEnd:
		offset += p.size
	}
	if offset < 0 {
		return p.at, fmt.Errorf("seek to %d in a part", offset)
	}
	if _, err := p.whole.Seek(p.start+offset, io.SeekStart); err != nil {
		return p.at, err
	}
	p.at = offset
	return offset, nil
}
