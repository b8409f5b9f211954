package packaging_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"ebs-release/internal/lab/policy"
	"ebs-release/internal/volume"
)

// programs are the two programs with their package and the policies of the role that they run
// under.
var programs = map[string][]string{"agent": {"iam/agent.json", "iam/launch-hook.json"}, "publisher": {"iam/publisher.json", "iam/launch-template.json"}}

const (
	region    = "arn:aws:ec2:us-east-1:123456789012:"
	snapshots = "arn:aws:ec2:us-east-1::snapshot/"
	me        = "i-0aaaaaaaaaaaaaaaa"
	another   = "i-0bbbbbbbbbbbbbbbb"
	aVolume   = region + "volume/vol-0123456789abcdef0"
	newVolume = region + "volume/*"
	aSnapshot = snapshots + "snap-0123456789abcdef0"
	newSnap   = snapshots + "*"
	aTemplate = region + "launch-template/lt-0123456789abcdef0"
	theGroup  = "*"
	account   = "123456789012"
	inS3      = "arn:aws:s3:::releases/prod/"
)

// TestPoliciesNameTheCallsOfThePrograms holds the actions of each policy against the API methods
// that the linker kept in the program: what is not reachable from main is not in it. So a call
// without a right, and a right without a call, both fail here.
func TestPoliciesNameTheCallsOfThePrograms(t *testing.T) {
	for program, files := range programs {
		binary := filepath.Join(t.TempDir(), program)
		run(t, "go", "build", "-buildvcs=false", "-o", binary, "../"+program)
		out, err := exec.Command("go", "tool", "nm", binary).Output()
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]bool{}
		for _, m := range regexp.MustCompile(`aws-sdk-go-v2/service/([a-z0-9]+)\.\(\*Client\)\.([A-Z][A-Za-z0-9]+)\n`).FindAllSubmatch(out, -1) {
			service, method := string(m[1]), string(m[2])
			switch method { // rights with another name (Service Authorization Reference, Amazon S3)
			case "ListObjectsV2":
				method = "ListBucket"
			case "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload":
				method = "PutObject"
			case "GetBucketLifecycleConfiguration":
				method = "GetLifecycleConfiguration"
			case "GetObjectLockConfiguration":
				method = "GetBucketObjectLockConfiguration"
			}
			service = strings.TrimSuffix(service, "v2") // elasticloadbalancingv2
			switch {
			case service == "sts" || service == "sso" || service == "ssooidc" || service == "signin": // the SDK's own chain of credentials
			case method == "Options": // not a call
			case service == "s3" && method == "CreateSession": // the SDK's own, for directory buckets only (S3 User Guide, "S3 Express One Zone")
			default:
				calls[strings.ToLower(service+":"+method)] = true
			}
		}
		if len(calls) < 5 {
			t.Fatalf("%s: found only the calls %v: does this look for the right symbols?", program, calls)
		}
		var actions []string
		for _, file := range files {
			actions = append(actions, load(t, file).Actions()...)
		}
		for call := range calls {
			if !slices.Contains(actions, call) {
				t.Errorf("%s calls %s, and no statement of %v is for it", program, call, files)
			}
		}
		for _, action := range actions {
			if !calls[action] {
				t.Errorf("%v allow %s, which %s never calls", files, action, program)
			}
		}
	}
}

func TestPoliciesAreNarrow(t *testing.T) {
	for _, file := range slices.Concat(programs["agent"], programs["publisher"]) {
		text := read(t, file)
		for _, action := range load(t, file).Actions() {
			if strings.ContainsAny(action, "*?") {
				t.Errorf("%s: the action %s has a wildcard", file, action)
			}
		}
		size := 0
		for _, r := range text {
			if !unicode.IsSpace(r) {
				size++
			}
		}
		if size > 6144 { // IAM quotas: "6,144 characters" for a managed policy, white space not counted
			t.Errorf("%s has %d characters: too long for a managed policy", file, size)
		}
		for _, tag := range regexp.MustCompile(`ebs-release:[a-z-]+`).FindAllString(text, -1) {
			known := []string{volume.TagRole, volume.TagInstance, volume.TagMountPoint, volume.TagGeneration, volume.TagRelease, volume.TagState, volume.TagHostKey, volume.TagStore, volume.TagVerified, volume.TagTrouble, volume.TagVolume}
			if !slices.Contains(known, tag) {
				t.Errorf("%s: internal/volume knows no tag %s", file, tag)
			}
		}
	}
}

