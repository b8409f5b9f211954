package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Image is what a machine boots from, as an AMI is. Machines write to an overlay of their own, so
// that one image serves many at a time.
type Image struct {
	Disk   string // file with a partition table and one ext4
	Kernel string
	format string // raw or qcow2
}

// Extras is what Packer would put into an AMI.
type Extras struct {
	Packages      []string        // .deb files, installed by dpkg in the order of their names
	Files         map[string]File // by absolute path
	AuthorizedKey string          // a line of authorized_keys, for root and for deploy
	Commands      []string        // shell, run as root in the tree after all else, without systemd running: "systemctl enable app"
}

// File is a file of root's; directories on its way are made.
type File struct {
	Data string
	Mode fs.FileMode // 0 means 0644
}

const (
	diskBytes   = 3 << 30 // size of the root file system; the file is sparse
	diskOffset  = 1 << 20 // where it starts on the disk
	sectorBytes = 512
	// signature names the disk; the kernel finds root by it, whatever number its controller gets
	// beside other disks.
	signature = 0xeb5eb5e1
	partUUID  = "eb5eb5e1-01"
)

// writeDisk makes a disk with one partition, an ext4 that holds tree. It needs no mount.
func writeDisk(ctx context.Context, path, tree string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskOffset+diskBytes), writePartition(f), f.Close()); err != nil {
		return err
	}
	options := fmt.Sprintf("offset=%d,lazy_itable_init=1,lazy_journal_init=1", diskOffset) // the file is new: all zero
	return run(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-L", "root", "-E", options,
		"-d", tree, path, strconv.Itoa(diskBytes/1024)+"k"))
}

// writePartition writes an MBR whose first entry is the root file system.
func writePartition(f *os.File) error {
	mbr := make([]byte, sectorBytes)
	binary.LittleEndian.PutUint32(mbr[440:], signature)
	entry := mbr[446:]
	copy(entry[1:], []byte{0xfe, 0xff, 0xff}) // no cylinders and heads: too large for them
	entry[4] = 0x83                           // Linux
	copy(entry[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], diskOffset/sectorBytes)
	binary.LittleEndian.PutUint32(entry[12:], diskBytes/sectorBytes)
	mbr[510], mbr[511] = 0x55, 0xaa
	_, err := f.WriteAt(mbr, 0)
	return err
}

// Install makes a new image in dir (a directory of the caller's, which it removes when no machine
// runs from the image any more): this one and the extras. It takes a second or two and, with no
// more in it than its base, 400 MB.
func (i *Image) Install(ctx context.Context, dir string, extras Extras) (*Image, error) {
	image, err := i.install(ctx, dir, extras)
	if err != nil {
		return nil, fmt.Errorf("install into a copy of %s: %w", i.Disk, err)
	}
	return image, nil
}

func (i *Image) install(ctx context.Context, parent string, extras Extras) (_ *Image, err error) {
	if i.format != "raw" {
		return nil, errors.New("a baked image cannot be changed: boot it, change it, bake it again")
	}
	dir, err := os.MkdirTemp(parent, "image-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir) // no mount is there: it was in a namespace that is gone
		}
	}()
	disk, script, commands := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "install.sh"), filepath.Join(dir, "commands")
	files, packages := filepath.Join(dir, "files"), filepath.Join(dir, "packages")
	if err := errors.Join(
		os.Chmod(dir, 0o755),
		os.Mkdir(files, 0o755),
		os.Mkdir(packages, 0o755),
		extract("golden/install.sh", script, 0o755),
		os.WriteFile(commands, []byte(strings.Join(extras.Commands, "\n")+"\n"), 0o644),
		extras.stage(files),
	); err != nil {
		return nil, err
	}
	for _, deb := range extras.Packages {
		source, err := filepath.Abs(deb)
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(source, filepath.Join(packages, filepath.Base(deb))); err != nil {
			return nil, err
		}
	}
	if err := run(exec.CommandContext(ctx, "cp", "--reflink=auto", "--sparse=always", i.Disk, disk)); err != nil {
		return nil, err
	}
	if err := run(command(ctx, script, disk, strconv.Itoa(diskOffset), files, packages, commands)); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(files), os.RemoveAll(packages), os.Remove(script), os.Remove(commands)); err != nil {
		return nil, err
	}
	return &Image{Disk: disk, Kernel: i.Kernel, format: "raw"}, nil
}

// stage writes the extra files below root.
func (e Extras) stage(root string) error {
	files := map[string]File{}
	for path, file := range e.Files {
		files[path] = file
	}
	if e.AuthorizedKey != "" {
		key := File{Data: strings.TrimSpace(e.AuthorizedKey) + "\n", Mode: 0o600}
		files["/root/.ssh/authorized_keys"], files["/home/deploy/.ssh/authorized_keys"] = key, key
		for _, home := range []string{"root/.ssh", "home/deploy/.ssh"} {
			dir := filepath.Join(root, home)
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o700)); err != nil { // the copy of the directory takes its mode along
				return err
			}
		}
		if err := os.Chmod(filepath.Join(root, "root"), 0o700); err != nil {
			return err
		}
	}
	for path, file := range files {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("extra file %q: not an absolute path", path)
		}
		mode := file.Mode
		if mode == 0 {
			mode = 0o644
		}
		at := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(file.Data), mode), os.Chmod(at, mode)); err != nil {
			return err
		}
	}
	return nil
}
