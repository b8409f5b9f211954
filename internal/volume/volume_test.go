package volume_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// fakeEC2 is EC2 by functions; calling one that is nil panics. calls counts them by name.
type fakeEC2 struct {
	describe func(*ec2.DescribeVolumesInput) ([]types.Volume, error)
	create   func(*ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error)
	attach   func(*ec2.AttachVolumeInput) error
	modify   func(*ec2.ModifyInstanceAttributeInput) error
	detach   func(*ec2.DetachVolumeInput) error
	remove   func(*ec2.DeleteVolumeInput) error
	tag      func(*ec2.CreateTagsInput) error
	calls    map[string]int
}

func (f *fakeEC2) count(name string) {
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[name]++
}

func (f *fakeEC2) DescribeVolumes(_ context.Context, in *ec2.DescribeVolumesInput, _ ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error) {
	f.count("describe")
	volumes, err := f.describe(in)
	return &ec2.DescribeVolumesOutput{Volumes: volumes}, err
}

func (f *fakeEC2) CreateVolume(_ context.Context, in *ec2.CreateVolumeInput, _ ...func(*ec2.Options)) (*ec2.CreateVolumeOutput, error) {
	f.count("create")
	return f.create(in)
}

func (f *fakeEC2) AttachVolume(_ context.Context, in *ec2.AttachVolumeInput, _ ...func(*ec2.Options)) (*ec2.AttachVolumeOutput, error) {
	f.count("attach")
	return &ec2.AttachVolumeOutput{State: types.VolumeAttachmentStateAttaching}, f.attach(in)
}

func (f *fakeEC2) ModifyInstanceAttribute(_ context.Context, in *ec2.ModifyInstanceAttributeInput, _ ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error) {
	f.count("modify")
	return &ec2.ModifyInstanceAttributeOutput{}, f.modify(in)
}

func (f *fakeEC2) DetachVolume(_ context.Context, in *ec2.DetachVolumeInput, _ ...func(*ec2.Options)) (*ec2.DetachVolumeOutput, error) {
	f.count("detach")
	return &ec2.DetachVolumeOutput{}, f.detach(in)
}

func (f *fakeEC2) DeleteVolume(_ context.Context, in *ec2.DeleteVolumeInput, _ ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error) {
	f.count("delete")
	return &ec2.DeleteVolumeOutput{}, f.remove(in)
}

func (f *fakeEC2) CreateTags(_ context.Context, in *ec2.CreateTagsInput, _ ...func(*ec2.Options)) (*ec2.CreateTagsOutput, error) {
	f.count("tag")
	return &ec2.CreateTagsOutput{}, f.tag(in)
}

func api(code, message string) error {
	return &smithy.OperationError{ServiceID: "EC2", OperationName: "X", Err: &smithy.GenericAPIError{Code: code, Message: message}}
}

var (
	owner   = volume.Owner{Role: volume.RoleMember, InstanceID: "i-me", InstanceType: "m5.large", Zone: "eu-west-1b", MountPoint: "/release"}
	request = volume.Request{Owner: owner, SnapshotID: "snap-1", Type: "gp3", IOPS: 4000, Throughput: 1000, Rate: 200, Tags: map[string]string{volume.TagGeneration: "7"}}
)

// inTime runs a test in made-up time, with a minute as its deadline.
func inTime(t *testing.T, f *fakeEC2, test func(t *testing.T, ctx context.Context, v *volume.Volumes)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		test(t, ctx, volume.New(f, volume.DefaultTiming(), slog.New(slog.DiscardHandler)))
	})
}

// states gives a DescribeVolumes that goes through states, staying at the last; "missing" is not
// found.
func states(states ...string) func(*ec2.DescribeVolumesInput) ([]types.Volume, error) {
	return func(in *ec2.DescribeVolumesInput) ([]types.Volume, error) {
		state := states[0]
		if len(states) > 1 {
			states = states[1:]
		}
		v := types.Volume{VolumeId: aws.String(in.VolumeIds[0]), State: types.VolumeState(state)}
		switch state {
		case "missing":
			return nil, api("InvalidVolume.NotFound", "The volume does not exist.")
		case "attached", "detaching":
			v.State = types.VolumeStateInUse
			v.Attachments = []types.VolumeAttachment{{InstanceId: aws.String("i-me"), Device: aws.String("/dev/xvdaa"), State: types.VolumeAttachmentState(state)}}
		case "elsewhere":
			v.State = types.VolumeStateInUse
			v.Attachments = []types.VolumeAttachment{{InstanceId: aws.String("i-another"), Device: aws.String("/dev/xvdaa"), State: types.VolumeAttachmentStateAttached}}
		}
		return []types.Volume{v}, nil
	}
}

