package cloud

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestTags(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		volume, instance := l.attached()
		snapshot := l.snapshot(volume)
		ids := []string{volume, instance, snapshot}
		list := tags("", "a", "1", "b", "2", "empty", "")[0].Tags
		_, err := l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: ids, Tags: list})
		l.ok(err)
		_, err = l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: []string{volume}, Tags: tags("", "a", "changed")[0].Tags})
		l.ok(err)
		_, err = l.ec2.DeleteTags(l.ctx, &ec2.DeleteTagsInput{Resources: ids, Tags: []types.Tag{
			{Key: aws.String("b")}, {Key: aws.String("a"), Value: aws.String("other")}, {Key: aws.String("nobody")},
		}})
		l.ok(err)
		pages := ec2.NewDescribeTagsPaginator(l.ec2, &ec2.DescribeTagsInput{MaxResults: aws.Int32(5)})
		var got []string
		for pages.HasMorePages() {
			out, err := pages.NextPage(l.ctx)
			l.ok(err)
			for _, tag := range out.Tags {
				got = append(got, string(tag.ResourceType)+" "+*tag.Key+"="+*tag.Value)
			}
		}
		want := []string{"instance a=1", "instance empty=", "snapshot a=1", "snapshot empty=", "volume a=changed", "volume empty="}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		out, err := l.ec2.DescribeTags(l.ctx, &ec2.DescribeTagsInput{Filters: []types.Filter{
			{Name: aws.String("resource-id"), Values: []string{volume}}, {Name: aws.String("key"), Values: []string{"a"}},
		}})
		l.ok(err)
		if len(out.Tags) != 1 || *out.Tags[0].Value != "changed" {
			t.Errorf("filtered: %+v", out.Tags)
		}
		_, err = l.ec2.DeleteTags(l.ctx, &ec2.DeleteTagsInput{Resources: []string{volume}})
		l.ok(err)
		if v := l.Volumes()[0]; len(v.Tags) != 0 {
			t.Errorf("without a list all go: %v", v.Tags)
		}
	})
}

func TestTagLimits(t *testing.T) {
	inLab(t, Options{}, func(l *lab) {
		volume := l.volume()
		var fifty []types.Tag
		for i := range maxTags {
			fifty = append(fifty, types.Tag{Key: aws.String(strings.Repeat("x", i+1)), Value: aws.String("")})
		}
		_, err := l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: []string{volume}, Tags: fifty})
		l.ok(err)
		before := maps.Clone(l.Volumes()[0].Tags)
		for name, c := range map[string]struct {
			id, key, value, code string
		}{
			"one too many":   {volume, "more", "", "TagLimitExceeded"},
			"long key":       {volume, strings.Repeat("é", 129), "", "InvalidParameterValue"},
			"long value":     {volume, "x", strings.Repeat("é", 257), "InvalidParameterValue"},
			"reserved":       {volume, "AWS:x", "", "InvalidParameterValue"},
			"unknown volume": {"vol-0123456789abcdef0", "x", "", "InvalidVolume.NotFound"},
			"unknown kind":   {"eni-0123456789abcdef0", "x", "", "InvalidID"},
		} {
			_, err := l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: []string{c.id}, Tags: []types.Tag{{Key: &c.key, Value: &c.value}}})
			if got := codeOf(err); got != c.code {
				t.Errorf("%s: got %q, want %q", name, got, c.code)
			}
		}
		_, err = l.ec2.CreateTags(l.ctx, &ec2.CreateTagsInput{Resources: []string{volume}, Tags: []types.Tag{{Key: aws.String("x"), Value: aws.String(strings.Repeat("é", 256))}}})
		l.ok(err) // the limits count characters
		before["x"] = strings.Repeat("é", 256)
		if got := l.Volumes()[0].Tags; !maps.Equal(got, before) {
			t.Errorf("tags %v", got)
		}
	})
}
