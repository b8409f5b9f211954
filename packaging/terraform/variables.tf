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

variable "member_ami" {
  type        = string
  description = "Image of the members, with the agent and the application (../packer)."
}

variable "server_ami" {
  type        = string
  description = "Image of the release server, with the package ebs-release."
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
  description = "Size of the group."
  default = {
    min     = 1
    desired = 2
    max     = 10
  }
}

variable "key_name" {
  type        = string
  description = "Key pair of the members; the release server logs in with its private key (ssh-key in publisher.toml)."
}

variable "ssh_user" {
  type        = string
  description = "User that the release server logs in as on the members, and the owner of the release tree."
  default     = "admin"
}

variable "kms_key_arn" {
  type        = string
  description = "Customer managed key that the snapshots are encrypted with; null for none, or for the key aws/ebs."
  default     = null
}
