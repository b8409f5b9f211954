output "pointer" {
  description = "What the members read: EBS_RELEASE_POINTER."
  value       = "http://${aws_instance.server.private_ip}/release.json"
}

output "server" {
  description = "The release server: log in there, put the private key in place, then `sudo ebs-release init` and `sudo ebs-release publish FOLDER`."
  value       = aws_instance.server.id
}
