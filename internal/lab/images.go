package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// deployID is the user and group id of the ssh user.
const deployID = 61200

// images are the directories that lie over this machine's own root in a host: base in all of them,
// then member or server.
type images struct {
	dir  string
	opts Options
}

// application stands for what people run: it starts only on a release.
const application = `#!/bin/sh
# start: fails unless there is a release, and notes which one it starts with. run: serves it until it is told to stop.
set -eu
cd /release/current/
[ "$1" = run ] || { readlink /release/current > /run/app.started; exit 0; }
echo $$ > /run/app.pid
exec sleep infinity
`

// unit stands for what systemd does to the agent's unit, and to the application, which requires it.
const unit = `#!/bin/sh
# stop: the application ends, if it runs. start: it comes back, behind the agent, if it was stopped.
# sleep and wake: the same, of ebs-release-sleep.service, but that a boot which goes on is stopped where it is.
set -eu
export NOTIFY_SOCKET=/run/systemd/notify
case "$1" in
stop)
	test -e /run/app.pid || exit 0
	kill "$(cat /run/app.pid)" || true
	while test -e "/proc/$(cat /run/app.pid)"; do sleep 0.02; done
	rm -f /run/app.started
	mv /run/app.pid /run/app.stopped
	;;
start)
	test -e /run/app.stopped || exit 0
	rm -f /run/app.stopped
	/usr/bin/ebs-release-agent up && application start && exec application run
	;;
sleep)
	if test -e /run/app.pid; then
		"$0" stop
		rm -f /run/ebs-release/status.json
	fi
	! pkill -f '^/usr/bin/ebs-release-agent launch' || touch /run/launch.stopped
	;;
wake)
	test ! -e /run/launch.stopped || { rm /run/launch.stopped; /usr/bin/ebs-release-agent launch & }
	exec "$0" start
	;;
esac
`

// systemctl starts the units that the agent asks systemd for. All else is asked of the machine's
// own, which says that there is no systemd.
const systemctl = `#!/bin/sh
case "$*" in
"start ebs-release-activate.service") set -- activate ;;
"--no-block restart ebs-release-agent.service") agent-unit stop; setsid agent-unit start >/proc/1/fd/2 2>&1 & exit 0 ;;
"start ebs-release-before@"*.service) set -- before "${2#*@}" && set -- before "${2%.service}" ;;
*) exec /usr/bin/systemctl "$@" ;;
esac
exec env -i "PATH=$PATH" /usr/bin/ebs-release-agent "$@"
`

const sshdConfig = `PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile .ssh/authorized_keys
`

// newImages makes the images, but for the settings of the two programs: see configure.
func newImages(ctx context.Context, dir string, opts Options) (*images, error) {
	im := &images{dir: dir, opts: opts}
	err := errors.Join(im.program("member", "ebs-release-agent", opts.Agent), im.program("server", "ebs-release", opts.Publisher))
	if err != nil {
		return nil, err
	}
	public, err := im.makeKey(ctx)
	if err != nil {
		return nil, err
	}
	home := "base/home/" + SSHUser
	return im, errors.Join(
		im.account("passwd", fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/sh", SSHUser, deployID, deployID, SSHUser), 0o644),
		im.account("group", fmt.Sprintf("%s:x:%d:", SSHUser, deployID), 0o644),
		im.account("shadow", SSHUser+":*:19000:0:99999:7:::", 0o640),
		im.write("base/etc/fstab", "", 0o644), // this machine's disks are none of a host's business
		im.write("base/etc/ssh/sshd_config", sshdConfig, 0o644),
		im.write(home+"/.ssh/authorized_keys", string(public), 0o600),
		os.Chmod(filepath.Join(dir, home, ".ssh"), 0o700),
		im.own(home), im.own(home+"/.ssh"), im.own(home+"/.ssh/authorized_keys"),
		im.write("member/usr/bin/application", application, 0o755),
		im.write("member/usr/local/bin/systemctl", systemctl, 0o755),
		im.write("member/usr/local/bin/agent-unit", unit, 0o755),
		os.MkdirAll(filepath.Join(dir, "server", PointerStore), 0o755),
		im.memberFiles(),
	)
}

func (im *images) memberFiles() error {
	var errs []error
	for path, text := range im.opts.MemberFiles {
		errs = append(errs, im.write("member"+path, text, 0o755))
	}
	return errors.Join(errs...)
}

// key is the release server's private ssh key.
func (im *images) key() string { return filepath.Join(im.dir, "server", SSHKey) }

// makeKey puts the key into its place, a new one unless the options name one, and returns its
// public half.
func (im *images) makeKey(ctx context.Context) ([]byte, error) {
	if im.opts.ServerKey != "" {
		private, err := os.ReadFile(im.opts.ServerKey)
		if err == nil {
			err = im.write(filepath.Join("server", SSHKey), string(private), 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("key of the release server: %w", err)
		}
	} else {
		if err := os.MkdirAll(filepath.Dir(im.key()), 0o755); err != nil {
			return nil, err
		}
		keygen := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "release-server", "-f", im.key())
		if out, err := keygen.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make ssh key: %w: %s", err, out)
		}
	}
	public, err := exec.CommandContext(ctx, "ssh-keygen", "-y", "-f", im.key()).Output()
	if err != nil {
		return nil, fmt.Errorf("public half of the release server's key: %w", err)
	}
	return public, nil
}

// configure writes the settings of the two programs.
func (im *images) configure(pointer, store string) error {
	groups := make([]string, len(im.opts.Groups))
	for i, g := range im.opts.Groups {
		groups[i] = fmt.Sprintf("%q", g)
	}
	return errors.Join(
		im.write("member/etc/ebs-release/agent.toml", settings([]string{fmt.Sprintf("pointer = %q", pointer)}, im.opts.AgentSettings), 0o644),
		im.write("server/etc/ebs-release/publisher.toml", settings([]string{
			fmt.Sprintf("pointer-store = %q", store),
			fmt.Sprintf("groups = [%s]", strings.Join(groups, ", ")),
			fmt.Sprintf("ssh-user = %q", SSHUser),
			fmt.Sprintf("ssh-key = %q", SSHKey),
		}, im.opts.PublisherSettings), 0o644),
	)
}

// settings are the lines of a TOML file; more wins over lines.
func settings(lines []string, more map[string]string) string {
	lines = slices.DeleteFunc(lines, func(l string) bool {
		key, _, _ := strings.Cut(l, " = ")
		_, replaced := more[key]
		return replaced
	})
	for key, value := range more {
		lines = append(lines, fmt.Sprintf("%s = %q", key, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// program installs a built program as its package does.
func (im *images) program(image, name, path string) error {
	if path == "" {
		return fmt.Errorf("the path of the built %s is missing", name)
	}
	src, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("install %s (is it built?): %w", name, err)
	}
	defer src.Close()
	target := filepath.Join(im.dir, image, "usr/bin", name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return cmp.Or(err, dst.Close())
}

// account adds a line to a copy of one of this machine's lists of users.
func (im *images) account(file, line string, mode os.FileMode) error {
	data, err := os.ReadFile("/etc/" + file)
	if err != nil {
		return err
	}
	return im.write("base/etc/"+file, strings.TrimRight(string(data), "\n")+"\n"+line+"\n", mode)
}

func (im *images) write(path, text string, mode os.FileMode) error {
	full := filepath.Join(im.dir, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(full, []byte(text), mode), os.Chmod(full, mode))
}

func (im *images) own(path string) error {
	return os.Chown(filepath.Join(im.dir, path), deployID, deployID)
}
