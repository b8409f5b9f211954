#!/bin/sh
# Makes a Debian tree a machine of the lab. mmdebstrap runs it as a hook: $1 is the tree.
set -eu
tree=$1
units=$tree/etc/systemd/system

# The user that a publisher logs in as; Image.Install puts the keys there.
chroot "$tree" useradd --uid 61200 --create-home --shell /bin/bash deploy # the owner of release trees in the lab
install -d -m 700 "$tree/root/.ssh"
chroot "$tree" install -d -m 700 -o deploy -g deploy /home/deploy/.ssh

# As in an AMI: host keys and the machine's identity are made at first boot. One key, since RSA takes an emulated machine many seconds.
rm -f "$tree"/etc/ssh/ssh_host_*
cat >"$tree/etc/ssh/sshd_config.d/lab.conf" <<'EOF'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
EOF
cat >"$units/ssh-host-key.service" <<'EOF'
[Unit]
Description=SSH host key of this machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
RemainAfterExit=yes
# A key that a power cut tore must not stay: sync, then rename.
ExecStart=/bin/sh -ec 'cd /etc/ssh; rm -f new_host_key*; ssh-keygen -q -t ed25519 -N "" -f new_host_key; mv new_host_key.pub ssh_host_ed25519_key.pub; sync new_host_key ssh_host_ed25519_key.pub; mv new_host_key ssh_host_ed25519_key; sync .'

[Install]
WantedBy=multi-user.target
EOF
: >"$tree/etc/machine-id"
echo localhost >"$tree/etc/hostname"
echo '127.0.0.1 localhost' >"$tree/etc/hosts"
rm -f "$tree/etc/resolv.conf"
echo "PARTUUID=$PARTUUID / ext4 defaults,noatime 0 1" >"$tree/etc/fstab"

# The address comes from ip= on the kernel's command line.
install -d "$tree/etc/systemd/network/90-eth0.network.d"
cat >"$tree/etc/systemd/network/90-eth0.network.d/lab.conf" <<'EOF'
# "Online" would wait ten seconds for a router's advertisement.
[Network]
IPv6AcceptRA=no
LinkLocalAddressing=no
EOF
chroot "$tree" systemctl --quiet enable ssh-host-key systemd-networkd systemd-network-generator systemd-networkd-wait-online

# A busy machine stretches an emulated boot: units get the time, and tests have their own deadlines.
install -d "$tree/etc/systemd/system.conf.d"
printf '[Manager]\nDefaultTimeoutStartSec=10min\nDefaultTimeoutStopSec=10min\nDefaultDeviceTimeoutSec=10min\n' >"$tree/etc/systemd/system.conf.d/lab.conf"

# Tells the lab that the boot is through, on the port that nobody else writes to (MarkPort, bootedMark).
cat >"$units/lab-booted.service" <<'EOF'
[Unit]
Description=Mark of a boot that is through
After=multi-user.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/echo multi-user.target
StandardOutput=file:/dev/ttyS1

[Install]
WantedBy=multi-user.target
EOF
chroot "$tree" systemctl --quiet enable lab-booted

# An emulated machine spends its boot on starting processes. What has no say in how a boot goes on, or in its order, is left out: timers, gettys, mounts
# that nobody uses, generators for hardware that is not there.
mask() { for name; do ln -sf /dev/null "$units/$name"; done; }
mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer \
	e2scrub_reap.service getty.target systemd-ask-password-console.path systemd-ask-password-wall.path \
	dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
	proc-sys-fs-binfmt_misc.automount systemd-binfmt.service kmod-static-nodes.service systemd-modules-load.service \
	modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service systemd-firstboot.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pstore.service systemd-random-seed.service \
	systemd-repart.service systemd-sysusers.service systemd-update-utmp.service systemd-update-utmp-runlevel.service
install -d "$units-generators"
for name in bless-boot cryptsetup getty gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
	ln -sf /dev/null "$units-generators/systemd-$name-generator"
done

# At boot udev is told of the disks, the network card and the power button again, not of 400 other devices. New devices reach it as ever.
install -d "$units/systemd-udev-trigger.service.d"
cat >"$units/systemd-udev-trigger.service.d/lab.conf" <<'EOF'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=nvme --subsystem-match=pci --subsystem-match=virtio --subsystem-match=net
ExecStart=-udevadm trigger --action=add --subsystem-match=acpi --subsystem-match=input --sysname-match=LNXPWRBN:* --sysname-match=input* --sysname-match=event*
EOF

# Debian's own daemons, not ours: a seccomp filter or a private /tmp costs each of them a good part of a second here.
for unit in dbus systemd-journald systemd-logind systemd-networkd systemd-networkd-wait-online systemd-udevd; do
	install -d "$units/$unit.service.d"
	cat >"$units/$unit.service.d/lab.conf" <<'EOF'
[Service]
SystemCallFilter=
SystemCallArchitectures=
RestrictAddressFamilies=
RestrictNamespaces=no
RestrictRealtime=no
RestrictSUIDSGID=no
MemoryDenyWriteExecute=no
LockPersonality=no
ProtectClock=no
ProtectControlGroups=no
ProtectHome=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectProc=default
ProtectSystem=no
PrivateDevices=no
PrivateTmp=no
EOF
done
