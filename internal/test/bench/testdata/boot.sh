#!/bin/sh
# The idea, as a shell script, made to work: what the agent is measured beside (make bench).
#
#	boot.sh URL_OF_SNAP_TXT [MOUNT_POINT]
#
# It does what the agent does when nothing goes wrong, and nothing else: no reboot, no retry, no check of what was mounted, no clean-up.
set -eu
point=${2:-/release}
imds=http://169.254.169.254/latest

token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' $imds/api/token)
about() { curl -sf -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"; }
instance=$(about instance-id)
zone=$(about placement/availability-zone)
AWS_DEFAULT_REGION=$(about placement/region)
export AWS_DEFAULT_REGION AWS_PAGER=
ec2() { # the AWS CLI of Debian 12 does not know AWS_ENDPOINT_URL
	aws ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} ec2 "$@"
}

snapshot=$(curl -sf "$1")
volume=$(ec2 create-volume --availability-zone "$zone" --snapshot-id "$snapshot" --volume-type gp3 --query VolumeId --output text)
ec2 wait volume-available --volume-ids "$volume"
ec2 attach-volume --volume-id "$volume" --instance-id "$instance" --device /dev/sdf >/dev/null
serial=$(echo "$volume" | tr -d -)
until found=$(grep -ls "$serial" /sys/block/*/device/serial); do sleep 0.1; done
mount -o nosuid,nodev,noatime "/dev/$(basename "${found%/device/serial}")" "$point"
test -e "$point/current/"
