package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebs-release/internal/lab"
	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
	"ebs-release/internal/volume"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestAgentMoreRowsGoneVolumes: row 02, a volume that ends behind the agent's back, before it is
// available or before it is attached.
func TestAgentMoreRowsGoneVolumes(t *testing.T) {
	r := published(t, func(o *lab.Options) { // with the policy of the package: it goes by tags, and refuses whatever is done to a volume that is gone
		o.Latency.DeleteVolume = cloud.Fixed(3 * time.Second) // so long EC2 says `deleting`; then it does not know the volume
	})
	// deleted deletes the volume that a call is about, and waits until EC2 calls it that ("":
	// gone).
	deleted := func(state string) func(cloud.Call) {
		return func(c cloud.Call) {
			ctx := within(t, 20*time.Second)
			err := r.lab.Account.Wait(ctx, func() bool { return r.volumeState(c.Resource) != "creating" })
			if err == nil && r.volumeState(c.Resource) == "available" { // it is looked at again and again
				_, err = r.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &c.Resource})
			}
			if err == nil {
				err = r.lab.Account.Wait(ctx, func() bool { return r.volumeState(c.Resource) == state })
			}
			if err != nil {
				t.Errorf("delete %s behind the agent's back: %v", c.Resource, err)
			}
		}
	}
	fault := func(action string, do func(cloud.Call), times int) cloud.Fault {
		return cloud.Fault{Action: action, Resource: "vol-*", Times: times, Effect: cloud.Effect{Do: do}}
	}
	for _, c := range []row{
		{name: "row 02 deleting before the attach", fault: fault("AttachVolume", deleted("deleting"), 1), check: called("CreateVolume", 3, "-", 2)},
		{
			// 3 s until it is gone, and 10 s in which "not found" may be EC2's memory.
			name: "row 02 gone before the attach", fault: fault("AttachVolume", deleted(""), 1),
			args: []string{"--deadline", "40s"}, min: 9500 * time.Millisecond, max: 17 * time.Second, check: called("CreateVolume", 3, "-", 2),
		},
		{
			name: "row 02 deleting each time", fault: fault("AttachVolume", deleted("deleting"), 0), args: []string{"--deadline", "20s"}, max: 8 * time.Second,
			code: 1, says: []string{"attach: ", "3 volumes, and EC2 kept none", "it is gone", "`deleting`"},
			check: func(r *rig, h *host.Host, o outcome) {
				called("CreateVolume", 6, "-", 3)(r, h, o)
				// The next start walks the list of client tokens past the volumes that are gone.
				must(r, failed(agent(within(r, 30*time.Second), h)))
				must(r, r.served(h, r.pointerNow(), "one", 1))
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, r) })
	}
}

