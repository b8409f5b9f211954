package catchup

import "ebs-release/internal/pointer"

// Number is the generation under which a release server makes the pointer's release current on its
// own volume, which has this fence and current release; 0: it is. The fence only grows: after a
// publish that failed there it is above the pointer.
func Number(p pointer.Pointer, fence int64, current string) int64 {
	switch {
	case fence < p.Generation:
		return p.Generation
	case current == p.Release:
		return 0
	}
	return fence + 1
}
