# A group whose members serve the current release, and the release server that publishes to it. An example to start from: it makes no network,
# and the two images come from ../packer. README.md says how to go on from here.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_partition" "current" {}

locals {
  # The agent has the name as a setting (member.yaml.tftpl).
  hook = "ebs-release"

  # A name, not an address: another release server takes it over, and no member has to be launched anew for that.
  release_host = "release.${var.zone}"
  s3           = var.store == null ? null : "s3://${var.store.bucket}/${var.store.prefix}"
  pointer      = var.store == null ? "http://${local.release_host}/release.json" : local.s3

  # The name is another one when EC2 brings the volumes: another template, which the group gets.
  template = var.brought_size == null ? "${var.name}-member" : "${var.name}-member-brought"
  device   = "/dev/sdf"
}