func created(id string, encrypted bool) func(*ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
	return func(in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
		time.Sleep(300 * time.Millisecond) // as EC2 does
		return &ec2.CreateVolumeOutput{VolumeId: aws.String(id), State: types.VolumeStateCreating, Encrypted: aws.Bool(encrypted), KmsKeyId: aws.String("arn:key")}, nil
	}
}

func TestMakeTagsInTheSameCallAndWaits(t *testing.T) {
	var in *ec2.CreateVolumeInput
	f := &fakeEC2{describe: states("available")}
	f.create = func(got *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
		in = got
		return created("vol-1", false)(got)
	}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		started := time.Now()
		made, err := v.Make(ctx, request)
		if err != nil || made.ID != "vol-1" || made.State != types.VolumeStateAvailable {
			t.Fatalf("made %+v, %v", made, err)
		}
		if f.calls["describe"] != 1 || f.calls["create"] != 1 {
			t.Errorf("calls = %v, want one create and one describe", f.calls)
		}
		// The first look comes when half of all volumes are ready.
		if took := time.Since(started); took < time.Second || took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
	tags := map[string]string{}
	for _, tag := range in.TagSpecifications[0].Tags {
		tags[*tag.Key] = *tag.Value
	}
	want := map[string]string{
		volume.TagName: "ebs-release i-me", volume.TagRole: "member", volume.TagInstance: "i-me", volume.TagMountPoint: "/release", volume.TagGeneration: "7",
	}
	if !maps.Equal(tags, want) {
		t.Errorf("tags = %v, want %v", tags, want)
	}
	if *in.AvailabilityZone != "eu-west-1b" || *in.SnapshotId != "snap-1" || in.VolumeType != "gp3" || *in.VolumeInitializationRate != 200 || *in.Iops != 4000 || *in.Throughput != 1000 || len(*in.ClientToken) != 64 {
		t.Errorf("input = %+v", in)
	}
}

func TestTokensAreTriedInTheSameOrder(t *testing.T) {
	walk := func(t *testing.T, burned int) []string {
		var tokens []string
		f := &fakeEC2{describe: states("available")}
		f.create = func(in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
			tokens = append(tokens, *in.ClientToken)
			if len(tokens) <= burned {
				return nil, api("IdempotentParameterMismatch", "inconsistent")
			}
			return created("vol-1", false)(in)
		}
		inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
			if _, err := v.Make(ctx, request); err != nil {
				t.Fatal(err)
			}
		})
		return tokens
	}
	first, second := walk(t, 0), walk(t, 3)
	if len(first) != 1 || len(second) != 4 || second[0] != first[0] {
		t.Fatalf("tokens %v and %v, want the second list to start with the first", first, second)
	}
	slices.Sort(second)
	if len(slices.Compact(second)) != 4 {
		t.Errorf("a token was used twice: %v", second)
	}
}

// found is what a client token leads to that an earlier run used.
func found(id string) func(*ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
	return func(*ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
		return &ec2.CreateVolumeOutput{VolumeId: aws.String(id), State: types.VolumeStateAvailable}, nil
	}
}

func TestCreateTakesTheNextTokenWhenTheVolumeIsOfNoUse(t *testing.T) {
	for name, tc := range map[string]struct {
		state string // of the volume that the first token leads to
		at    string // the instance that it is attached to
		not   []string
	}{
		"being deleted":           {"deleting", "", nil},
		"removed by this program": {"available", "", []string{"vol-1"}},
		"moved to another one":    {"in-use", "i-another", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			f := &fakeEC2{describe: func(in *ec2.DescribeVolumesInput) ([]types.Volume, error) {
				seen := types.Volume{VolumeId: aws.String(in.VolumeIds[0]), State: types.VolumeState(tc.state)}
				if tc.at != "" {
					seen.Attachments = []types.VolumeAttachment{{InstanceId: aws.String(tc.at), State: types.VolumeAttachmentStateAttached}}
				}
				return []types.Volume{seen}, nil
			}}
			f.create = func(in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
				if n++; n == 1 {
					return found("vol-1")(in)
				}
				return created("vol-2", false)(in)
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				r := request
				r.Not = tc.not
				if made, err := v.Create(ctx, r); err != nil || made.ID != "vol-2" {
					t.Fatalf("made %+v, %v", made, err)
				}
			})
		})
	}
}

