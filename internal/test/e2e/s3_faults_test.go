package e2e

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/bucket"
	"ebs-release/internal/lab/cloud"
)

// replies answers with a status, headers and a body, whatever was asked.
func replies(status int, body string, headers ...string) cloud.Effect {
	return cloud.Effect{Reply: func(w http.ResponseWriter) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // a body shorter than its Content-Length is cut off there
	}}
}

func s3Error(code, message string) string {
	var text strings.Builder
	_ = xml.NewEncoder(&text).EncodeElement(struct{ Code, Message string }{code, message}, xml.StartElement{Name: xml.Name{Local: "Error"}})
	return text.String()
}

// faults arms all of them.
func (r *rig) faults(all []cloud.Fault) (disarm func()) {
	var each []func()
	for _, f := range all {
		each = append(each, r.lab.Account.Fault(f))
	}
	return func() {
		for _, d := range each {
			d()
		}
	}
}

// tenGB goes on until nobody reads it.
func tenGB(w http.ResponseWriter) {
	w.Header().Set("Content-Length", fmt.Sprint(10<<30))
	zeros := make([]byte, 64<<10)
	for range 10 << 30 / len(zeros) {
		if _, err := w.Write(zeros); err != nil {
			return
		}
	}
}

// TestFaultsOfS3: whatever is wrong with the bucket, a boot and a publish end with one line that
// says what it is and what to do, what is served goes on being served, and all goes on when it is
// over.
func TestFaultsOfS3(t *testing.T) {
	r := newRig(t, func(o *lab.Options) { o.S3 = true })
	r.sh("mkdir /srv/source; echo one > /srv/source/version")
	r.ok("init", "--size", "1")
	r.ok("publish", "/srv/source")
	h := r.machine()
	if out := agent(within(t, 30*time.Second), h); out.Code != 0 {
		t.Fatal(out.Stderr)
	}
	r.sh("echo two > /srv/source/version")
	document := r.inStore("release.json")
	objects := filepath.Join(r.lab.Dir(), "s3/objects", bucket.Name)
	const pointer = bucket.Prefix + "/release.json"
	denied := cloud.Effect{Fail: cloud.Unauthorized}
	skewed := cloud.Effect{Fail: cloud.Answer, Code: "RequestTimeTooSkewed", Status: http.StatusForbidden, Message: "The difference is too large."}
	get := func(e cloud.Effect) []cloud.Fault {
		return []cloud.Fault{{Action: "GetObject", Resource: pointer, Effect: e}}
	}
	for _, tc := range []struct {
		name   string
		faults []cloud.Fault
		boot   string // what the agent's line says; "": it boots
		says   string // the same of the publisher's; "": it publishes
		code   int    // of the publisher
	}{
		{"SlowDown for a while", []cloud.Fault{{Action: "*Object", Times: 3, Effect: cloud.Effect{Fail: cloud.Throttle}}}, "", "", 0},
		{"SlowDown", get(cloud.Effect{Fail: cloud.Throttle}), "503 SlowDown: S3 asks for fewer requests", "503 SlowDown: S3 asks for fewer requests", 3},
		{"no right to read", get(denied), "the right s3:GetObject is missing", "the right s3:GetObject is missing", 3},
		{"no right to write", []cloud.Fault{{Action: "PutObject", Effect: denied}}, "the right s3:PutObject is missing", "the right s3:PutObject is missing", 3},
		{"no right to write the pointer", []cloud.Fault{{Action: "PutObject", Resource: pointer, Effect: denied}}, "", "the right s3:PutObject is missing", 3},
		{"another Region", get(replies(301, s3Error("PermanentRedirect", "use the endpoint"), "X-Amz-Bucket-Region", "eu-west-1")),
			"the bucket releases is in eu-west-1", "the bucket releases is in eu-west-1", 3},
		{"a clock that is off", get(skewed), "the clock of this machine is too far off", "the clock of this machine is too far off", 3},
		{"a body that is cut off", get(replies(200, document[:100], "Content-Length", fmt.Sprint(len(document)))), "cut off after 100 bytes", "cut off after 100 bytes", 3},
		{"nothing", get(replies(200, "")), "the pointer is empty", "the pointer is empty", 3},
		{"a web page", get(replies(200, "<html>Sign in</html>")), "the pointer is HTML", "the pointer is HTML", 3},
		{"a part of it", get(replies(206, document[:100], "Content-Range", "bytes 0-99/1000")), "206: only a part of it came", "206: only a part of it came", 3},
		{"10 GB", get(cloud.Effect{Reply: tenGB}), "it is larger than", "it is larger than", 3},
		{"the bucket is gone", nil, "there is no bucket releases", "there is no bucket releases", 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.faults == nil {
				must(t, os.Rename(objects, objects+".away"))
			}
			disarm := r.faults(tc.faults)
			deadline := "5s"
			if tc.boot == "" { // it comes through, after pauses whose length is by chance
				deadline = "30s"
			}
			out := agent(within(t, 60*time.Second), h, "--deadline", deadline)
			disarm()
			disarm = r.faults(tc.faults) // those that end by themselves count anew
			published := r.in(t).publisher("publish", "/srv/source")
			disarm()
			if tc.faults == nil {
				must(t, os.Rename(objects+".away", objects))
			}
			switch line := out.last(); {
			case tc.boot == "" && out.Code != 0:
				t.Errorf("the boot: exit %d: %s", out.Code, line)
			case tc.boot != "" && (out.Code != 1 || !failure.MatchString(line) || !strings.Contains(line, tc.boot) || strings.Count(line, "Try: ") != 1):
				t.Errorf("the boot: exit %d, %s", out.Code, line)
			}
			version := "one"
			if tc.says == "" {
				version = "two"
			}
			if tc.says != "" {
				refused(t, published, tc.code, tc.says, "Try: ")
			} else if published.Code != 0 {
				t.Errorf("the publish: exit %d: %s", published.Code, published.Stderr)
			}
			if changed := r.inStore("release.json") != document; changed != (version == "two") {
				t.Errorf("the pointer changed: %v", changed)
			}
			if got := r.on(h, "cat /release/current/version"); got != "one" {
				t.Errorf("the member serves %q", got) // it is in no group: a publish does not reach it
			}
			if version == "two" {
				r.in(t).ok("rollback")
				document = r.inStore("release.json")
			}
			if got := r.sh("cat /release/current/version"); got != "one" {
				t.Errorf("the release volume is at %q", got)
			}
		})
	}
	if out := agent(within(t, 30*time.Second), h); out.Code != 0 || r.on(h, "cat /release/current/version") != "one" {
		t.Errorf("when all is over: exit %d: %s", out.Code, out.Stderr)
	}
	r.ok("publish", "/srv/source")
}