// ask is one request of the table below: what the program asks of one resource.
type ask struct {
	name     string
	action   string
	resource string
	context  map[string][]string
	sid      string // of the statement that must allow it, or deny it expressly; "" when nothing may allow it
}

// from is the context of a call by an instance.
func from(instance string, more ...map[string][]string) map[string][]string {
	context := map[string][]string{"aws:userid": {"AROAEXAMPLE:" + instance}, "ec2:SourceInstanceARN": {region + "instance/" + instance}}
	for _, m := range more {
		for key, value := range m {
			context[key] = value
		}
	}
	return context
}

// existing are the tags of the resource, giving are those of the request; target is the id of the
// instance that the call is about.
func existing(tags ...string) map[string][]string { return tagContext("aws:ResourceTag/", tags) }

func giving(tags ...string) map[string][]string {
	context := tagContext("aws:RequestTag/", tags)
	for i := 0; i < len(tags); i += 2 {
		context["aws:TagKeys"] = append(context["aws:TagKeys"], tags[i])
	}
	return context
}

func creating(action string) map[string][]string {
	return map[string][]string{"ec2:CreateAction": {action}}
}

// bucketOf is a bucket of an account, asked for by one of ours.
func bucketOf(owner string) map[string][]string {
	return map[string][]string{"aws:ResourceAccount": {owner}, "aws:PrincipalAccount": {account}}
}

func target(id string) map[string][]string { return map[string][]string{"ec2:InstanceID": {id}} }

// like is a new volume's type and snapshot, "" for a blank one.
func like(kind, snapshot string) map[string][]string {
	context := map[string][]string{"ec2:VolumeType": {kind}}
	if snapshot != "" {
		context["ec2:ParentSnapshot"] = []string{snapshot}
	}
	return context
}

func size(gib string) map[string][]string { return map[string][]string{"ec2:VolumeSize": {gib}} }

func attribute(name string) map[string][]string { return map[string][]string{"ec2:Attribute": {name}} }

func tagContext(prefix string, tags []string) map[string][]string {
	context := map[string][]string{}
	for i := 0; i < len(tags); i += 2 {
		context[prefix+tags[i]] = []string{tags[i+1]}
	}
	return context
}