func TestTokensDoNotRunOutForLong(t *testing.T) {
	used := map[string]bool{}
	f := &fakeEC2{create: func(in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
		if used[*in.ClientToken] {
			return nil, api("IdempotentParameterMismatch", "inconsistent")
		}
		used[*in.ClientToken] = true
		return created(fmt.Sprint("vol-", len(used)), false)(in)
	}}
	synctest.Test(t, func(t *testing.T) {
		v := volume.New(f, volume.DefaultTiming(), slog.New(slog.DiscardHandler))
		for began := time.Now(); time.Since(began) < time.Hour; time.Sleep(10 * time.Second) {
			for range 3 {
				if _, err := v.Create(t.Context(), request); err != nil {
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
			}
			time.Sleep(10 * time.Second) // three volumes that fail take longer
		}
	})
}

func TestMakeEndsFast(t *testing.T) {
	for _, tc := range []struct {
		name      string
		encrypted bool
		create    error
		states    []string
		want      error
		text      string
		within    time.Duration
	}{
		{"state error", false, nil, []string{"creating", "error"}, volume.ErrFailed, "state `error`", 3 * time.Second},
		{"encrypted, vanished", true, nil, []string{"creating", "missing"}, volume.ErrFailed, "kms:CreateGrant", 16 * time.Second},
		{"encrypted, in error", true, nil, []string{"error"}, volume.ErrFailed, "on the key arn:key", 3 * time.Second},
		{"snapshot gone", false, api("InvalidSnapshot.NotFound", "The snapshot 'snap-1' does not exist."), nil, volume.ErrSnapshot, "snap-1", time.Second},
		{"snapshot pending", false, api("IncorrectState", "Snapshot is in invalid state - pending"), nil, volume.ErrSnapshot, "pending", time.Second},
		{"no right", false, api("UnauthorizedOperation", "You are not authorized. Encoded authorization failure message: AAAA"), nil, nil, "Try: allow ec2:CreateVolume", time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeEC2{describe: states(append(tc.states, "")...), create: created("vol-1", tc.encrypted)}
			if len(tc.states) > 0 {
				f.describe = states(tc.states...)
			}
			if tc.create != nil {
				f.create = func(*ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) { return nil, tc.create }
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				started := time.Now()
				made, err := v.Make(ctx, request)
				if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
					t.Fatalf("error = %v, want %v with %q in it", err, tc.want, tc.text)
				}
				if took := time.Since(started); took > tc.within {
					t.Errorf("took %v, want at most %v", took, tc.within)
				}
				if tc.create == nil && made.ID != "vol-1" {
					t.Errorf("the volume that exists is not returned: %+v", made)
				}
				if f.calls["create"] != 1 {
					t.Errorf("created %d times, want once", f.calls["create"])
				}
			})
		})
	}
}

func TestMakeBearsWithAShortNotFound(t *testing.T) {
	f := &fakeEC2{describe: states("missing", "creating", "missing", "available"), create: created("vol-1", true)}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		if made, err := v.Make(ctx, request); err != nil || made.State != types.VolumeStateAvailable {
			t.Fatalf("made %+v, %v", made, err)
		}
	})
}

func TestCreateReturnsTheVolumeOfALostRunAsItStands(t *testing.T) {
	f := &fakeEC2{describe: states("attached"), create: found("vol-1")}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		made, err := v.Create(ctx, request)
		if err != nil || made.Attachment.InstanceID != "i-me" {
			t.Fatalf("made %+v, %v", made, err)
		}
	})
}