// TestAgentMoreRowsSnapshots: row 19, a pointer that names a snapshot which is pending, or in
// error.
func TestAgentMoreRowsSnapshots(t *testing.T) {
	const pending = 3 * time.Second
	r := published(t, func(o *lab.Options) {
		o.Policy = nil
		o.Latency.Snapshot = cloud.Fixed(pending)
	})
	good := r.pointerNow()
	// snapshot is another one of the release server's volume.
	snapshot := func() string {
		at := slices.IndexFunc(r.lab.Account.Snapshots(), func(s cloud.Snapshot) bool { return s.ID == good.Snapshots[r.lab.Account.Region()] })
		of := r.lab.Account.Snapshots()[at].VolumeID
		made, err := r.ec2.CreateSnapshot(within(t, 10*time.Second), &ec2.CreateSnapshotInput{VolumeId: &of})
		must(t, err)
		return *made.SnapshotId
	}
	// names is the pointer with another snapshot.
	names := func(id string) []byte {
		p := good
		p.Snapshots = map[string]string{r.lab.Account.Region(): id}
		return []byte(r.signed(p))
	}
	disarm := r.lab.Account.Fault(cloud.Fault{Action: "CreateSnapshot", Principal: "admin", Times: 1, Effect: disk(cloud.DiskFault{Error: true})})
	bad := snapshot()
	disarm()
	must(t, r.lab.Account.Wait(within(t, 10*time.Second), func() bool { return r.snapshotState(bad) == "error" }))

	var late atomic.Value // the snapshot that is pending when the agent starts
	var reads atomic.Int32
	for i, c := range []struct {
		pointer func() []byte
		row
	}{
		{func() []byte { return names(late.Load().(string)) }, row{
			name: "row 19 pending and then completed", args: []string{"--deadline", "20s"}, min: 1500 * time.Millisecond, max: pending + 4*time.Second,
			prepare: func(r *rig, _ *host.Host) { late.Store(snapshot()) },
			check: func(r *rig, h *host.Host, o outcome) {
				if r.count(h.ID, "CreateVolume", "IncorrectState") == 0 || r.count(h.ID, "CreateVolume", "-") != 1 {
					r.Errorf("calls %v", r.actions(h.ID))
				}
				if from := r.lab.VolumesFor(h.ID)[0].SnapshotID; from != late.Load() {
					r.Errorf("made from %s", from)
				}
			},
		}},
		{func() []byte { return names(bad) }, row{
			// Its patience is 30 s, in which the pointer may move on.
			name: "row 19 in error", args: []string{"--deadline", "60s"}, min: 29 * time.Second, max: 37 * time.Second,
			code: 1, says: []string{"create: ", bad, "IncorrectState", "error"},
			check: func(r *rig, h *host.Host, _ outcome) { // every 2 s
				if n := r.count(h.ID, "CreateVolume", "IncorrectState"); n < 10 || n > 16 || n != r.count(h.ID, "CreateVolume", "") {
					r.Errorf("calls %v", r.actions(h.ID))
				}
			},
		}},
		{func() []byte { return names(bad) }, row{
			name: "row 19 in error and a short deadline", min: 4 * time.Second, max: 7500 * time.Millisecond,
			code: 1, says: []string{"create: ", bad, "IncorrectState", "error", "6s"},
		}},
		{func() []byte {
			if reads.Add(1) <= 2 {
				return names(bad)
			}
			return []byte(r.signed(good))
		}, row{
			name: "row 19 in error and the pointer moves", args: []string{"--deadline", "20s"}, min: 3500 * time.Millisecond, max: 7 * time.Second,
			check: called("CreateVolume", 3, "IncorrectState", 2),
		}},
	} {
		address, err := r.lab.Serve(8100+i, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(c.pointer()) }))
		must(t, err)
		if c.args == nil {
			c.args = []string{"--deadline", "6s"}
		}
		c.args = append(c.args, "--pointer", address)
		t.Run(c.name, func(t *testing.T) { c.run(t, r) })
	}
}

