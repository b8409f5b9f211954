package cloud

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func tags(kind types.ResourceType, pairs ...string) []types.TagSpecification {
	spec := types.TagSpecification{ResourceType: kind}
	for i := 0; i < len(pairs); i += 2 {
		spec.Tags = append(spec.Tags, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return []types.TagSpecification{spec}
}

func tagMap(list []types.Tag) map[string]string {
	out := map[string]string{}
	for _, t := range list {
		out[*t.Key] = *t.Value
	}
	return out
}

func TestCreateVolumeFromSnapshotIsCreatingThenAvailable(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Volume: Fixed(2 * time.Second)}}, func(l *lab) {
		snapshot := l.snapshot(l.volume())
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{
			AvailabilityZone: aws.String("us-east-1b"), SnapshotId: &snapshot, VolumeType: types.VolumeTypeGp3, Throughput: aws.Int32(500),
			VolumeInitializationRate: aws.Int32(300), TagSpecifications: tags("volume", "ebs-release:role", "member", "Name", "a b&<c>"),
			ClientToken: aws.String("once"),
		})
		l.ok(err)
		if out.State != "creating" || *out.Size != 2 || *out.SnapshotId != snapshot || *out.AvailabilityZone != "us-east-1b" || *out.Iops != 3000 ||
			*out.Throughput != 500 || *out.VolumeInitializationRate != 300 || out.VolumeType != "gp3" {
			t.Errorf("got %+v", out)
		}
		if got := tagMap(out.Tags); !maps.Equal(got, map[string]string{"ebs-release:role": "member", "Name": "a b&<c>"}) {
			t.Errorf("tags %v", got)
		}
		start := time.Now()
		waiter := ec2.NewVolumeAvailableWaiter(l.ec2, func(o *ec2.VolumeAvailableWaiterOptions) { o.MinDelay, o.MaxDelay = time.Second, time.Second })
		l.ok(waiter.Wait(l.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{*out.VolumeId}}, time.Minute))
		if took := time.Since(start); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("available after %v", took)
		}
	})
}

func TestCreateVolumeRefuses(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Snapshot: Fixed(time.Minute)}}, func(l *lab) {
		done := l.volume()
		ready := l.snapshot(done)
		out, err := l.ec2.CreateSnapshot(l.ctx, &ec2.CreateSnapshotInput{VolumeId: &done})
		l.ok(err)
		pending := *out.SnapshotId
		many := tags("volume")
		for i := range 51 {
			many[0].Tags = append(many[0].Tags, types.Tag{Key: aws.String("k" + string(rune('A'+i))), Value: aws.String("")})
		}
		zone := aws.String("us-east-1a")
		for name, c := range map[string]struct {
			in   ec2.CreateVolumeInput
			code string
		}{
			"no zone":              {ec2.CreateVolumeInput{Size: aws.Int32(1)}, "MissingParameter"},
			"unknown zone":         {ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1z"), Size: aws.Int32(1)}, "InvalidZone.NotFound"},
			"no size":              {ec2.CreateVolumeInput{AvailabilityZone: zone}, "MissingParameter"},
			"unknown snapshot":     {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: aws.String("snap-0123456789abcdef0")}, "InvalidSnapshot.NotFound"},
			"not a snapshot":       {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: aws.String("vol-0123456789abcdef0")}, "InvalidParameterValue"},
			"malformed snapshot":   {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: aws.String("snap-xyz")}, "InvalidSnapshotID.Malformed"},
			"pending snapshot":     {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &pending}, "IncorrectState"},
			"smaller than that":    {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &ready, Size: aws.Int32(1)}, "InvalidParameterValue"},
			"throughput of gp2":    {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), Throughput: aws.Int32(125)}, "InvalidParameterCombination"},
			"iops of gp2":          {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(100), VolumeType: "gp2", Iops: aws.Int32(3000)}, "InvalidParameterCombination"},
			"no iops of io2":       {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(4), VolumeType: "io2"}, "MissingParameter"},
			"rate without source":  {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), VolumeInitializationRate: aws.Int32(100)}, "InvalidParameterCombination"},
			"rate out of range":    {ec2.CreateVolumeInput{AvailabilityZone: zone, SnapshotId: &ready, VolumeInitializationRate: aws.Int32(99)}, "InvalidParameterValue"},
			"key without encrypt":  {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), KmsKeyId: aws.String("k")}, "InvalidParameterDependency"},
			"too small for st1":    {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), VolumeType: "st1"}, "InvalidParameterValue"},
			"unknown type":         {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), VolumeType: "gp9"}, "UnknownVolumeType"},
			"tags of another kind": {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), TagSpecifications: tags("snapshot", "a", "b")}, "InvalidParameterValue"},
			"reserved tag":         {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), TagSpecifications: tags("volume", "aws:x", "b")}, "InvalidParameterValue"},
			"51 tags":              {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), TagSpecifications: many}, "TagLimitExceeded"},
			"unknown parameter":    {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), OutpostArn: aws.String("arn:x")}, "UnknownParameter"},
			"dry run":              {ec2.CreateVolumeInput{AvailabilityZone: zone, Size: aws.Int32(1), DryRun: aws.Bool(true)}, "DryRunOperation"},
		} {
			_, err := l.ec2.CreateVolume(l.ctx, &c.in)
			if got := codeOf(err); got != c.code {
				t.Errorf("%s: got %q (%v), want %q", name, got, err, c.code)
			}
		}
		if got := len(l.Volumes()); got != 1 {
			t.Errorf("%d volumes are there, want the first one only", got)
		}
	})
}

