# An image whose instances boot on the current release. Build it with
#
#   packer init member.pkr.hcl && packer build -var package=../../dist/ebs-release-agent_….deb member.pkr.hcl
#
# Which release that is, instances find out when they boot: the image need not be built anew for one.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "package" {
  type        = string
  description = "The agent's package, a .deb or an .rpm, on this machine."
}

variable "region" {
  type        = string
  description = "Region to build in."
  default     = "us-east-1"
}

variable "instance_type" {
  type        = string
  description = "Type of the building instance; its architecture is the image's."
  default     = "t3.small"
}

variable "subnet_id" {
  type        = string
  description = "Subnet to build in, with a way to the package mirrors; null: one of the default network."
  default     = null
}

variable "source_ami" {
  type = object({
    name  = string
    owner = string
    user  = string
  })
  description = "The image to start from: its name (the newest that matches is taken), its owner, the user to log in as."
  default = {
    name  = "debian-12-amd64-*"
    owner = "136693071363" # Debian's account
    user  = "admin"
  }
}

variable "release_snapshot" {
  type        = string
  description = "Snapshot of a release, for EC2 to bring a volume of it with each launch from this image; null: members make their volumes, or the launch template brings them (../terraform)."
  default     = null
}

locals {
  # The file keeps its name: apt and dnf go by its end.
  uploaded = "/tmp/${basename(var.package)}"
  installs = {
    deb = "sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -q -y curl awscli"
    rpm = "sudo dnf install -q -y curl-minimal awscli-2"
  }
  kind = can(regex("[.]rpm$", var.package)) ? "rpm" : "deb"
}

source "amazon-ebs" "member" {
  region        = var.region
  instance_type = var.instance_type
  subnet_id     = var.subnet_id
  ssh_username  = var.source_ami.user
  encrypt_boot  = true
  ami_name      = "ebs-release-member-${formatdate("YYYYMMDD-hhmmss", timestamp())}"

  ssh_clear_authorized_keys = true # the builder's key does not stay

  # For instances that launch from the image: the builder has no such disk. One that is encrypted (encrypt_boot) holds a copy of the snapshot.
  dynamic "ami_block_device_mappings" {
    for_each = var.release_snapshot == null ? [] : [1]

    content {
      device_name           = "/dev/sdf"
      snapshot_id           = var.release_snapshot
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }

  source_ami_filter {
    filters = {
      name                = var.source_ami.name
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
    owners      = [var.source_ami.owner]
    most_recent = true
  }

  # The agent reads the metadata service with tokens (IMDSv2) only.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0"
}

build {
  sources = ["source.amazon-ebs.member"]

  # cloud-init may still hold the package manager, or be about to write its sources. It exits with 2 when it warned only.
  provisioner "shell" {
    inline = ["cloud-init status --wait || [ $? -eq 2 ]"]
  }

  # Releases are pushed as this user, and the tree is its own: no sudo, and the same id in both images.
  provisioner "shell" {
    inline = ["sudo useradd --uid 2000 --create-home --shell /bin/bash deploy"]
  }

  # Installing the package starts nothing. The switch is for a reboot while the image is built: the builder must not mount a volume then either.
  provisioner "shell" {
    inline = [
      "sudo install -d -m 0755 /etc/ebs-release",
      "sudo touch /etc/ebs-release/disabled",
      local.installs[local.kind],
    ]
  }

  provisioner "file" {
    source      = var.package
    destination = local.uploaded
  }

  provisioner "shell" {
    inline = [
      local.kind == "rpm" ? "sudo dnf install -q -y ${local.uploaded}" : "sudo DEBIAN_FRONTEND=noninteractive apt-get install -q -y ${local.uploaded}",
      "rm ${local.uploaded}",
    ]
  }

  # Your application comes here: its unit says Requires=, After= and WantedBy=ebs-release.target.

  # Last: nothing of the builder stays, and the agent may run from the next boot on.
  provisioner "shell" {
    inline = [
      "if mountpoint -q /release; then echo 'a release is mounted in the image' >&2; exit 1; fi",
      "systemctl is-enabled ebs-release-agent.service",
      "sudo rm -f /etc/ebs-release/disabled",
      "sudo cloud-init clean --logs",
    ]
  }
}
