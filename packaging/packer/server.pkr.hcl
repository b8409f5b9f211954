# The image of the release server. Build it with
#
#   packer init server.pkr.hcl && packer build -var package=../../dist/ebs-release_….deb server.pkr.hcl

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
  description = "The publisher's package, a .deb or an .rpm, on this machine."
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

locals {
  # The file keeps its name: apt and dnf go by its end.
  uploaded = "/tmp/${basename(var.package)}"
  kind     = can(regex("[.]rpm$", var.package)) ? "rpm" : "deb"
}

source "amazon-ebs" "server" {
  region        = var.region
  instance_type = var.instance_type
  subnet_id     = var.subnet_id
  ssh_username  = var.source_ami.user
  encrypt_boot  = true
  ami_name      = "ebs-release-server-${formatdate("YYYYMMDD-hhmmss", timestamp())}"

  ssh_clear_authorized_keys = true # the builder's key does not stay

  source_ami_filter {
    filters = {
      name                = var.source_ami.name
      virtualization-type = "hvm"
      root-device-type    = "ebs"
    }
    owners      = [var.source_ami.owner]
    most_recent = true
  }

  # The programs read the metadata service with tokens (IMDSv2) only.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0"
}

build {
  sources = ["source.amazon-ebs.server"]

  # cloud-init may still hold the package manager, or be about to write its sources. It exits with 2 when it warned only.
  provisioner "shell" {
    inline = ["cloud-init status --wait || [ $? -eq 2 ]"]
  }

  # Releases are pushed as this user, and the tree is its own: no sudo, and the same id in both images.
  provisioner "shell" {
    inline = ["sudo useradd --uid 2000 --create-home --shell /bin/bash deploy"]
  }

  provisioner "file" {
    source      = var.package
    destination = local.uploaded
  }

  # The release volume comes later, by `ebs-release init` on the instance.
  provisioner "shell" {
    inline = [
      local.kind == "rpm" ? "sudo dnf install -q -y ${local.uploaded}" : "sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -q -y ${local.uploaded}",
      "rm ${local.uploaded}",
      "sudo systemctl enable ebs-release-serve.socket",
      "sudo cloud-init clean --logs",
    ]
  }
}
