variable "region" {
  type        = string
  description = "Region of the group, the server and the snapshots."
}

variable "name" {
  type        = string
  description = "Name of the group, and the start of all other names."
  default     = "web"
}

variable "vpc_id" {
  type        = string
  description = "Network of everything here."
}

variable "member_subnet_ids" {
  type        = list(string)
  description = "Subnets of the members, one in each Availability Zone to use."
}

variable "server_subnet_id" {
  type        = string
  description = "Subnet of the release server."
}

variable "zone" {
  type        = string
  description = "Private DNS zone to make in the network; members find the release server as release.ZONE."
  default     = "ebs-release.internal"
}

variable "admin_cidrs" {
  type        = list(string)
  description = "Networks that operators and CI log in to the release server from, by ssh."

  validation {
    condition     = !contains(var.admin_cidrs, "0.0.0.0/0")
    error_message = "Not from everywhere."
  }
}

variable "api_cidr" {
  type        = string
  description = "Where the APIs of EC2 and Auto Scaling are: everywhere, or the network's own range when it has interface endpoints for both."
  default     = "0.0.0.0/0"
}

variable "member_ami" {
  type        = string
  description = "Image of the members, with the agent and the application (../packer)."
}

variable "server_ami" {
  type        = string
  description = "Image of the release server, with the publisher (../packer)."
}

variable "instance_type" {
  type        = string
  description = "Type of the members: a Nitro instance."
  default     = "m6i.large"
}

variable "server_instance_type" {
  type        = string
  description = "Type of the release server: a Nitro instance."
  default     = "m6i.large"
}

variable "size" {
  type = object({
    min     = number
    desired = number
    max     = number
  })
  description = "Size of the group. Nothing before the first publish: members that launch earlier wait for it, up to 8 hours (100 timeouts of the launch hook)."
  default = {
    min     = 0
    desired = 0
    max     = 10
  }
}

variable "brought_size" {
  type        = number
  description = "Size in GiB of a volume that EC2 brings to each member by the launch template, whose snapshot the release server keeps current: as large as the release volume. null: members make their volumes themselves. SECURITY.md says what that right is."
  default     = null
}

variable "application_unit" {
  type        = string
  description = "Unit of the application, such as server.service: the launch hook waits until it is active. Empty: none."
  default     = ""
}

variable "health_url" {
  type        = string
  description = "Where the application says that it serves, such as http://localhost:8080/health, for ready.d; the image needs curl. Empty: nobody asks."
  default     = ""
}

variable "target_group_arns" {
  type        = list(string)
  description = "Target groups of the load balancer that the members belong to."
  default     = []
}

variable "key_name" {
  type        = string
  description = "Key pair that operators log in to the members with, as a user that has sudo; null: none. Not the release server's."
  default     = null
}

variable "server_key_name" {
  type        = string
  description = "Key pair that operators log in to the release server with."
}

variable "ssh_user" {
  type        = string
  description = "User that the release server logs in as on the members, and the owner of the release tree: of the same user id in both images, without sudo."
  default     = "deploy" # as ../packer makes it

  validation {
    condition     = !contains(["root", "admin", "ec2-user", "ubuntu", "debian", "rocky", "centos"], var.ssh_user)
    error_message = "A user with sudo: the deploy key would be root on all members."
  }
}

variable "ssh_public_key" {
  type        = string
  description = "Public key that ssh_user takes on the members; the release server has the private one (ssh-key in publisher.toml)."
}

variable "kms_key_arn" {
  type        = string
  description = "Customer managed key of the release volume (`ebs-release init --kms-key`), its snapshots and copies; null for none, or for the key aws/ebs."
  default     = null
}

variable "store" {
  type = object({
    bucket = string
    prefix = string
  })
  description = "Bucket in this Region and prefix of the pointer store, so that members boot without the release server; null: a directory on that server. The bucket's policy is set here: it must have no other."
  default     = null
}