func TestMakeEndsWithItsDeadlineAndTheStateInTheError(t *testing.T) {
	f := &fakeEC2{describe: states("creating"), create: created("vol-1", false)}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		started := time.Now()
		made, err := v.Make(ctx, request)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "creating") || made.ID != "vol-1" {
			t.Fatalf("made %+v, %v", made, err)
		}
		if took := time.Since(started); took != time.Minute {
			t.Errorf("took %v, want the whole minute", took)
		}
	})
}

func TestAttach(t *testing.T) {
	taken := api("InvalidParameterValue", "Invalid value '/dev/xvdaa' for unixDevice. Attachment point /dev/xvdaa is already in use")
	pending := api("IncorrectState", "Instance 'i-me' is not 'running'.")
	unavailable := api("IncorrectState", "vol-1 is not 'available'.")
	notFound := api("InvalidVolume.NotFound", "no")
	denied := api("UnauthorizedOperation", "no")
	for _, tc := range []struct {
		name     string
		answers  []error // then nil
		describe string
		skip     []string
		device   string
		calls    int
		low      time.Duration // at least so long
		high     time.Duration
		text     string // of the error
		want     error
	}{
		{name: "at once", device: "/dev/xvdaa", calls: 1},
		{name: "taken names", answers: []error{taken, taken}, device: "/dev/xvdac", calls: 3},
		{name: "a name that failed before", skip: []string{"/dev/xvdaa"}, device: "/dev/xvdab", calls: 1},
		{name: "instance still pending", answers: slices.Repeat([]error{pending}, 10), device: "/dev/xvdaa", calls: 11, low: 5 * time.Second, high: 20 * time.Second},
		{name: "volume not found yet", answers: []error{notFound}, describe: "missing available", device: "/dev/xvdaa", calls: 2, high: time.Second},
		{name: "volume gone", answers: slices.Repeat([]error{notFound}, 1000), describe: "missing", calls: 1, low: 10 * time.Second, high: 14 * time.Second, text: "it is gone", want: volume.ErrFailed},
		{name: "volume not available yet", answers: []error{unavailable}, describe: "creating creating available", device: "/dev/xvdaa", calls: 2, high: time.Second},
		{name: "volume being deleted", answers: []error{unavailable}, describe: "deleting", calls: 1, high: time.Second, text: "EC2 says state `deleting`", want: volume.ErrFailed},
		{name: "volume in error", answers: []error{unavailable}, describe: "error", calls: 1, high: time.Second, text: "EC2 says state `error`", want: volume.ErrFailed},
		{name: "volume attached meanwhile", answers: []error{unavailable}, describe: "creating attached", device: "/dev/xvdaa", calls: 1, high: time.Second},
		{name: "answer lost", answers: []error{api("VolumeInUse", "vol-1 is already attached to an instance")}, describe: "attached", device: "/dev/xvdaa", calls: 1},
		{
			name: "answer lost, and EC2's are old", answers: []error{api("VolumeInUse", "vol-1 is already attached to an instance")},
			describe: "available missing creating attached", device: "/dev/xvdaa", calls: 1, high: time.Second,
		},
		{
			name: "in use, EC2 does not say where", answers: []error{api("VolumeInUse", "vol-1 is already attached")}, describe: "available", calls: 1,
			low: 10 * time.Second, high: 14 * time.Second, text: "VolumeInUse",
		},
		{name: "attached elsewhere", answers: []error{api("VolumeInUse", "vol-1 is already attached")}, describe: "elsewhere", calls: 1, text: "VolumeInUse"},
		{
			name: "limit", answers: []error{api("AttachmentLimitExceeded", "You may attach up to 27 devices")}, calls: 1,
			text: "a m5.large takes no more volumes", want: volume.ErrLimit,
		},
		{name: "zone", answers: []error{api("InvalidVolume.ZoneMismatch", "not in the same zone")}, calls: 1, text: "attach vol-1 to i-me as /dev/xvdaa: AttachVolume: InvalidVolume.ZoneMismatch"},
		{name: "no right", answers: []error{denied, denied}, describe: "available", calls: 2, high: time.Second, text: "ec2:AttachVolume"},
		{name: "no right on a volume that EC2 does not know yet", answers: []error{denied}, describe: "missing available", device: "/dev/xvdaa", calls: 2, high: time.Second},
		{name: "no right on a volume that is gone", answers: slices.Repeat([]error{denied}, 1000), describe: "missing", calls: 1, low: 10 * time.Second, high: 14 * time.Second, text: "it is gone", want: volume.ErrFailed},
		{
			name: "pending for ever", answers: slices.Repeat([]error{pending}, 1000), calls: 36, low: time.Minute, high: time.Minute,
			text: "is not 'running'", want: context.DeadlineExceeded,
		},
		{name: "no free name", answers: slices.Repeat([]error{taken}, 1000), calls: 96, text: "no device name is free"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeEC2{describe: states(strings.Fields(tc.describe)...)}
			answers := tc.answers
			f.attach = func(*ec2.AttachVolumeInput) error {
				if len(answers) == 0 {
					return nil
				}
				err := answers[0]
				answers = answers[1:]
				return err
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				started := time.Now()
				got, err := v.Attach(ctx, volume.Volume{ID: "vol-1"}, owner, tc.skip)
				if tc.text == "" && (err != nil || got.Attachment.Device != tc.device) {
					t.Fatalf("attached %+v, %v, want as %s", got, err, tc.device)
				}
				if tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text) || tc.want != nil && !errors.Is(err, tc.want)) {
					t.Fatalf("error = %v, want %v with %q in it", err, tc.want, tc.text)
				}
				if took := time.Since(started); took < tc.low || took > tc.high {
					t.Errorf("took %v, want %v to %v", took, tc.low, tc.high)
				}
				if n := f.calls["attach"]; n > tc.calls+2 || n < tc.calls-2 || tc.high == 0 && n != tc.calls {
					t.Errorf("%d calls, want about %d", n, tc.calls)
				}
			})
		})
	}
}

