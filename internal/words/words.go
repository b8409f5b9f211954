// Package words writes numbers as a person reads them. JSON keeps the numbers.
package words

import "fmt"

// Count is "1 member", "2 members". thing is a regular noun.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Bytes is a size in binary units with one decimal: "17 B", "52.7 MiB".
func Bytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/(1<<10), 0
	const units = "KMGTPE"
	for size >= 1023.95 && unit < len(units)-1 { // what would read 1024.0
		size, unit = size/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", size, units[unit])
}
