# The policies are the files that the project's tests run under. They name the partition "aws"; elsewhere (China, GovCloud) it is another.

data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "member" {
  name               = "${var.name}-member"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role_policy" "agent" {
  name   = "ebs-release-agent"
  role   = aws_iam_role.member.id
  policy = replace(file("${path.module}/../iam/agent.json"), "arn:aws:", "arn:${data.aws_partition.current.partition}:")
}

resource "aws_iam_instance_profile" "member" {
  name = aws_iam_role.member.name
  role = aws_iam_role.member.name
}

resource "aws_iam_role" "server" {
  name               = "${var.name}-release-server"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role_policy" "publisher" {
  name   = "ebs-release"
  role   = aws_iam_role.server.id
  policy = replace(file("${path.module}/../iam/publisher.json"), "arn:aws:", "arn:${data.aws_partition.current.partition}:")
}

resource "aws_iam_instance_profile" "server" {
  name = aws_iam_role.server.name
  role = aws_iam_role.server.name
}

# The agent completes the launch hook of its own group.
resource "aws_iam_role_policy" "hook" {
  name   = "launch-hook"
  role   = aws_iam_role.member.id
  policy = replace(replace(file("${path.module}/../iam/launch-hook.json"), "GROUP", var.name), "arn:aws:", "arn:${data.aws_partition.current.partition}:")
}

# Root on every member that launches, by the template's user data: only where the release server keeps it current (SECURITY.md).
resource "aws_iam_role_policy" "template" {
  count = var.brought_size == null ? 0 : 1

  name   = "launch-template"
  role   = aws_iam_role.server.id
  policy = replace(replace(file("${path.module}/../iam/launch-template.json"), "TEMPLATE", aws_launch_template.member.id), "arn:aws:", "arn:${data.aws_partition.current.partition}:")
}

# Volumes of encrypted snapshots: without these rights EC2 accepts the volume, and then it vanishes.
data "aws_iam_policy_document" "kms" {
  count = var.kms_key_arn == null ? 0 : 1

  statement {
    actions   = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*"]
    resources = [var.kms_key_arn]
  }
  statement {
    actions   = ["kms:CreateGrant"]
    resources = [var.kms_key_arn]
    condition {
      test     = "Bool"
      variable = "kms:GrantIsForAWSResource"
      values   = ["true"]
    }
  }
}

resource "aws_iam_role_policy" "kms" {
  for_each = var.kms_key_arn == null ? {} : { member = aws_iam_role.member.id, server = aws_iam_role.server.id }

  name   = "ebs-release-kms"
  role   = each.value
  policy = data.aws_iam_policy_document.kms[0].json
}

# TLS only, and the pointer only over exactly the one that was read. In S3 a policy of the bucket holds for administrators, too.
resource "aws_s3_bucket_policy" "store" {
  count = var.store == null ? 0 : 1

  bucket = var.store.bucket
  policy = replace(replace(replace(file("${path.module}/../iam/bucket.json"),
    "BUCKET/PREFIX", "${var.store.bucket}/${var.store.prefix}"),
    "BUCKET", var.store.bucket),
  "arn:aws:", "arn:${data.aws_partition.current.partition}:")
}
