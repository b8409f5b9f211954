package mkfs_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebs-release/internal/filesystem"
	"ebs-release/internal/filesystem/mkfs"
	"ebs-release/internal/test/scratch"
)

func TestMakeOnABlankDisk(t *testing.T) {
	for kind, size := range map[filesystem.Kind]int64{filesystem.Ext4: 32 << 20, filesystem.XFS: 320 << 20} {
		t.Run(string(kind), func(t *testing.T) {
			device := scratch.Disk(t, size)
			if err := mkfs.Make(context.Background(), device, kind, "code_release"); err != nil {
				t.Fatal(err)
			}
			info, err := filesystem.ProbeDevice(device)
			if err != nil || info.Kind != kind || info.Label != "code_release" || info.NeedsCheck != "" || info.Newer != "" {
				t.Fatalf("info = %+v, %v", info, err)
			}
			if err := mkfs.Make(context.Background(), device, kind, "code_release"); !errors.Is(err, mkfs.ErrNotBlank) {
				t.Fatalf("a second time: %v, want ErrNotBlank", err)
			}
		})
	}
}

// What mkfs makes by itself follows its version and its mke2fs.conf: a release volume has what the
// oldest member knows.
func TestMakeLeavesOutWhatOlderMembersDoNotKnow(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "mke2fs.conf")
	if err := os.WriteFile(conf, []byte("[defaults]\n\tbase_features = sparse_super,filetype,ext_attr\n[fs_types]\n\text4 = {\n"+
		"\t\tfeatures = has_journal,extent,metadata_csum,64bit,orphan_file\n\t}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MKE2FS_CONFIG", conf)
	device := scratch.Disk(t, 32<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if info, err := filesystem.ProbeDevice(device); err != nil || info.Newer != "orphan_file" {
		t.Fatalf("by itself: %+v, %v; want orphan_file", info, err)
	}
	device = scratch.Disk(t, 32<<20)
	if err := mkfs.Make(context.Background(), device, filesystem.Ext4, "x"); err != nil {
		t.Fatal(err)
	}
	if info, err := filesystem.ProbeDevice(device); err != nil || info.Newer != "" {
		t.Errorf("made: %+v, %v", info, err)
	}
}

// A mkfs.xfs stands for later and older ones: it says what it knows, and makes what it is told.
func TestMakeXFSAsksWhatMkfsKnows(t *testing.T) {
	real, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, usage, defaults, fails string
		want                         []string
	}{
		{"older", "[-i projid32bit=0|1,sparse=0|1]", "", "", nil},
		{"this", "[-i sparse=0|1,nrext64=0|1]", "-i nrext64=1", "", []string{"nrext64=0"}},
		{"later", "[-m metadir=0|1] [-i nrext64=0|1,exchange=0|1] [-n ftype=0|1,parent=0|1]", "", "", []string{"nrext64=0", "exchange=0", "parent=0", "metadir=0"}},
		{"one that says nothing", "", "-i nrext64=1", "cannot mount: nrext64", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bin := t.TempDir()
			script := "#!/bin/bash\n[ $# = 0 ] && { echo '" + tc.usage + "' >&2; exit 1; }\necho \"$*\" >" + bin + "/asked\n" +
				"[[ $* == *nrext64* ]] && exec " + real + " -q -i nrext64=0 -L x \"${@: -1}\"\nexec " + real + " -i nrext64=0 " + tc.defaults + " -q -L x \"${@: -1}\"\n"
			if tc.defaults != "" {
				script = strings.Replace(script, "exec "+real+" -i nrext64=0 "+tc.defaults, "exec "+real+" "+tc.defaults, 1)
			}
			if err := os.WriteFile(filepath.Join(bin, "mkfs.xfs"), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			err := mkfs.Make(context.Background(), scratch.Disk(t, 320<<20), filesystem.XFS, "x")
			if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) {
				t.Fatalf("error %v, want %q", err, tc.fails)
			}
			asked, _ := os.ReadFile(filepath.Join(bin, "asked"))
			for _, name := range []string{"nrext64=0", "exchange=0", "parent=0", "metadir=0"} {
				if strings.Contains(string(asked), name) != slices.Contains(tc.want, name) {
					t.Errorf("asked for %q, want %v", asked, tc.want)
				}
			}
		})
	}
}

func TestMakeRefusesADiskWithAnythingOnIt(t *testing.T) {
	const size = 32 << 20
	for _, at := range []int64{0, 510, 1 << 19, size - 1} {
		device := scratch.Disk(t, size)
		f, err := os.OpenFile(device, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := mkfs.Make(context.Background(), device, filesystem.Ext4, "x"); !errors.Is(err, mkfs.ErrNotBlank) {
			t.Errorf("one byte at %d: %v, want ErrNotBlank", at, err)
		}
	}
}

func TestMakeRefusesWhatIsNotADisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, device, label, want string
		kind                      filesystem.Kind
	}{
		{"a file", file, "x", "not a block device", filesystem.Ext4},
		{"another kind", file, "x", "want ext4 or xfs", filesystem.Ext3},
		{"a label too long", file, "0123456789abc", "longer than 12 bytes", filesystem.XFS},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := mkfs.Make(context.Background(), tc.device, tc.kind, tc.label); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q in it", err, tc.want)
			}
		})
	}
}