func TestIOPSAndThroughputHaveBounds(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		for _, c := range []struct {
			kind                   types.VolumeType
			size, iops, throughput int32
			says                   string // "": it is made
		}{
			{"gp3", 1, 0, 0, ""},
			{"gp3", 1, 3000, 0, ""}, // the baseline is any size's
			{"gp3", 2, 0, 750, ""},
			{"gp3", 2, 3001, 0, "Iops to volume size ratio of 1500.500000 is too high; maximum is 500"},
			{"gp3", 160, 80000, 2000, ""},
			{"gp3", 159, 80000, 2000, "Iops to volume size ratio of 503.144654 is too high; maximum is 500"},
			{"gp3", 1000, 80001, 0, "Volume iops of 80001 is too high; maximum is 80000."},
			{"gp3", 1000, 2999, 0, "Volume iops of 2999 is too low; minimum is 3000."},
			{"gp3", 1000, 0, 1000, "Throughput (MiBps) to iops ratio of 0.333333 is too high; maximum is 0.250000 MiBps per iops"},
			{"gp3", 1000, 4000, 1000, ""},
			{"gp3", 1000, 8000, 2001, "for parameter Throughput is invalid"},
			{"gp3", 1000, 3000, 124, "for parameter Throughput is invalid"},
			{"io1", 4, 201, 0, "Iops to volume size ratio of 50.250000 is too high; maximum is 50"},
			{"io2", 4, 4000, 0, ""},
		} {
			in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), VolumeType: c.kind, Size: &c.size}
			if c.iops != 0 {
				in.Iops = &c.iops
			}
			if c.throughput != 0 {
				in.Throughput = &c.throughput
			}
			_, err := l.ec2.CreateVolume(l.ctx, in)
			if c.says == "" && err != nil || c.says != "" && (codeOf(err) != "InvalidParameterValue" || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}

func TestClientTokens(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), ClientToken: aws.String("t1")}
		first, err := l.ec2.CreateVolume(l.ctx, in)
		l.ok(err)
		again, err := l.ec2.CreateVolume(l.ctx, in)
		l.ok(err)
		if *first.VolumeId != *again.VolumeId || len(l.Volumes()) != 1 {
			t.Errorf("the same request made %s and %s", *first.VolumeId, *again.VolumeId)
		}
		other := *in
		other.Size = aws.Int32(2)
		_, err = l.ec2.CreateVolume(l.ctx, &other)
		l.wantCode(err, "IdempotentParameterMismatch")

		l.reaches(*first.VolumeId, "available")
		_, err = l.ec2.DeleteVolume(l.ctx, &ec2.DeleteVolumeInput{VolumeId: first.VolumeId})
		l.ok(err)
		l.reaches(*first.VolumeId, "")
		_, err = l.ec2.CreateVolume(l.ctx, in)
		l.wantCode(err, "IdempotentParameterMismatch") // row 4: burned
		time.Sleep(tokenLife + time.Second)
		_, err = l.ec2.CreateVolume(l.ctx, in)
		l.wantCode(err, "")
	})
}

func TestEncryptedVolumeWithoutItsKeyVanishes(t *testing.T) {
	inLab(t, Options{KMSKeys: []string{"mine"}, Latency: LatencyTable{Volume: Fixed(time.Second)}}, func(l *lab) {
		make := func(key string) string {
			out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{
				AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), Encrypted: aws.Bool(true), KmsKeyId: &key, ClientToken: &key,
			})
			l.ok(err)
			return *out.VolumeId
		}
		l.reaches(make("mine"), "available")
		foreign := make("foreign")
		l.reaches(foreign, "")
		_, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{foreign}})
		l.wantCode(err, "InvalidVolume.NotFound")
	})
}

