package disks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"ebs-release/internal/advice"
	"ebs-release/internal/boot"
	"ebs-release/internal/boot/source"
	"ebs-release/internal/boot/tree"
	"ebs-release/internal/exit"
	"ebs-release/internal/filesystem"
	"ebs-release/internal/logging"
	"ebs-release/internal/mount"
	"ebs-release/internal/notes"
	"ebs-release/internal/process"
	"ebs-release/internal/push/wire"
	"ebs-release/internal/release"
	"ebs-release/internal/status"
	"ebs-release/internal/words"

	smithytime "github.com/aws/smithy-go/time"
)

// Verb is the verb of the child process that touches disks (worker).
const Verb = "disk-work"

// diskRequest is one line on the child's standard input.
type diskRequest struct {
	Do     string        `json:"do"`
	Device string        `json:"device,omitempty"` // /dev/nvme1n1
	Kind   string        `json:"kind,omitempty"`   // ext4
	Point  string        `json:"point,omitempty"`  // the mount point; of doCame, doCheckTree, doInReach, doHolding, doSide: look there
	Want   boot.Wanted   `json:"want,omitzero"`
	From   source.Source `json:"from,omitzero"` // of doCatchUp, and of doCheckTree whose word counts

	Origin release.Origin `json:"origin,omitzero"` // of doPlace: where the prepared volume is from

	Status status.Status `json:"status,omitzero"` // what the boot left, for doObserve
	Verify Verifying     `json:"verify,omitzero"` // for doVerify

	Receive receiving `json:"receive,omitzero"` // for doReceive

	LowerTo int64   `json:"lower_to,omitempty"` // of doFence: to this generation first; 0: it stays
	Running Running `json:"running,omitzero"`   // for doPrograms

	Limit time.Duration `json:"limit,omitempty"` // for what can be given up in order: e2fsck, a wait for a lock; 0: none
}

// What a diskRequest asks for.
const (
	doCheck     = "check"      // the file system on Device
	doUnused    = "unused"     // whether nothing uses Device
	doCame      = "came"       // whether Device, or what is at Point, holds releases that may become Want
	doPrepare   = "prepare"    // a detached mount of Device, which lives as long as the child
	doCatchUp   = "catch up"   // that the prepared mount is brought to Want
	doInReach   = "in reach"   // that the store has what brings the volume at Point to Want
	doCheckTree = "check tree" // that the volume holds Want
	doHolding   = "holding"    // what the volume says that it holds
	doSide      = "side"       // on which side of a rollout the volume's instance is, by the document of Want
	doPlace     = "place"      // the prepared mount at Point
	doUnmount   = "unmount"    // what is at Point
	doReceive   = "receive"    // a request of the publisher, on the volume at Point
	doVerify    = "verify"     // every file of a release of the volume at Point
	doObserve   = "look at"    // what the volume at Point says now: Status, brought up to date
	doFence     = "fence"      // the fence of the volume at Point
	doPrograms  = "programs"   // that the operator's programs run for a release of the volume at Point
)

// diskAnswer is one line on the child's standard output: something to be logged, as often as there
// is, and then the answer.
type diskAnswer struct {
	Log   string     `json:"log,omitempty"`
	Level slog.Level `json:"level,omitempty"`

	Error   string `json:"error,omitempty"`
	Meaning string `json:"meaning,omitempty"` // of the error, by the text of one of tree.Kinds
	Late    bool   `json:"late,omitempty"`    // it is a context.DeadlineExceeded
	Code    int    `json:"code,omitempty"`    // its exit code, of doFence and doPrograms

	Info         filesystem.Info `json:"info,omitzero"`
	Major, Minor uint32          `json:",omitempty"`
	Came         *tree.Came      `json:",omitempty"` // with an error: why it cannot become what is wanted
	Generation   int64           `json:",omitempty"`
	Release      string          `json:",omitempty"`
	Done         bool            `json:",omitempty"` // as boot.Tree's Holding has it
	Status       status.Status   `json:",omitzero"`
	Verified     wire.Verified   `json:",omitzero"`
	Received     json.RawMessage `json:",omitempty"` // what the publisher is answered, or
	Failure      *wire.Failure   `json:",omitempty"`
	Fence        Fence           `json:",omitzero"`
	Programs     status.Programs `json:",omitzero"`
}

