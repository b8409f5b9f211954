package store

// SmallParts has s send what is larger than n bytes in parts of n bytes: S3 takes 5 MiB.
func (s *S3) SmallParts(n int64) { s.part = n }
