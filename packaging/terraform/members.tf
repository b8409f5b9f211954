resource "aws_security_group" "member" {
  name        = "${var.name}-member"
  description = "Members: ssh from the release server"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  security_group_id            = aws_security_group.member.id
  referenced_security_group_id = aws_security_group.server.id
  description                  = "the release server logs in, by ssh"
  ip_protocol                  = "tcp"
  from_port                    = 22
  to_port                      = 22
}

resource "aws_vpc_security_group_egress_rule" "member_pointer" {
  security_group_id            = aws_security_group.member.id
  referenced_security_group_id = aws_security_group.server.id
  description                  = "the pointer, when the instance boots"
  ip_protocol                  = "tcp"
  from_port                    = 80
  to_port                      = 80
}

# What the application needs besides comes here, too. DNS, NTP and the metadata service of AWS need no rule.
resource "aws_vpc_security_group_egress_rule" "member_api" {
  security_group_id = aws_security_group.member.id
  cidr_ipv4         = var.api_cidr
  description       = "the API of EC2 and Auto Scaling"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_launch_template" "member" {
  name                   = local.template
  image_id               = var.member_ami
  instance_type          = var.instance_type
  key_name               = var.key_name
  vpc_security_group_ids = [aws_security_group.member.id]
  update_default_version = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.member.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # cloud-init writes files and makes users before the network is called online, which is before the agent starts.
  user_data = base64encode(templatefile("${path.module}/member.yaml.tftpl", {
    pointer        = local.pointer
    hook           = local.hook
    launch_after   = var.application_unit
    health_url     = var.health_url
    ssh_user       = var.ssh_user
    ssh_public_key = chomp(var.ssh_public_key)
  }))

  # No snapshot: the release server writes a version with it at its first publish. Until then the volume is blank, and the members leave it alone.
  dynamic "block_device_mappings" {
    for_each = var.brought_size == null ? [] : [1]

    content {
      device_name = local.device
      ebs {
        volume_size           = var.brought_size
        volume_type           = "gp3"
        delete_on_termination = true
      }
    }
  }

  lifecycle {
    create_before_destroy = true
    # The release server's. A change of anything else takes over what the newest version has there.
    ignore_changes = [block_device_mappings, description]
  }
}

resource "aws_autoscaling_group" "members" {
  name                = var.name
  vpc_zone_identifier = var.member_subnet_ids
  min_size            = var.size.min
  desired_capacity    = var.size.desired
  max_size            = var.size.max
  target_group_arns   = var.target_group_arns
  health_check_type   = length(var.target_group_arns) > 0 ? "ELB" : "EC2"

  # Before the first publish no member comes into service, and terraform would wait for that.
  wait_for_capacity_timeout = "0"

  launch_template {
    id      = aws_launch_template.member.id
    version = var.brought_size == null ? aws_launch_template.member.latest_version : "$Default"
  }

  # A member has traffic when it serves the current release. The agent starts this time again while its boot goes on; an instance whose agent does not
  # run at all is replaced after it.
  initial_lifecycle_hook {
    name                 = local.hook
    lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING"
    heartbeat_timeout    = 300
    default_result       = "ABANDON"
  }

  tag {
    key                 = "Name"
    value               = var.name
    propagate_at_launch = true
  }

  lifecycle {
    ignore_changes = [desired_capacity]
  }

  # The first member needs its rights when it boots.
  depends_on = [aws_iam_role_policy.agent, aws_iam_role_policy.hook, aws_iam_role_policy.kms]
}