// diskWork is what the child has in hand.
type diskWork struct {
	prepared *mount.Detached
	shared   bool // somebody else has its disk: a mount that is seen in another mount namespace
	log      *slog.Logger
}

// Work does what it is asked, one thing after the other, until its input ends: then `up` is
// done, or gone.
func Work(whole context.Context, in io.Reader, out io.Writer) error {
	asked, cancel := context.WithCancel(whole)
	defer cancel()
	requests := make(chan diskRequest)
	go func() {
		defer cancel() // whoever asked is gone: e2fsck, for one, is told to end
		defer close(requests)
		for lines := json.NewDecoder(in); ; {
			var r diskRequest
			if lines.Decode(&r) != nil {
				return
			}
			requests <- r
		}
	}()
	answers := json.NewEncoder(out)
	tell := func(level slog.Level, text string, _ map[string]string) error {
		return answers.Encode(diskAnswer{Log: text, Level: level})
	}
	w := &diskWork{log: slog.New(logging.Handler{Level: slog.LevelInfo, Where: &logging.Where{}, Write: tell})}
	for r := range requests {
		ctx := asked
		if r.outlives() {
			ctx = whole
		}
		answer, err := w.do(ctx, r)
		if err != nil {
			answer.Error, answer.Late = words.OneLine(err), errors.Is(err, context.DeadlineExceeded)
			answer.Meaning = meaning(err)
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	if w.prepared == nil {
		return nil
	}
	return w.prepared.Close()
}

// meaning is the first of tree.Kinds that an error is, by its text; "": none.
func meaning(err error) string {
	for _, m := range tree.Kinds() {
		if errors.Is(err, m) {
			return m.Error()
		}
	}
	return ""
}

func (w *diskWork) do(ctx context.Context, r diskRequest) (a diskAnswer, err error) {
	if r.Limit > 0 && !r.outlives() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Limit)
		defer cancel()
	}
	switch r.Do {
	case doCheck:
		a.Info, err = filesystem.Check(ctx, r.Device, w.log)
	case doUnused:
		err = patiently(ctx, func() error { return mount.Unused(r.Device) })
	case doCame:
		a.Came, err = w.came(r)
	case doPrepare:
		w.shared = mount.Unused(r.Device) != nil
		if w.prepared, err = mount.Prepare(r.Device, r.Kind); err == nil {
			a.Major, a.Minor = w.prepared.Number()
		} else if info, probed := filesystem.ProbeDevice(r.Device); probed == nil {
			err = info.WhyNotMounted(err)
		}
	case doCatchUp:
		err = w.catchUp(ctx, r.Want, r.From)
	case doCheckTree, doHolding, doInReach, doSide:
		volume, err := w.open(r.Point, r.From.Trusted)
		if err != nil {
			return a, err
		}
		defer func() { _ = volume.Close() }()
		switch r.Do {
		case doCheckTree:
			return a, volume.Check(ctx, r.Want)
		case doInReach:
			return a, volume.InReach(ctx, r.Want, r.From.Packs(w.log))
		case doSide:
			a.Status.Rollout, err = sideOn(volume.Volume, r.Want, r.From.Trusted)
			return a, err
		}
		a.Generation, a.Release, a.Done = volume.Holding()
		if r.Point == "" { // what starts after it reads this release
			drained, err := volume.Drained()
			a.Done = err == nil && !drained
		}
	case doReceive:
		return w.receive(ctx, r.Point, r.Receive)
	case doVerify:
		a.Verified, err = r.Verify.all(ctx, r.Point)
	case doObserve:
		a.Status = r.Status
		err = observeVolume(&a.Status)
	case doFence:
		a.Fence, err = fenceOf(ctx, r.Point, r.LowerTo)
		a.Code = exit.Code(err)
	case doPrograms:
		a.Programs, err = r.Running.on(ctx, r.Point)
		a.Code = exit.Code(err)
	case doPlace:
		w.mark(ctx, r.Origin)
		if err = ctx.Err(); err == nil { // who asked may have given up meanwhile: then nobody wants it to be seen
			err = w.prepared.MoveTo(r.Point)
		}
	case doUnmount:
		err = patiently(ctx, func() error { return mount.Unmount(r.Point) })
		if _, busy := errors.AsType[*mount.BusyError](err); busy {
			if pid := pushUnderWay(); pid != 0 {
				err = advice.Try(fmt.Errorf("unmount %s: a push to this member is under way (process %d)", r.Point, pid),
					"wait for it, then ebs-release-agent up")
			}
		}
	default:
		err = fmt.Errorf("%s: no such work", r.Do)
	}
	return a, err
}

