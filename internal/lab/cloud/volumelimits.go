package cloud

// iops and throughput of the types that have a default (CreateVolume, Iops, Throughput), and how
// many IOPS a MiB/s of gp3 needs: "0.25 MiB/s per provisioned IOPS" (EBS user guide, "General
// Purpose SSD volumes").
const (
	gp3IOPS       = 3000
	gp3Throughput = 125
	gp3IOPSPerMiB = 4
)

// volumeIOPS are the fewest and the most IOPS by type, and how many a GiB takes above the fewest
// (CreateVolume, Iops; EBS user guide, "General Purpose SSD volumes" and "Provisioned IOPS SSD
// volumes"). A gp3 volume of any size takes 3,000 (CSI #3021, kops #10843).
func volumeIOPS(kind string) (low, high, perGiB int32, ok bool) {
	switch kind {
	case "gp3":
		return gp3IOPS, 80000, 500, true
	case "io1":
		return 100, 64000, 50, true
	case "io2":
		return 100, 256000, 1000, true
	}
	return 0, 0, 0, false
}

// checkIOPS refuses IOPS and throughput that the type does not have. The words are EC2's: of the
// bounds in CSI #809, of the size in rocicorp/mono #4410 (with the code), of the throughput in
// runs-on #260, which does not tell the code.
func (v Volume) checkIOPS() error {
	low, high, perGiB, ok := volumeIOPS(v.Type)
	switch {
	case !ok:
		return nil
	case v.IOPS < low:
		return fail("InvalidParameterValue", "Volume iops of %d is too low; minimum is %d.", v.IOPS, low)
	case v.IOPS > high:
		return fail("InvalidParameterValue", "Volume iops of %d is too high; maximum is %d.", v.IOPS, high)
	case v.IOPS > max(low, perGiB*v.SizeGiB):
		return fail("InvalidParameterValue",
			"Iops to volume size ratio of %f is too high; maximum is %d", float64(v.IOPS)/float64(v.SizeGiB), perGiB)
	case v.Throughput*gp3IOPSPerMiB > v.IOPS:
		return fail("InvalidParameterValue", "Throughput (MiBps) to iops ratio of %f is too high; maximum is %f MiBps per iops",
			float64(v.Throughput)/float64(v.IOPS), 1.0/gp3IOPSPerMiB)
	}
	return nil
}

// volumeSizes are the smallest and the largest size by type, in GiB (CreateVolume, Size).
func volumeSizes(kind string) (low, high int32, ok bool) {
	switch kind {
	case "gp2":
		return 1, 16384, true
	case "gp3":
		return 1, 65536, true
	case "io1":
		return 4, 16384, true
	case "io2":
		return 4, 65536, true
	case "st1", "sc1":
		return 125, 16384, true
	case "standard":
		return 1, 1024, true
	}
	return 0, 0, false
}