// TestAttachLooksAtANewVolumeByAttachingIt: EC2 takes 0.3 s for a call, and so long for the volume
// as each case says.
func TestAttachLooksAtANewVolumeByAttachingIt(t *testing.T) {
	for _, tc := range []struct {
		takes            time.Duration
		attach, describe [2]int        // calls, at least and at most: there is jitter
		late             time.Duration // from when it is available until it is attached, at most
	}{
		{500 * time.Millisecond, [2]int{1, 1}, [2]int{0, 0}, 1400 * time.Millisecond},
		{1500 * time.Millisecond, [2]int{1, 2}, [2]int{0, 0}, 800 * time.Millisecond}, // half of all are faster
		{2 * time.Second, [2]int{2, 4}, [2]int{0, 0}, 900 * time.Millisecond},
		{4 * time.Second, [2]int{5, 5}, [2]int{2, 4}, 1500 * time.Millisecond},    // 99 %
		{30 * time.Second, [2]int{5, 5}, [2]int{10, 20}, 3500 * time.Millisecond}, // something is wrong, and it is asked for less often
	} {
		t.Run(tc.takes.String(), func(t *testing.T) {
			var available time.Time
			f := &fakeEC2{create: func(in *ec2.CreateVolumeInput) (*ec2.CreateVolumeOutput, error) {
				available = time.Now().Add(tc.takes)
				return created("vol-1", false)(in)
			}}
			f.describe = func(in *ec2.DescribeVolumesInput) ([]types.Volume, error) {
				time.Sleep(300 * time.Millisecond)
				if time.Now().Before(available) {
					return states("creating")(in)
				}
				return states("available")(in)
			}
			f.attach = func(*ec2.AttachVolumeInput) error {
				defer time.Sleep(150 * time.Millisecond)
				time.Sleep(150 * time.Millisecond)
				if time.Now().Before(available) {
					return api("IncorrectState", "vol-1 is not 'available'.")
				}
				return nil
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				made, err := v.Create(ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := v.Attach(ctx, made, owner, nil); err != nil {
					t.Fatal(err)
				}
				for name, want := range map[string][2]int{"attach": tc.attach, "describe": tc.describe} {
					if n := f.calls[name]; n < want[0] || n > want[1] {
						t.Errorf("%d calls of %s, want %v", n, name, want)
					}
				}
				if late := time.Since(available); late > tc.late {
					t.Errorf("attached %v after it was available", late)
				}
			})
		})
	}
}

