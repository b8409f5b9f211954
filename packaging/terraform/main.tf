# A group whose members serve the current release, and the release server that publishes to it. An example to start from: it makes no network,
# and the two images come from ../packer.

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
  # The name is known to the launch-hook program in the image.
  hook = "ebs-release"
}
