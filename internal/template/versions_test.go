package template

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestARequestAsksForAllThatAMappingHas: also for what a later SDK knows of it.
func TestARequestAsksForAllThatAMappingHas(t *testing.T) {
	ebs := types.LaunchTemplateEbsBlockDevice{}
	fill(reflect.ValueOf(&ebs).Elem())
	m := types.LaunchTemplateBlockDeviceMapping{Ebs: &ebs}
	fill(reflect.ValueOf(&m).Elem())
	has, err := json.Marshal([]types.LaunchTemplateBlockDeviceMapping{m})
	if err != nil {
		t.Fatal(err)
	}
	asks, err := json.Marshal(request([]types.LaunchTemplateBlockDeviceMapping{m}))
	if err != nil {
		t.Fatal(err)
	}
	if string(has) != string(asks) {
		t.Errorf("the mapping has\n%s\nand what is asked for\n%s", has, asks)
	}
}

// fill sets each exported field that is not set.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if !f.CanSet() || !f.IsZero() {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f.Set(reflect.New(f.Type().Elem()))
			f = f.Elem()
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int32:
			f.SetInt(7)
		}
	}
}