func TestAttachGivesUpANewVolumeThatWillNotBe(t *testing.T) {
	unavailable, notFound := api("IncorrectState", "vol-1 is not 'available'."), api("InvalidVolume.NotFound", "no")
	for _, tc := range []struct {
		name, describe string
		attach         error
		encrypted      bool
		says           string
		within         time.Duration
	}{
		{"in error", "error", unavailable, false, "`error`", 3 * time.Second},
		{"deleted by somebody", "deleting", unavailable, false, "`deleting`", 3 * time.Second},
		{"vanished", "missing", notFound, false, "it is gone", 13 * time.Second},
		{"encrypted, vanished", "missing", notFound, true, "kms:CreateGrant", 13 * time.Second},
		{"encrypted, in error", "error", unavailable, true, "on the key arn:key", 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeEC2{create: created("vol-1", tc.encrypted), describe: states(tc.describe), attach: func(*ec2.AttachVolumeInput) error { return tc.attach }}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				made, err := v.Create(ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				started := time.Now()
				_, err = v.Attach(ctx, made, owner, nil)
				if !errors.Is(err, volume.ErrFailed) || !strings.Contains(err.Error(), tc.says) || !strings.HasPrefix(err.Error(), "attach vol-1 to i-me: ") {
					t.Errorf("error = %v, want %q in it", err, tc.says)
				}
				if took := time.Since(started); took > tc.within {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestProtectWaitsUntilEC2SeesTheAttachment(t *testing.T) {
	n := 0
	var in *ec2.ModifyInstanceAttributeInput
	f := &fakeEC2{modify: func(got *ec2.ModifyInstanceAttributeInput) error {
		in = got
		if n++; n < 3 {
			return api("InvalidInstanceAttributeValue", "No device is currently mapped at /dev/xvdaa")
		}
		return nil
	}}
	vol := volume.Volume{ID: "vol-1", Attachment: volume.Attachment{InstanceID: "i-me", Device: "/dev/xvdaa"}}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		if err := v.Protect(ctx, vol); err != nil || n != 3 {
			t.Fatalf("%v after %d calls", err, n)
		}
	})
	mapping := in.BlockDeviceMappings[0]
	if *in.InstanceId != "i-me" || *mapping.DeviceName != "/dev/xvdaa" || !*mapping.Ebs.DeleteOnTermination || *mapping.Ebs.VolumeId != "vol-1" {
		t.Errorf("input = %+v", in)
	}
}

// Row 87: the disk is here, and EC2's answers are from before the attachment.
func TestProtectAsksForTheNameThatEC2HasNotTold(t *testing.T) {
	for _, tc := range []struct {
		describe, text string
		modified       int
	}{
		{"available missing attached", "", 1},
		{"available elsewhere", "attached to i-another, not to i-me", 0},
		{"available", "EC2 does not say that it is attached to i-me", 0},
	} {
		t.Run(tc.describe, func(t *testing.T) {
			f := &fakeEC2{describe: states(strings.Fields(tc.describe)...), modify: func(in *ec2.ModifyInstanceAttributeInput) error {
				if got := *in.BlockDeviceMappings[0].DeviceName; got != "/dev/xvdaa" {
					t.Errorf("device name %q", got)
				}
				return nil
			}}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				err := v.Protect(ctx, volume.Volume{ID: "vol-1", Attachment: volume.Attachment{InstanceID: "i-me"}})
				if (err != nil) != (tc.text != "") || err != nil && !strings.Contains(err.Error(), tc.text) || f.calls["modify"] != tc.modified {
					t.Errorf("%v after %v", err, f.calls)
				}
			})
		})
	}
}

func TestRemove(t *testing.T) {
	for _, tc := range []struct {
		name           string
		states         []string
		detach, delete error
		detached, gone int // calls
		text           string
	}{
		{name: "attached", states: []string{"attached", "detaching", "detaching", "available"}, detached: 1, gone: 1},
		{name: "available", states: []string{"available"}, gone: 1},
		{name: "detached meanwhile", states: []string{"attached", "available"}, detach: api("IncorrectState", "is in the 'available' state"), detached: 1, gone: 1},
		{name: "deleted already", states: []string{"missing"}, delete: api("InvalidVolume.NotFound", "no"), gone: 1},
		{name: "being deleted", states: []string{"deleting"}},
		{name: "no right", states: []string{"available"}, delete: api("UnauthorizedOperation", "no"), gone: 1, text: "ec2:DeleteVolume"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeEC2{
				describe: states(tc.states...),
				detach:   func(*ec2.DetachVolumeInput) error { return tc.detach },
				remove:   func(*ec2.DeleteVolumeInput) error { return tc.delete },
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				err := v.Remove(ctx, volume.Volume{ID: "vol-1"}, "i-me")
				if tc.text == "" && err != nil || tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text)) {
					t.Fatalf("error = %v, want %q", err, tc.text)
				}
				if f.calls["detach"] != tc.detached || f.calls["delete"] != tc.gone {
					t.Errorf("calls = %v, want %d detach, %d delete", f.calls, tc.detached, tc.gone)
				}
			})
		})
	}
}

