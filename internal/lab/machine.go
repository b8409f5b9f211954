package lab

import (
	"fmt"
	"strings"

	"ebs-release/internal/lab/cloud"
	"ebs-release/internal/lab/host"
)

// hostSpec says what a host is made of.
func (l *Lab) hostSpec(inst cloud.InstanceSpec) (host.Spec, error) {
	spec := host.Spec{
		ID:       inst.ID,
		Hostname: "ip-" + strings.ReplaceAll(inst.Address.String(), ".", "-"),
		Address:  inst.Address,
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
			fmt.Sprintf("AWS_ENDPOINT_URL=http://%s", l.hardware.network.Gateway()),
		},
		Metadata: l.Account.IMDSHandler(inst.ID),
		// The image was made from a machine that has host keys: each host makes its own, as
		// cloud-init sees to it.
		FirstBoot: []host.Service{{Name: "host-keys",
			Argv: []string{"sh", "-c", "rm -f /etc/ssh/ssh_host_* && exec ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"}}},
		Boot: []host.Service{{Name: "sshd", Argv: []string{"/usr/sbin/sshd", "-D", "-e"}, Daemon: true, Port: 22}},
	}
	if l.opts.S3 {
		spec.Env = append(spec.Env, "AWS_ENDPOINT_URL_S3="+l.s3Endpoint(), "AWS_CA_BUNDLE="+authorities)
	}
	switch inst.ImageID {
	case MemberImage:
		spec.Layers = []string{"images/member", "images/base"}
		if l.opts.Launch {
			spec.Boot = append(spec.Boot, host.Service{Name: "launch", Argv: []string{"/usr/bin/ebs-release-agent", "launch"}, Daemon: true})
		}
		spec.Boot = append(spec.Boot,
			host.Service{Name: "agent", Argv: []string{"/usr/bin/ebs-release-agent", "up"}, Notify: true},
			host.Service{Name: "application", Argv: []string{"/usr/bin/application", "start"}},
			host.Service{Name: "application-main", Argv: []string{"/usr/bin/application", "run"}, Daemon: true})
		if l.opts.Warm {
			spec.Boot = append(spec.Boot, host.Service{Name: "warm", Argv: []string{"/usr/bin/ebs-release-agent", "warm"}, Daemon: true})
		}
		if l.opts.Follow {
			spec.Boot = append(spec.Boot, host.Service{Name: "follow", Argv: []string{"/usr/bin/ebs-release-agent", "follow"}, Daemon: true})
		}
	case IdleImage:
		spec.Layers = []string{"images/member", "images/base"}
		spec.Boot = nil
	case ServerImage:
		spec.Layers = []string{"images/server", "images/base"}
		spec.Binds = l.opts.ServerBinds
		spec.Boot = append(spec.Boot,
			host.Service{Name: "mount", Argv: []string{"mount", "-a"}}) // of /etc/fstab, which `ebs-release init` writes
		if !l.opts.S3 {
			spec.Boot = append(spec.Boot, host.Service{Name: "serve",
				Argv: []string{"/usr/bin/ebs-release", "serve", "--listen", fmt.Sprintf(":%d", pointerPort)}, Daemon: true, Port: pointerPort})
		}
	default:
		return host.Spec{}, fmt.Errorf("launch %s: the lab has no image %s", inst.ID, inst.ImageID)
	}
	return spec, nil
}