// TestAgentMoreRowsPointer: row 26, a server of the pointer that hangs, is slow, or cuts its answer
// off; and a metadata service that is late.
func TestAgentMoreRowsPointer(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Policy = nil })
	document := []byte(r.signed(r.pointerNow()))
	// Servers that go wrong. Each ends when its client leaves.
	hang := func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }
	drip := func(pause time.Duration) http.HandlerFunc { // byte by byte, 8 of them at the start, then the rest
		return func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(document)))
			for i := range 8 {
				w.Write(document[i : i+1])
				w.(http.Flusher).Flush()
				select {
				case <-time.After(pause):
				case <-req.Context().Done():
					return
				}
			}
			w.Write(document[8:])
		}
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(document)))
		w.Write(document[:len(document)/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	stuckHalfWay := func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(document)))
		w.Write(document[:len(document)/2])
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	}
	const always = 1 << 30
	for i, c := range []struct {
		wrong       http.HandlerFunc
		skip, times int // requests before it goes wrong, and how many go wrong then
		row
	}{
		// A try takes 5 s at most.
		{hang, 0, 1, row{name: "row 26 the pointer hangs once", args: []string{"--deadline", "20s"}, min: 5 * time.Second, max: 8 * time.Second}},
		{hang, 0, always, row{
			name: "row 26 the pointer hangs", args: []string{"--deadline", "8s"}, min: 6500 * time.Millisecond, max: 9500 * time.Millisecond,
			code: 1, says: []string{"resolve: ", "http://", "imeout", "8s"}, check: called("CreateVolume", 0, "-", 0),
		}},
		// Twice: at the start and before ready.
		{drip(100 * time.Millisecond), 0, always, row{name: "row 26 the pointer is slow", args: []string{"--deadline", "10s"}, min: 1600 * time.Millisecond, max: 5 * time.Second}},
		{drip(time.Second), 0, always, row{
			name: "row 26 the pointer is too slow", args: []string{"--deadline", "8s"}, min: 6500 * time.Millisecond, max: 9500 * time.Millisecond,
			code: 1, says: []string{"resolve: ", "cut off after ", "8s"}, check: called("CreateVolume", 0, "-", 0),
		}},
		{cut, 0, 2, row{name: "row 26 the pointer is cut off twice", min: 300 * time.Millisecond, max: 4 * time.Second}},
		{cut, 0, always, row{
			name: "row 26 the pointer is cut off", args: []string{"--deadline", "4s"}, min: 3 * time.Second, max: 5500 * time.Millisecond,
			code: 1, says: []string{"resolve: ", fmt.Sprintf("cut off after %d bytes", len(document)/2), "EOF"}, check: called("CreateVolume", 0, "-", 0),
		}},
		{stuckHalfWay, 0, 1, row{name: "row 26 the pointer hangs half way once", args: []string{"--deadline", "20s"}, min: 5 * time.Second, max: 8 * time.Second}},
		// The last look before ready: nothing is served before it was had.
		{hang, 1, 1, row{name: "row 26 the last look hangs once", args: []string{"--deadline", "20s"}, min: 5 * time.Second, max: 8 * time.Second, check: called("CreateVolume", 1, "-", 1)}},
		{cut, 1, always, row{
			name: "row 26 the last look is cut off", min: 4500 * time.Millisecond, max: 7500 * time.Millisecond, code: 1, left: 1,
			says: []string{"re-read: ", "cut off after ", "6s"},
			check: func(r *rig, h *host.Host, _ outcome) {
				// Left to the next start, which takes it on; it does not say ready meanwhile.
				left := r.lab.VolumesFor(h.ID)
				if len(left) != 1 || left[0].Tags[volume.TagState] != volume.StateBooting || left[0].Attachment == nil || !left[0].Attachment.DeleteOnTermination {
					r.Errorf("left: %s, tags %v", show(left), left[0].Tags)
				}
				must(r, failed(agent(within(r, 30*time.Second), h)))
				must(r, r.served(h, r.pointerNow(), "one", 1))
				called("CreateVolume", 1, "-", 1)(r, h, outcome{})
			},
		}},
	} {
		var reads atomic.Int32
		address, err := r.lab.Serve(8100+i, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if n := int(reads.Add(1)); n > c.skip && n <= c.skip+c.times {
				c.wrong(w, req)
				return
			}
			w.Write(document)
		}))
		must(t, err)
		if c.args == nil {
			c.args = []string{"--deadline", "6s"}
		}
		c.args = append(c.args, "--pointer", address)
		t.Run(c.name, func(t *testing.T) { c.run(t, r) })
	}
	late := func(action string, by time.Duration, times int) cloud.Fault {
		return cloud.Fault{Action: action, Times: times, Effect: cloud.Effect{Delay: by}}
	}
	for _, c := range []row{
		// A token, the document, a token, the role, its keys.
		{name: "row 26 all metadata is slow", fault: late("* /latest/*", 800*time.Millisecond, 0), args: []string{"--deadline", "20s"}, min: 4 * time.Second, max: 10 * time.Second},
		{name: "row 26 the token is slow", fault: late("PUT /latest/api/token", time.Second, 1), min: time.Second, max: 4 * time.Second},
		// A try takes 2 s at most.
		{name: "row 26 the token is late", fault: late("PUT /latest/api/token", 4*time.Second, 1), args: []string{"--deadline", "15s"}, min: 2 * time.Second, max: 8 * time.Second},
		{
			name: "row 26 the document is too slow", fault: late("GET /latest/dynamic/*", 4*time.Second, 0), args: []string{"--deadline", "8s"},
			min: 6500 * time.Millisecond, max: 9500 * time.Millisecond, code: 1, says: []string{"identify: ", "GET of the identity document", "8s"}, check: called("CreateVolume", 0, "-", 0),
		},
		{
			name: "row 26 no document", fault: cloud.Fault{Action: "GET /latest/dynamic/*", Effect: cloud.Effect{Fail: cloud.NotFound}}, args: []string{"--deadline", "4s"},
			min: 3 * time.Second, max: 5500 * time.Millisecond, code: 1, says: []string{"identify: ", "GET of the identity document", "404", "4s"}, check: called("CreateVolume", 0, "-", 0),
		},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, r) })
	}
}