func TestAgentMayTouchOnlyItsOwn(t *testing.T) {
	mine, hers := existing(volume.TagRole, volume.RoleMember, volume.TagInstance, me), existing(volume.TagRole, volume.RoleMember, volume.TagInstance, another)
	server := existing(volume.TagRole, volume.RoleServer, volume.TagInstance, me)
	asks := []ask{
		{"look", "ec2:DescribeVolumes", "*", from(me), "SeeVolumes"},
		{"look how far EBS has loaded it", "ec2:DescribeVolumeStatus", "*", from(me), "SeeVolumes"},
		{"look whether all is encrypted", "ec2:GetEbsEncryptionByDefault", "*", from(me), "SeeVolumes"},
		{"look with which key", "ec2:GetEbsDefaultKmsKeyId", "*", from(me), "SeeVolumes"},
		{"make a volume", "ec2:CreateVolume", newVolume, from(me, like("gp3", aSnapshot), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me, volume.TagState, "booting")), "MakeOwnVolume"},
		{"with tags of the account", "ec2:CreateVolume", newVolume, from(me, like("gp3", aSnapshot), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me, "CostCenter", "42", "my key", "")), "MakeOwnVolume"},
		{"tag it with those", "ec2:CreateTags", newVolume, from(me, creating("CreateVolume"), giving(volume.TagRole, volume.RoleMember, "CostCenter", "42")), "TagWhatItMakes"},
		{"make a blank one", "ec2:CreateVolume", newVolume, from(me, like("gp3", ""), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me)), ""},
		{"make one of the dear kind", "ec2:CreateVolume", newVolume, from(me, like("io2", aSnapshot), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me)), ""},
		{"make a huge one", "ec2:CreateVolume", newVolume, from(me, like("gp3", aSnapshot), size("16384"), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me)), ""},
		{"make a large one", "ec2:CreateVolume", newVolume, from(me, like("gp3", aSnapshot), size("2048"), giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me)), "MakeOwnVolume"},
		{"change its user data", "ec2:ModifyInstanceAttribute", region + "instance/" + me, from(me, target(me), attribute("UserData")), "OnlyBlockDevices"},
		{"as the API calls it", "ec2:ModifyInstanceAttribute", region + "instance/" + me, from(me, target(me), attribute("userData")), "OnlyBlockDevices"},
		{"change its type", "ec2:ModifyInstanceAttribute", region + "instance/" + me, from(me, target(me), attribute("InstanceType")), "OnlyBlockDevices"},
		{"read the pointer in S3", "s3:GetObject", inS3 + "release.json", from(me, bucketOf(account)), "ReadPointerInS3"},
		{"write it", "s3:PutObject", inS3 + "release.json", from(me, bucketOf(account)), ""},
		{"read a pack", "s3:GetObject", inS3 + "packs/nothing-0123456789ab-0123456789ab", from(me, bucketOf(account)), "ReadPointerInS3"},
		{"write a pack", "s3:PutObject", inS3 + "packs/nothing-0123456789ab-0123456789ab", from(me, bucketOf(account)), ""},
		{"read the history", "s3:GetObject", inS3 + "history.jsonl", from(me, bucketOf(account)), ""},
		{"read the pointer of another account", "s3:GetObject", inS3 + "release.json", from(me, bucketOf("999999999999")), ""},
		{"report in S3", "s3:PutObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + me, from(me, bucketOf(account)), "ReportInS3"},
		{"that programs failed", "s3:PutObject", inS3 + "reports/0000000000000007/hook-failed/AROAEXAMPLE:" + me, from(me, bucketOf(account)), "ReportInS3"},
		{"report another state", "s3:PutObject", inS3 + "reports/0000000000000007/x/AROAEXAMPLE:" + me, from(me, bucketOf(account)), ""},
		{"report in S3 for another", "s3:PutObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + another, from(me, bucketOf(account)), ""},
		{"the same, in its own name's place", "s3:PutObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + me + "/AROAEXAMPLE:" + another, from(me, bucketOf(account)), ""},
		{"read a report", "s3:GetObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + me, from(me, bucketOf(account)), ""},
		{"delete a report", "s3:DeleteObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + me, from(me, bucketOf(account)), ""},
		{"report to another account", "s3:PutObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + me, from(me, bucketOf("999999999999")), ""},
		{"protect it, on the volume's side", "ec2:ModifyInstanceAttribute", aVolume, from(me, mine), "UseOwnVolume"},
		{"protect another's", "ec2:ModifyInstanceAttribute", aVolume, from(me, hers), ""},
		{"make one from a release", "ec2:CreateVolume", aSnapshot, from(me, existing(volume.TagRole, volume.RoleRelease)), "FromReleaseSnapshot"},
		{"tag it at once", "ec2:CreateTags", newVolume, from(me, creating("CreateVolume"), giving(volume.TagRole, volume.RoleMember)), "TagWhatItMakes"},
		{"attach it", "ec2:AttachVolume", aVolume, from(me, mine), "UseOwnVolume"},
		{"to this instance", "ec2:AttachVolume", region + "instance/" + me, from(me, target(me)), "OnOwnInstance"},
		{"protect it", "ec2:ModifyInstanceAttribute", region + "instance/" + me, from(me, target(me), attribute("BlockDeviceMappings")), "OnOwnInstance"},
		{"detach it", "ec2:DetachVolume", aVolume, from(me, mine), "UseOwnVolume"},
		{"delete it", "ec2:DeleteVolume", aVolume, from(me, mine), "UseOwnVolume"},
		{"report", "ec2:CreateTags", aVolume, from(me, mine, giving(volume.TagState, "ready", volume.TagGeneration, "7", volume.TagHostKey, "ssh-ed25519 A")), "ReportOnOwnVolume"},
		{"say what is wrong", "ec2:CreateTags", aVolume, from(me, mine, giving(volume.TagTrouble, "7 failed: its disk is full")), "ReportOnOwnVolume"},

		{"say that all files were read", "ec2:CreateTags", aVolume, from(me, mine, giving(volume.TagVerified, "all")), "ReportOnOwnVolume"},
		{"say it of another's", "ec2:CreateTags", aVolume, from(me, hers, giving(volume.TagVerified, "all")), ""},
		{"report of what EC2 brought", "ec2:CreateTags", region + "instance/" + me, from(me, target(me), giving(volume.TagState, "ready", volume.TagGeneration, "7", volume.TagRelease, "r", volume.TagHostKey, "ssh-ed25519 A", volume.TagVolume, "vol-1", volume.TagStore, "s")), "ReportOnOwnInstance"},
		{"report for another instance", "ec2:CreateTags", region + "instance/" + another, from(me, target(another), giving(volume.TagState, "ready")), ""},
		{"tag itself with something else", "ec2:CreateTags", region + "instance/" + me, from(me, target(me), giving("Name", "web")), ""},
		{"from elsewhere", "ec2:CreateTags", region + "instance/" + me, map[string][]string{"ec2:InstanceID": {me}, "aws:TagKeys": {volume.TagState}}, ""},
		{"claim what EC2 brought", "ec2:CreateTags", aVolume, from(me, giving(volume.TagRole, volume.RoleMember, volume.TagInstance, me)), ""},
		{"make a volume for another", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleMember, volume.TagInstance, another)), ""},
		{"make one for everyone", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleMember, volume.TagInstance, "*")), ""},
		{"make one for nobody", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleMember)), ""},
		// Which of two tags whose keys differ only in case a condition sees, IAM does not say.
		{"make one for both", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleMember, volume.TagInstance, another, "EBS-RELEASE:instance", me)), "OneSpellingOfOurTags"},
		{"tag it for both", "ec2:CreateTags", newVolume, from(me, creating("CreateVolume"), giving(volume.TagInstance, another, "ebs-release:instancE", me)), "OneSpellingOfOurTags"},
		{"make a server's volume", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleServer, volume.TagInstance, me)), ""},
		{"read any snapshot", "ec2:CreateVolume", aSnapshot, from(me), ""},
		{"attach another's volume", "ec2:AttachVolume", aVolume, from(me, hers), ""},
		{"attach an untagged volume", "ec2:AttachVolume", aVolume, from(me), ""},
		{"attach to another instance", "ec2:AttachVolume", region + "instance/" + another, from(me, target(another)), ""},
		{"detach from another instance", "ec2:DetachVolume", region + "instance/" + another, from(me, target(another)), ""},
		{"change another instance", "ec2:ModifyInstanceAttribute", region + "instance/" + another, from(me, target(another)), ""},
		{"delete another's volume", "ec2:DeleteVolume", aVolume, from(me, hers), ""},
		{"delete the server's volume", "ec2:DeleteVolume", aVolume, from(me, server), ""},
		{"report another's host key", "ec2:CreateTags", aVolume, from(me, hers, giving(volume.TagHostKey, "ssh-ed25519 A")), ""},
		{"take over a volume by its tag", "ec2:CreateTags", aVolume, from(me, hers, giving(volume.TagInstance, me)), ""},
		{"give its volume another role", "ec2:CreateTags", aVolume, from(me, mine, giving(volume.TagRole, volume.RoleServer)), ""},
		{"tag a snapshot as a release", "ec2:CreateTags", aSnapshot, from(me, giving(volume.TagRole, volume.RoleRelease)), ""},
		{"act with stolen credentials, from elsewhere", "ec2:DeleteVolume", aVolume, mine, ""},
	}
	holds(t, "iam/agent.json", asks)
}

