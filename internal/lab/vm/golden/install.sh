#!/bin/sh
# install.sh DISK OFFSET FILES PACKAGES COMMANDS: what Packer does to a machine, done to its disk. It runs in a mount namespace of its own, so that mounts
# and the loop device end with it, however it ends.
set -eu
disk=$1 offset=$2 files=$3 packages=$4 commands=$5
tree=$(dirname "$disk")/tree
mkdir -p "$tree"
mount -o "loop,offset=$offset" "$disk" "$tree"
mount -t proc proc "$tree/proc"
mount --bind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/run"
cp -R --preserve=mode "$files/." "$tree/"
if [ -e "$tree/home/deploy/.ssh/authorized_keys" ]; then
	chroot "$tree" chown deploy:deploy /home/deploy/.ssh /home/deploy/.ssh/authorized_keys
fi
if [ -n "$(ls "$packages")" ]; then
	mkdir "$tree/run/packages"
	cp "$packages"/*.deb "$tree/run/packages/"
	chroot "$tree" sh -c 'DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i /run/packages/*.deb'
fi
chroot "$tree" sh -eu <"$commands"
umount -R "$tree"
rmdir "$tree"
