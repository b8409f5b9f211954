// Package mount puts a file system in place by system call, and reads back what is mounted.
//
// A mount is made in two steps. Prepare gives a detached one: the kernel has the file system,
// nobody else sees it, and it is gone when its descriptor closes (also when the process dies). Its
// content is looked at inside it. Only then MoveTo makes it visible, in one move: there is no
// moment in which the mount point shows a release that was not verified. Linux 5.6 or later.
package mount
