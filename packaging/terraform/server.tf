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

resource "aws_vpc_security_group_egress_rule" "server" {
  security_group_id = aws_security_group.server.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

# The release volume is not made here: `sudo ebs-release init` makes it, and proves it blank before it writes to it.
resource "aws_instance" "server" {
  ami                    = var.server_ami
  instance_type          = var.server_instance_type
  subnet_id              = var.server_subnet_id
  vpc_security_group_ids = [aws_security_group.server.id]
  iam_instance_profile   = aws_iam_instance_profile.server.name

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  user_data = templatefile("${path.module}/server.yaml.tftpl", {
    group    = var.name
    ssh_user = var.ssh_user
  })

  tags = {
    Name = "${var.name}-release-server"
  }

  lifecycle {
    ignore_changes = [user_data, volume_tags] # ebs-release tags its own volume
  }
}
