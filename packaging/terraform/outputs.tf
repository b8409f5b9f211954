output "pointer" {
  description = "What the members read: EBS_RELEASE_POINTER."
  value       = local.pointer
}

output "server" {
  description = "The release server."
  value = {
    id      = aws_instance.server.id
    address = aws_instance.server.private_ip
  }
}