func TestDescribeVolumesFilters(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		attached, instance := l.attached()
		tagged := l.volume(func(in *ec2.CreateVolumeInput) {
			in.TagSpecifications = tags("volume", "ebs-release:role", "member", "ebs-release:instance", "i-0123456789abcdef0")
		})
		plain := l.volume()
		for name, c := range map[string]struct {
			filter string
			values []string
			want   []string
		}{
			"tag":               {"tag:ebs-release:role", []string{"server", "member"}, []string{tagged}},
			"tag wildcard":      {"tag:ebs-release:instance", []string{"i-0123*"}, []string{tagged}},
			"tag, another case": {"tag:ebs-release:role", []string{"Member"}, nil},
			"tag-key":           {"tag-key", []string{"ebs-release:?ole"}, []string{tagged}},
			"status":            {"status", []string{"available"}, []string{tagged, plain}},
			"volume-id":         {"volume-id", []string{plain}, []string{plain}},
			"attachment.device": {"attachment.device", []string{"/dev/xvdaa"}, []string{attached}},
		} {
			out, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{{Name: &c.filter, Values: c.values}}})
			l.ok(err)
			var got []string
			for _, v := range out.Volumes {
				got = append(got, *v.VolumeId)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", name, got, c.want)
			}
		}
		out, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{
			{Name: aws.String("attachment.instance-id"), Values: []string{instance}}, {Name: aws.String("attachment.status"), Values: []string{"attached"}},
		}})
		l.ok(err)
		if len(out.Volumes) != 2 || *out.Volumes[0].Attachments[0].Device != "/dev/xvdaa" || out.Volumes[0].State != "in-use" { // the root volume, too
			t.Errorf("attached to the instance: %+v", out.Volumes)
		}
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}})
		l.wantCode(err, "InvalidParameterValue")
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: []types.Filter{{Name: aws.String("status"), Values: make([]string, 201)}}})
		l.wantCode(err, "FilterLimitExceeded")
		both := []types.Filter{{Name: aws.String("status"), Values: make([]string, 200)}, {Name: aws.String("tag:a"), Values: []string{"b"}}}
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: both}) // counted for the call (row 36)
		l.wantCode(err, "FilterLimitExceeded")
		if _, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{Filters: both[:1]}); err != nil {
			t.Errorf("200 values: %v", err)
		}
	})
}

func TestDescribeVolumesPages(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		var want []string
		for range 12 {
			want = append(want, l.volume())
		}
		pages := ec2.NewDescribeVolumesPaginator(l.ec2, &ec2.DescribeVolumesInput{
			MaxResults: aws.Int32(5), Filters: []types.Filter{{Name: aws.String("status"), Values: []string{"available"}}},
		})
		var got []string
		n := 0
		for ; pages.HasMorePages(); n++ {
			out, err := pages.NextPage(l.ctx)
			l.ok(err)
			for _, v := range out.Volumes {
				got = append(got, *v.VolumeId)
			}
			if n == 0 { // what goes between two pages does not make others be missed
				_, err := l.ec2.DeleteVolume(l.ctx, &ec2.DeleteVolumeInput{VolumeId: &want[0]})
				l.ok(err)
				l.reaches(want[0], "")
			}
		}
		if !slices.Equal(got, want) || n != 3 {
			t.Errorf("%d pages: %v, want %v", n, got, want)
		}
		_, err := l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5), VolumeIds: want[1:2]})
		l.wantCode(err, "InvalidParameterCombination")
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(4)})
		l.wantCode(err, "InvalidParameterValue")
		_, err = l.ec2.DescribeVolumes(l.ctx, &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5), NextToken: aws.String("rubbish!")})
		l.wantCode(err, "InvalidParameterValue")
	})
}

func TestDeleteVolume(t *testing.T) {
	inLab(t, Options{Latency: LatencyTable{Volume: Fixed(time.Second), DeleteVolume: Fixed(time.Second)}}, func(l *lab) {
		del := func(id string) error {
			_, err := l.ec2.DeleteVolume(l.ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
			return err
		}
		attached, _ := l.attached()
		l.wantCode(del(attached), "VolumeInUse")
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		l.ok(err)
		l.wantCode(del(*out.VolumeId), "IncorrectState") // creating
		l.reaches(*out.VolumeId, "available")
		l.ok(del(*out.VolumeId))
		if got := l.state(*out.VolumeId); got != "deleting" {
			t.Errorf("state %q, want deleting", got)
		}
		l.wantCode(del(*out.VolumeId), "IncorrectState")
		l.reaches(*out.VolumeId, "")
		l.wantCode(del(*out.VolumeId), "InvalidVolume.NotFound")
		l.wantCode(del("vol-123"), "InvalidVolumeID.Malformed")
	})
}

func TestVolumeThatHardwareCannotMakeIsInError(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		l.hw.mu.Lock()
		l.hw.fail = ErrBusy
		l.hw.mu.Unlock()
		out, err := l.ec2.CreateVolume(l.ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1)})
		l.ok(err)
		l.reaches(*out.VolumeId, "error")
	})
}
