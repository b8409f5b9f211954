package packaging_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runExample runs an example as a rollout does, and returns whether it ended well and what it said.
func runExample(t *testing.T, env []string, input string, args ...string) (ok bool, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("examples", args[0]), args[1:]...)
	cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

func TestGateHTTP(t *testing.T) {
	asked, failsAt := 0, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == failsAt {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	if ok, said := runExample(t, nil, "", "gate-http", server.URL, "3", "0"); !ok || asked != 3 {
		t.Errorf("asked %d times: %s", asked, said)
	}
	asked, failsAt = 0, 2
	if ok, said := runExample(t, nil, "", "gate-http", server.URL, "3", "0"); ok || asked != 2 || !strings.Contains(said, "try 2 of 3") || !strings.Contains(said, "503") {
		t.Errorf("asked %d times: %v, %s", asked, ok, said)
	}
	server.Close()
	if ok, _ := runExample(t, nil, "", "gate-http", server.URL, "1", "0"); ok {
		t.Error("nobody answers, and the gate is green")
	}
}

func TestGateAlarms(t *testing.T) {
	bin := t.TempDir()
	write(t, filepath.Join(bin, "aws"), "#!/bin/sh\necho \"$@\" > "+bin+"/args\nprintf \"$SAYS\"\nexit ${CODE:-0}\n")
	run(t, "chmod", "+x", filepath.Join(bin, "aws"))
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	for _, tc := range []struct {
		says, code string
		ok         bool
		want       string
	}{
		{`OK\tweb-5xx\nINSUFFICIENT_DATA\tweb-latency\n`, "0", true, ""},
		{`ALARM\tweb-5xx\nOK\tweb-latency\n`, "0", false, "in alarm: web-5xx"},
		{`OK\tweb-5xx\n`, "0", false, "CloudWatch knows 1 of 2 alarms"},
		{``, "0", false, "CloudWatch knows 0 of 2 alarms"},
		{``, "254", false, ""},
	} {
		ok, said := runExample(t, []string{path, "SAYS=" + tc.says, "CODE=" + tc.code}, "", "gate-alarms", "web-5xx", "web-latency")
		if ok != tc.ok || !strings.Contains(said, tc.want) {
			t.Errorf("%q: %v, %s", tc.says, ok, said)
		}
	}
	if args := read(t, filepath.Join(bin, "args")); !strings.Contains(args, "describe-alarms --alarm-names web-5xx web-latency") {
		t.Errorf("aws was asked %s", args)
	}
}

func TestWebhook(t *testing.T) {
	var got string
	code := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Header.Get("Content-Type") + " " + r.URL.RawQuery + " " + string(body)
		w.WriteHeader(code)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "webhook")
	write(t, file, server.URL+"/hook?token=1\n")
	event := `{"schema":1,"event":"back"}`
	if ok, said := runExample(t, []string{"EBS_RELEASE_WEBHOOK=" + file}, event, "webhook"); !ok || got != "application/json token=1 "+event {
		t.Errorf("%v, %s: it got %q", ok, said, got)
	}
	code = http.StatusForbidden
	if ok, _ := runExample(t, []string{"EBS_RELEASE_WEBHOOK=" + file}, event, "webhook"); ok {
		t.Error("403, and it ended well")
	}
	if ok, said := runExample(t, []string{"EBS_RELEASE_WEBHOOK=" + file + ".none"}, event, "webhook"); !ok {
		t.Errorf("without a URL: %s", said)
	}
}
