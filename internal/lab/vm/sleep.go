package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Hibernate runs "systemctl hibernate" in the machine and returns when it has switched itself off.
// PowerOn resumes it, where its image has a place for what is in memory (Spec.KernelArgs).
func (m *Machine) Hibernate(ctx context.Context) error {
	off := m.Off()
	out, err := m.Run(ctx, "systemctl", "hibernate")
	if err != nil && out.Code != 255 && !errors.Is(err, errNoPower) { // 255: the connection went first
		return err
	}
	select {
	case <-off:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hibernate %s: it still runs: %w", m.ID, context.Cause(ctx))
	}
}

// newRoot gives a machine that is off a new disk over an image.
func (m *Machine) newRoot(ctx context.Context, image *Image) error {
	m.mu.Lock()
	m.cut() // it switched itself off
	m.spec.Image = image
	m.mu.Unlock()
	if err := os.Remove(m.overlay()); err != nil {
		return err
	}
	return run(exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", image.format, "-b", image.Disk, m.overlay()))
}