// catchUp brings the prepared volume to what is wanted.
func (w *diskWork) catchUp(ctx context.Context, want boot.Wanted, from source.Source) error {
	v, err := tree.Open(w.prepared.Root(), from.Trusted)
	if err != nil {
		return err
	}
	defer func() { _ = v.Close() }()
	return v.CatchUp(ctx, want, from.Packs(w.log), w.shared, w.log)
}

// mark leaves two marks on what is about to be placed. Neither is a reason not to serve.
func (w *diskWork) mark(ctx context.Context, from release.Origin) {
	v, err := release.Open(w.prepared.Root())
	if err != nil {
		w.log.Warn("cannot mark what is placed", "error", err)
		return
	}
	defer func() { _ = v.Close() }()
	if err := markDone(ctx, v); err != nil {
		w.log.Warn("cannot mark the release as activated", "error", err)
	}
	err = v.SetOrigin(from)
	if err != nil && from.Brought { // it is full, perhaps: without a mark it is one that has served nobody
		err = notes.Folder.Keep(notes.Served, from.VolumeID)
	}
	if err != nil {
		w.log.Warn("cannot mark where the volume is from", "error", err)
	}
}

// markDone says that an activation is done: whatever starts from here on reads this release, so
// nothing is left for activate.d to tell anybody, unless drain.d had told somebody (a load
// balancer) before the machine went down. Without the mark the next `up` says that programs are
// still to run, and a converge runs them.
func markDone(ctx context.Context, v *release.Volume) error {
	if drained, err := v.Drained(); err != nil || drained {
		return err
	}
	n, id, err := v.Fence()
	if err != nil || n == 0 {
		return err
	}
	return v.MarkDone(ctx, id, n)
}

// pushUnderWay is a process that takes a push; 0: there is none. (Nobody is told to stop it.)
func pushUnderWay() (pid int) {
	processes, _ := process.All()
	for _, p := range processes {
		command := p.Command()
		if len(command) > 1 && filepath.Base(command[0]) == "ebs-release-agent" && slices.Contains(command[1:], "receive") {
			return p.PID()
		}
	}
	return 0
}

// open opens the release volume that is mounted at a point, or else the prepared one.
func (w *diskWork) open(point string, trusted []string) (tree.Volume, error) {
	root := ""
	if point == "" {
		root = w.prepared.Root()
	} else {
		dir, err := mount.Open(point)
		if err != nil {
			return tree.Volume{}, err
		}
		defer func() { _ = dir.Close() }()
		root = fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	}
	return tree.Open(root, trusted)
}

// How long a mount may be busy before that is believed: someone who only looks in (a monitor, a
// backup) is gone a moment later.
const (
	busyPatience = time.Second
	busyPause    = 50 * time.Millisecond
)

func patiently(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, busyPatience)
	defer cancel()
	for {
		err := try()
		if _, busy := errors.AsType[*mount.BusyError](err); !busy {
			return err
		}
		if smithytime.SleepWithContext(ctx, busyPause) != nil {
			return err
		}
	}
}
