package receive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebs-release/internal/activation"
	"ebs-release/internal/exit"
	"ebs-release/internal/gc"
	"ebs-release/internal/pointer"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
	"ebs-release/internal/test/blank"
)

const zone = "eu-west-1a"

// member is one with two releases on its volume, of which the first is active as generation 1, and
// programs that leave a line in a file.
type member struct {
	t        *testing.T
	volume   *release.Volume
	secret   pointer.SecretKey
	releases []release.Ingested
	receiver *Receiver
	ran      string
}

func newMember(t *testing.T) *member {
	m := &member{t: t, volume: blank.Volume(t)}
	dir := t.TempDir()
	m.ran = filepath.Join(dir, "ran")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	m.secret, err = pointer.NewKey()
	must(err)
	must(m.volume.SetKeys(t.Context(), []string{m.secret.Public().String()}))
	for _, name := range []string{"one", "two"} {
		source := filepath.Join(dir, name)
		must(errors.Join(os.Mkdir(source, 0o755), os.WriteFile(filepath.Join(source, "file"), []byte(name), 0o644)))
		made, err := m.volume.Ingest(t.Context(), source, time.Now(), gc.Wanted{Keep: 9})
		must(err)
		m.releases = append(m.releases, made)
	}
	must(m.volume.Activate(t.Context(), m.releases[0].ID, m.releases[0].Digest, 1))
	must(m.volume.MarkDone(t.Context(), m.releases[0].ID, 1))
	programs := filepath.Join(dir, "activate.d")
	must(errors.Join(os.Mkdir(programs, 0o755),
		os.WriteFile(filepath.Join(programs, "50-note"), []byte("#!/bin/sh\necho $EBS_RELEASE_GENERATION >> "+m.ran+"\n"), 0o755)))
	m.receiver = receiver(m.volume)
	m.receiver.Keep = 1
	m.receiver.Programs = activation.Programs{Folder: dir, Timeout: time.Minute, Ready: time.Minute}
	m.receiver.Who = func(context.Context) (pointer.Instance, error) { return pointer.Instance{ID: "i-1", Zone: zone}, nil }
	return m
}

// rollout is a signed pointer with release 1 as generation 1, and a rollout of release 2 to a zone.
func (m *member) rollout(to string, by pointer.SecretKey) string {
	m.t.Helper()
	one, two := m.releases[0], m.releases[1]
	p := pointer.Pointer{
		Generation: 1, Release: one.ID, Digest: one.Digest, Created: time.Now(),
		Snapshots: map[string]string{"eu-west-1": "snap-0123456789abcdef0"},
		Rollout: &pointer.Rollout{
			Held:  pointer.Held{Generation: 2, Release: two.ID, Digest: two.Digest},
			Share: map[string]string{to: "ffffffffffffffff"}, Steps: []pointer.Step{{Percent: 100}},
		},
	}
	document, err := p.Sign(by)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(document)
}

// told is what the member answers to an activation of a release, from 0.
func (m *member) told(generation int64, n int, document string) (ok wire.Activated, failed wire.Failure) {
	m.t.Helper()
	line, err := json.Marshal(wire.Request{
		Do: wire.Activate, Generation: generation, Release: m.releases[n].ID, Digest: m.releases[n].Digest, Pointer: document,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := talks(m.receiver).Run(m.t.Context(), bytes.NewReader(append(line, '\n')), &out); err != nil {
		m.t.Fatal(err)
	}
	_, answer, _ := strings.Cut(out.String(), "\n") // after the greeting
	if err := errors.Join(json.Unmarshal([]byte(answer), &ok), json.Unmarshal([]byte(answer), &failed)); err != nil {
		m.t.Fatal(err)
	}
	return ok, failed
}

func (m *member) programs() string {
	data, err := os.ReadFile(m.ran)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

// Publisher and member agree on the side of the member, or nothing happens.
func TestAMemberTakesItsOwnSideOnly(t *testing.T) {
	m := newMember(t)
	other, err := pointer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		generation int64
		release    int
		document   string
		code       int
		says       string
	}{
		"the new release, and it is on the other side": {2, 1, m.rollout("eu-west-1b", m.secret), exit.Conflict, "gives generation 1"},
		"the stable release, and it is in the share":   {1, 0, m.rollout(zone, m.secret), exit.Conflict, "gives generation 2"},
		"the new release as another generation":        {3, 1, m.rollout(zone, m.secret), exit.Conflict, "gives generation 2"},
		"a pointer of another key":                     {2, 1, m.rollout(zone, other), exit.Failed, "the pointer of the request"},
		"no pointer":                                   {2, 1, "{", exit.Failed, "the pointer of the request"},
	} {
		_, failed := m.told(c.generation, c.release, c.document)
		if failed.Code != c.code || !strings.Contains(failed.Error, c.says) {
			t.Errorf("%s: %+v", name, failed)
		}
	}
	m.receiver.Who = func(context.Context) (pointer.Instance, error) { return pointer.Instance{}, errors.New("no metadata") }
	if _, failed := m.told(2, 1, m.rollout(zone, m.secret)); !strings.Contains(failed.Error, "no metadata") {
		t.Errorf("who does not know itself: %+v", failed)
	}
	if n, err := m.volume.Generation(); n != 1 || err != nil || m.programs() != "" {
		t.Errorf("generation %d, %v; programs ran for %q", n, err, m.programs())
	}
}

// Forth and back by ssh: the stable tree stays, and no programs run where nothing changes.
func TestTheShareGoesForthAndBack(t *testing.T) {
	m := newMember(t)
	if ok, failed := m.told(2, 1, m.rollout(zone, m.secret)); ok.Generation != 2 || failed.Error != "" {
		t.Fatalf("%+v, %+v", ok, failed)
	}
	if held, err := m.volume.Releases(); err != nil || len(held) != 2 {
		t.Errorf("keep is 1, and of a rollout it keeps %v, %v", held, err)
	}
	if ok, failed := m.told(3, 0, ""); ok.Generation != 3 || failed.Error != "" { // aborted
		t.Fatalf("%+v, %+v", ok, failed)
	}
	if held, err := m.volume.Releases(); err != nil || len(held) != 1 || m.programs() != "2 3" {
		t.Errorf("after the abort it keeps %v, %v; programs ran for %q", held, err, m.programs())
	}
	if ok, failed := m.told(5, 0, ""); ok.Generation != 5 || failed.Error != "" { // the next one, which it was not in
		t.Fatalf("%+v, %+v", ok, failed)
	}
	if n, err := m.volume.Generation(); n != 5 || err != nil || m.programs() != "2 3" {
		t.Errorf("generation %d, %v; programs ran for %q", n, err, m.programs())
	}
}