func TestLaunchHookIsTheOwnGroups(t *testing.T) {
	const groups = "arn:aws:autoscaling:us-east-1:123456789012:autoScalingGroup:11111111-2222-3333-4444-555555555555:autoScalingGroupName/"
	holds(t, "iam/launch-hook.json", []ask{
		{"look", "autoscaling:DescribeAutoScalingInstances", "*", from(me), "SeeOwnLaunch"},
		{"go on", "autoscaling:CompleteLifecycleAction", groups + "GROUP", from(me), "CompleteLaunch"},
		{"wait on", "autoscaling:RecordLifecycleActionHeartbeat", groups + "GROUP", from(me), "CompleteLaunch"},
		{"for another group", "autoscaling:CompleteLifecycleAction", groups + "GROUP2", from(me), ""},
		{"end an instance", "autoscaling:TerminateInstanceInAutoScalingGroup", groups + "GROUP", from(me), ""},
	})
}

// TestOneLaunchTemplateFollows: the right to change it is root on what its groups launch, so it is
// for that one, and apart from the others.
func TestOneLaunchTemplateFollows(t *testing.T) {
	const template = region + "launch-template/TEMPLATE"
	holds(t, "iam/launch-template.json", []ask{
		{"make a version", "ec2:CreateLaunchTemplateVersion", template, from(me), "FollowTheRelease"},
		{"make it the default", "ec2:ModifyLaunchTemplate", template, from(me), "FollowTheRelease"},
		{"delete an old one", "ec2:DeleteLaunchTemplateVersions", template, from(me), "FollowTheRelease"},
		{"make a version of another", "ec2:CreateLaunchTemplateVersion", aTemplate, from(me), ""},
		{"make it the default there", "ec2:ModifyLaunchTemplate", aTemplate, from(me), ""},
		{"delete one there", "ec2:DeleteLaunchTemplateVersions", aTemplate, from(me), ""},
		{"delete the template", "ec2:DeleteLaunchTemplate", template, from(me), ""},
		{"launch from it", "ec2:RunInstances", template, from(me), ""},
		{"give a group another", "autoscaling:UpdateAutoScalingGroup", "*", from(me), ""},
	})
}