func TestRemoveOfANewVolumeThatEC2DoesNotKnow(t *testing.T) {
	for _, tc := range []struct {
		name            string
		states          []string
		delete          error
		atLeast, within time.Duration
		gone            int // successful deletes
	}{
		{"and will", []string{"missing", "missing", "available"}, api("UnauthorizedOperation", "no tags, no right"), 0, 2 * time.Second, 1},
		{"nor will", []string{"missing"}, api("UnauthorizedOperation", "no tags, no right"), 8 * time.Second, 13 * time.Second, 0},
		{"nor will, and says so", []string{"missing"}, api("InvalidVolume.NotFound", "no"), 8 * time.Second, 13 * time.Second, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, gone, unknown := &fakeEC2{create: created("vol-1", false)}, 0, true
			look := states(tc.states...)
			f.describe = func(in *ec2.DescribeVolumesInput) ([]types.Volume, error) {
				volumes, err := look(in)
				unknown = err != nil
				return volumes, err
			}
			f.remove = func(*ec2.DeleteVolumeInput) error {
				if unknown {
					return tc.delete
				}
				gone++
				return nil
			}
			inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
				made, err := v.Create(ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				started := time.Now()
				if err := v.Remove(ctx, made, "i-me"); err != nil || gone != tc.gone {
					t.Errorf("%v, deleted %d times", err, gone)
				}
				if took := time.Since(started); took < tc.atLeast || took > tc.within {
					t.Errorf("took %v, want %v to %v", took, tc.atLeast, tc.within)
				}
			})
		})
	}
}

func TestRemoveLeavesWhatAnotherInstanceUses(t *testing.T) {
	f := &fakeEC2{describe: states("attached")}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		if err := v.Remove(ctx, volume.Volume{ID: "vol-1"}, "i-other"); err == nil || !strings.Contains(err.Error(), "attached to i-me") {
			t.Fatalf("error = %v", err)
		}
	})
}

func TestMineAsksByTagsAndLeavesOutTheDeleted(t *testing.T) {
	var filters map[string]string
	f := &fakeEC2{describe: func(in *ec2.DescribeVolumesInput) ([]types.Volume, error) {
		filters = map[string]string{}
		for _, filter := range in.Filters {
			filters[*filter.Name] = strings.Join(filter.Values, ",")
		}
		return []types.Volume{
			{VolumeId: aws.String("vol-1"), State: types.VolumeStateDeleting},
			{
				VolumeId: aws.String("vol-2"), State: types.VolumeStateInUse, Tags: []types.Tag{{Key: aws.String(volume.TagGeneration), Value: aws.String("7")}},
				Attachments: []types.VolumeAttachment{{InstanceId: aws.String("i-me"), Device: aws.String("/dev/xvdaa"), State: "attached", DeleteOnTermination: aws.Bool(true)}},
			},
		}, nil
	}}
	inTime(t, f, func(t *testing.T, ctx context.Context, v *volume.Volumes) {
		mine, err := v.Mine(ctx, owner)
		if err != nil || len(mine) != 1 || mine[0].ID != "vol-2" || mine[0].Tags[volume.TagGeneration] != "7" || !mine[0].Attachment.DeleteOnTermination {
			t.Fatalf("mine = %+v, %v", mine, err)
		}
	})
	want := map[string]string{"tag:" + volume.TagRole: "member", "tag:" + volume.TagInstance: "i-me", "tag:" + volume.TagMountPoint: "/release"}
	if !maps.Equal(filters, want) {
		t.Errorf("filters = %v", filters)
	}
}
