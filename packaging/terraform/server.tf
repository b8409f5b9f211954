resource "aws_security_group" "server" {
  name        = "${var.name}-release-server"
  description = "Release server: the pointer for the members"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "pointer" {
  security_group_id            = aws_security_group.server.id
  referenced_security_group_id = aws_security_group.member.id
  description                  = "members read the pointer when they boot"
  ip_protocol                  = "tcp"
  from_port                    = 80
  to_port                      = 80
}

resource "aws_vpc_security_group_ingress_rule" "admin" {
  for_each = toset(var.admin_cidrs)

  security_group_id = aws_security_group.server.id
  cidr_ipv4         = each.value
  description       = "operators and CI log in"
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "server_ssh" {
  security_group_id            = aws_security_group.server.id
  referenced_security_group_id = aws_security_group.member.id
  description                  = "to members, by ssh"
  ip_protocol                  = "tcp"
  from_port                    = 22
  to_port                      = 22
}

resource "aws_vpc_security_group_egress_rule" "server_api" {
  security_group_id = aws_security_group.server.id
  cidr_ipv4         = var.api_cidr
  description       = "the API of EC2 and Auto Scaling"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# The release volume is not made here: `sudo ebs-release init` makes it, and proves it blank before it writes to it.
resource "aws_instance" "server" {
  ami                    = var.server_ami
  instance_type          = var.server_instance_type
  key_name               = var.server_key_name
  subnet_id              = var.server_subnet_id
  vpc_security_group_ids = [aws_security_group.server.id]
  iam_instance_profile   = aws_iam_instance_profile.server.name

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    encrypted = true
  }

  user_data = templatefile("${path.module}/server.yaml.tftpl", {
    group    = var.name
    template = var.brought_size == null ? "" : local.template
    device   = local.device
    ssh_user = var.ssh_user
    store    = var.store == null ? "/var/lib/ebs-release/pointer" : local.s3
  })

  tags = {
    Name = "${var.name}-release-server"
  }

  lifecycle {
    # ebs-release tags its own volume, and a newer image is no reason to replace the server: its pointer store goes with it.
    ignore_changes = [ami, user_data, volume_tags]
  }
}

resource "aws_route53_zone" "release" {
  name    = var.zone
  comment = "names of ${var.name}, in its network only"

  vpc {
    vpc_id = var.vpc_id
  }
}

resource "aws_route53_record" "release" {
  zone_id = aws_route53_zone.release.zone_id
  name    = local.release_host
  type    = "A"
  ttl     = 60
  records = [aws_instance.server.private_ip]
}