func TestPublisherMayTouchOnlyReleases(t *testing.T) {
	member, server := existing(volume.TagRole, volume.RoleMember, volume.TagInstance, another), existing(volume.TagRole, volume.RoleServer)
	asks := []ask{
		{"write the pointer in S3", "s3:PutObject", inS3 + "release.json", from(me, bucketOf(account)), "StoreInS3"},
		{"write a pack", "s3:PutObject", inS3 + "packs/0123456789ab-0123456789ab-0123456789ab", from(me, bucketOf(account)), "StoreInS3"},
		{"give a large pack up", "s3:AbortMultipartUpload", inS3 + "packs/0123456789ab-0123456789ab-0123456789ab", from(me, bucketOf(account)), "StoreInS3"},
		{"write the history", "s3:PutObject", inS3 + "history.jsonl", from(me, bucketOf(account)), "StoreInS3"},
		{"try to write", "s3:DeleteObject", inS3 + ".doctor", from(me, bucketOf(account)), "StoreInS3"},
		{"see that there is no pointer yet", "s3:ListBucket", "arn:aws:s3:::releases", from(me, bucketOf(account)), "SeeBucketInS3"},
		{"doctor: look at its rules", "s3:GetLifecycleConfiguration", "arn:aws:s3:::releases", from(me, bucketOf(account)), "SeeBucketInS3"},
		{"read what members report", "s3:GetObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + another, from(me, bucketOf(account)), "StoreInS3"},
		{"report for a member in S3", "s3:PutObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + another, from(me, bucketOf(account)), "StoreInS3"},
		{"gc: delete a report", "s3:DeleteObject", inS3 + "reports/0000000000000007/ready/AROAEXAMPLE:" + another, from(me, bucketOf(account)), "StoreInS3"},
		{"write something else", "s3:PutObject", inS3 + "index.html", from(me, bucketOf(account)), ""},
		{"write to another account's", "s3:PutObject", inS3 + "release.json", from(me, bucketOf("999999999999")), ""},
		{"list another account's", "s3:ListBucket", "arn:aws:s3:::releases", from(me, bucketOf("999999999999")), ""},
		{"list groups", "autoscaling:DescribeAutoScalingGroups", theGroup, from(me), "SeeMembers"},
		{"see a warm pool", "autoscaling:DescribeWarmPool", theGroup, from(me), "SeeMembers"},
		{"see an instance refresh", "autoscaling:DescribeInstanceRefreshes", theGroup, from(me), "SeeMembers"},
		{"see who is healthy", "elasticloadbalancing:DescribeTargetHealth", "*", from(me), "SeeMembers"},
		{"list instances", "ec2:DescribeInstances", "*", from(me), "SeeMembers"},
		{"list volumes", "ec2:DescribeVolumes", "*", from(me), "SeeMembers"},
		{"gc: see what launch templates name", "ec2:DescribeLaunchTemplateVersions", "*", from(me), "SeeMembers"},
		{"wait for the snapshot", "ec2:DescribeSnapshots", "*", from(me), "SeeMembers"},
		{"snapshot the release volume", "ec2:CreateSnapshot", aVolume, from(me, server), "SnapshotOfServerVolume"},
		{"as a release", "ec2:CreateSnapshot", newSnap, from(me, giving(volume.TagRole, volume.RoleRelease, volume.TagGeneration, "7")), "MakeReleaseSnapshot"},
		{"tag it at once", "ec2:CreateTags", newSnap, from(me, creating("CreateSnapshot"), giving(volume.TagRole, volume.RoleRelease)), "TagWhatItMakes"},
		{"drop one that does not count", "ec2:DeleteSnapshot", aSnapshot, from(me, existing(volume.TagRole, volume.RoleRelease)), "DropReleaseSnapshot"},
		{"gc: delete the volume of a member that is gone", "ec2:DeleteVolume", aVolume, from(me, member), "DropVolumeOfMemberGone"},
		{"init: make a volume", "ec2:CreateVolume", newVolume, from(me, like("gp3", ""), giving(volume.TagRole, volume.RoleServer, volume.TagInstance, me, "CostCenter", "42")), "MakeServerVolume"},
		{"init: a dear one", "ec2:CreateVolume", newVolume, from(me, like("io2", ""), giving(volume.TagRole, volume.RoleServer)), ""},
		{"tag it twice", "ec2:CreateTags", newSnap, from(me, creating("CreateSnapshot"), giving(volume.TagRole, volume.RoleRelease, "Ebs-Release:role", "x")), "OneSpellingOfOurTags"},
		{"init: tag it at once", "ec2:CreateTags", newVolume, from(me, creating("CreateVolume"), giving(volume.TagRole, volume.RoleServer)), "TagWhatItMakes"},
		{"init --join: from a release", "ec2:CreateVolume", aSnapshot, from(me, existing(volume.TagRole, volume.RoleRelease)), "FromReleaseSnapshot"},
		{"init: attach it", "ec2:AttachVolume", aVolume, from(me, server), "UseServerVolume"},
		{"init: to this instance", "ec2:AttachVolume", region + "instance/" + me, from(me, target(me)), "OnOwnInstance"},
		{"init: mark it", "ec2:CreateTags", aVolume, from(me, server, giving(volume.TagInstance, me, volume.TagMountPoint, "/release")), "MarkServerVolume"},
		{"P0: try to tag", "ec2:CreateTags", aVolume, from(me, server, giving(volume.TagRole, volume.RoleServer)), "MarkServerVolume"},
		{"report for a member", "ec2:CreateTags", aVolume, from(me, member, giving(volume.TagGeneration, "7", volume.TagRelease, "r")), "ReportOnMemberVolume"},

		{"make a version of a launch template", "ec2:CreateLaunchTemplateVersion", aTemplate, from(me), ""},
		{"make it the default", "ec2:ModifyLaunchTemplate", aTemplate, from(me), ""},
		{"report for one whose volume EC2 brought", "ec2:CreateTags", region + "instance/" + another, from(me, target(another), existing(volume.TagVolume, "vol-1"), giving(volume.TagGeneration, "7", volume.TagRelease, "r", volume.TagState, "ready")), "ReportOnMember"},
		{"report on any instance", "ec2:CreateTags", region + "instance/" + another, from(me, target(another), giving(volume.TagGeneration, "7")), ""},
		{"replace such a member's host key", "ec2:CreateTags", region + "instance/" + another, from(me, target(another), existing(volume.TagVolume, "vol-1"), giving(volume.TagHostKey, "ssh-ed25519 A")), ""},
		{"snapshot a member's volume", "ec2:CreateSnapshot", aVolume, from(me, member), ""},
		{"snapshot any volume", "ec2:CreateSnapshot", aVolume, from(me), ""},
		{"make a snapshot that is no release", "ec2:CreateSnapshot", newSnap, from(me, giving("Name", "copy")), ""},
		{"delete any snapshot", "ec2:DeleteSnapshot", aSnapshot, from(me), ""},
		{"make a member's volume", "ec2:CreateVolume", newVolume, from(me, giving(volume.TagRole, volume.RoleMember, volume.TagInstance, another)), ""},
		{"read any snapshot", "ec2:CreateVolume", aSnapshot, from(me), ""},
		{"attach a member's volume", "ec2:AttachVolume", aVolume, from(me, member), ""},
		{"attach to another instance", "ec2:AttachVolume", region + "instance/" + another, from(me, target(another)), ""},
		{"delete the release volume", "ec2:DeleteVolume", aVolume, from(me, server), ""},
		{"claim any volume as its own", "ec2:CreateTags", aVolume, from(me, giving(volume.TagRole, volume.RoleServer)), ""},
		{"claim any snapshot as a release", "ec2:CreateTags", aSnapshot, from(me, giving(volume.TagRole, volume.RoleRelease)), ""},
		{"give its volume another role", "ec2:CreateTags", aVolume, from(me, server, giving(volume.TagRole, volume.RoleMember)), ""},
		{"replace a member's host key", "ec2:CreateTags", aVolume, from(me, member, giving(volume.TagHostKey, "ssh-ed25519 A")), ""},
		{"give a member's volume to another", "ec2:CreateTags", aVolume, from(me, member, giving(volume.TagInstance, me)), ""},
	}
	holds(t, "iam/publisher.json", asks)
}

// holds evaluates the requests, and then again without each statement in turn: one that nothing
// needs is dead.
func holds(t *testing.T, file string, asks []ask) {
	t.Helper()
	doc := load(t, file)
	needed := map[string]bool{}
	for _, a := range asks {
		got := doc.Evaluate(policy.Request{Action: a.action, Resource: a.resource, Context: a.context})
		if got.Allowed != (a.sid != "" && !doc.Denies(a.sid)) || got.Sid != a.sid {
			t.Errorf("%s: %s on %s: allowed %v by %q, want %q", a.name, a.action, a.resource, got.Allowed, got.Sid, a.sid)
		}
		without := doc.Without(a.sid).Evaluate(policy.Request{Action: a.action, Resource: a.resource, Context: a.context})
		if a.sid != "" && without.Allowed == doc.Denies(a.sid) {
			needed[a.sid] = true
		}
	}
	for _, sid := range doc.Sids() {
		if !needed[sid] {
			t.Errorf("%s: nothing needs the statement %s", file, sid)
		}
	}
}

func load(t *testing.T, file string) policy.Document {
	t.Helper()
	doc, err := policy.Parse([]byte(read(t, file)))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return doc
}