// TestAgentMoreRows: the rest.
func TestAgentMoreRows(t *testing.T) {
	r := published(t, func(o *lab.Options) { o.Policy = nil })
	t.Run("row 07 device name aliases", func(t *testing.T) {
		// sdf and xvdf are one slot of the guest: EC2 takes the second, and its disk never comes.
		// People and images use one letter.
		slot := regexp.MustCompile(`^/dev/(?:sd|xvd)([a-z][1-9]?)$`)
		ours := volume.DeviceNames(nil)
		for _, name := range ours {
			if slot.MatchString(name) {
				t.Errorf("%s may be the slot of another volume", name)
			}
		}
		if len(ours) < 28 || len(slices.Compact(slices.Sorted(slices.Values(ours)))) != len(ours) {
			t.Errorf("%d names, some twice?", len(ours))
		}
		row{
			prepare: func(r *rig, h *host.Host) {
				for _, device := range []string{"/dev/sdf", "/dev/xvdg", "/dev/sda1"} {
					r.attachOther(h, device)
				}
			},
			check: func(r *rig, h *host.Host, o outcome) {
				called("AttachVolume", 1, "-", 1)(r, h, o)
				if device := r.lab.VolumesFor(h.ID)[0].Attachment.Device; device != ours[0] {
					r.Errorf("attached as %s, want %s", device, ours[0])
				}
			},
		}.run(t, r)
	})
	t.Run("row 16 its volume is on a later page", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		h := r.machine()
		must(t, failed(agent(within(t, 30*time.Second), h)))
		own := r.lab.VolumesFor(h.ID)[0].ID
		r.reboot(h)
		var pages atomic.Int32
		address, err := r.lab.Serve(8090, paged(r.lab.Account.EC2Handler(), &pages))
		must(t, err)
		began := time.Now()
		out, _ := h.RunWith(within(t, 30*time.Second), host.Command{
			Argv: []string{"env", "AWS_ENDPOINT_URL=" + address, "ebs-release-agent", "up", "--deadline", "10s"}, Env: []string{"NOTIFY_SOCKET=/run/systemd/notify"},
		})
		if took := time.Since(began); out.Code != 0 || took > soon+busy {
			t.Errorf("exit %d after %s: %s", out.Code, took, out.Stderr)
		}
		if n := pages.Load(); n != 3 {
			t.Errorf("%d pages were read, want 3", n)
		}
		called("CreateVolume", 1, "-", 1)(r, h, outcome{})
		must(t, r.served(h, r.pointerNow(), "one", 1))
		if now := r.lab.VolumesFor(h.ID)[0].ID; now != own {
			t.Errorf("it serves %s, want %s", now, own)
		}
		must(t, r.gone(within(t, 20*time.Second), h))
	})
	t.Run("row 16 many volumes of others", func(t *testing.T) {
		var others []string
		row{
			prepare: func(r *rig, h *host.Host) {
				for i := range 12 { // half of them other members', half of them nobody's
					in := &ec2.CreateVolumeInput{AvailabilityZone: aws.String(r.zoneOf(h.ID)), SnapshotId: aws.String(r.pointerNow().Snapshots[r.lab.Account.Region()])}
					if i%2 == 0 {
						in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: []types.Tag{
							{Key: aws.String(volume.TagRole), Value: aws.String(volume.RoleMember)}, {Key: aws.String(volume.TagMountPoint), Value: aws.String("/release")},
							{Key: aws.String(volume.TagInstance), Value: aws.String(fmt.Sprintf("i-%017x", i))},
						}}}
					}
					made, err := r.ec2.CreateVolume(within(r, 10*time.Second), in)
					must(r, err)
					others = append(others, *made.VolumeId)
				}
				must(r, r.lab.Account.Wait(within(r, 20*time.Second), func() bool {
					return !slices.ContainsFunc(others, func(id string) bool { return r.volumeState(id) != "available" })
				}))
				// A run that was killed left its volume, younger than all of theirs.
				s := &supervised{host: h, start: func(int) error { return nil }}
				kill := cloud.Effect{Do: func(cloud.Call) { s.kill() }, Fail: cloud.Reset}
				defer r.lab.Account.Fault(cloud.Fault{Action: "AttachVolume", Principal: h.ID, Times: 1, Effect: kill})()
				s.up(within(r, 30*time.Second))
				if n := len(r.lab.VolumesFor(h.ID)); n != 1 {
					r.Fatalf("the killed run left %d volumes", n)
				}
			},
			check: func(r *rig, h *host.Host, o outcome) {
				called("CreateVolume", 1, "-", 1)(r, h, o)
				for _, id := range others {
					if state := r.volumeState(id); state != "available" {
						r.Errorf("%s, of somebody else, is %q", id, state)
					}
				}
			},
		}.run(t, r)
	})
	t.Run("row 27 the image is being baked", func(t *testing.T) {
		t.Parallel()
		r := r.in(t)
		const condition = "ConditionPathExists=!/etc/ebs-release/disabled"
		unit, err := os.ReadFile("../../../systemd/ebs-release-agent.service")
		must(t, err)
		_, section, _ := strings.Cut(string(unit), "[Unit]\n")
		section, _, _ = strings.Cut(section, "\n[")
		if !slices.Contains(strings.Split(section, "\n"), condition) {
			t.Fatalf("the [Unit] section does not have %s:\n%s", condition, section)
		}
		h := r.machine()
		// As systemd reads it: the unit would start, and would not while the file is there.
		if got := r.on(h, "systemd-analyze condition '"+condition+"' >/dev/null && echo starts || echo stays"); got != "starts" {
			t.Errorf("without the file the unit %s", got)
		}
		r.on(h, "mkdir -p /etc/ebs-release && touch /etc/ebs-release/disabled")
		if got := r.on(h, "systemd-analyze condition '"+condition+"' >/dev/null && echo starts || echo stays"); got != "stays" {
			t.Errorf("with the file the unit %s", got)
		}
		if calls := r.requests(h); len(calls) != 0 {
			t.Errorf("requests before anybody asked for one: %v", calls)
		}
		// The file stops the unit, not a person who says `up`.
		out := agent(within(t, 30*time.Second), h, "--deadline", "6s")
		must(t, failed(out))
		if out.took > soon+busy {
			t.Errorf("it took %s", out.took)
		}
		must(t, r.served(h, r.pointerNow(), "one", 1))
		must(t, r.gone(within(t, 20*time.Second), h))
	})
}

// paged answers as EC2 may answer any list: in pages, of which the first two are empty, because the
// filters are applied to each page.
func paged(account http.Handler, pages *atomic.Int32) http.Handler {
	token := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	next := map[string]string{"": token("after 0"), token("after 0"): token("after 00")} // the account's tokens, for all that comes after nothing
	whole := regexp.MustCompile(`(?s)<volumeSet>.*</volumeSet>`)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body))
		answer := httptest.NewRecorder()
		account.ServeHTTP(answer, req)
		text := answer.Body.String()
		if form.Get("Action") == "DescribeVolumes" && form.Get("VolumeId.1") == "" && answer.Code == http.StatusOK {
			pages.Add(1)
			if n := next[form.Get("NextToken")]; n != "" {
				text = whole.ReplaceAllLiteralString(text, "<volumeSet/><nextToken>"+n+"</nextToken>")
			}
		}
		for key, values := range answer.Header() {
			w.Header()[key] = values
		}
		w.WriteHeader(answer.Code)
		io.WriteString(w, text)
	})
}
