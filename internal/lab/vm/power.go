package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// PowerOn starts the machine, with all disks that are plugged. It returns when the processor runs;
// Booted and Run wait for more.
func (m *Machine) PowerOn(ctx context.Context) error {
	late := m.late()
	if err := m.powerOn(ctx); err != nil {
		return err
	}
	return m.plugLate(ctx, late)
}

func (m *Machine) powerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boot != nil && m.boot.process.Running() {
		return fmt.Errorf("switch %s on: it is on", m.ID)
	}
	m.cut() // it switched itself off
	m.console.clear()
	if !m.asleep {
		m.marks.clear()
		m.first = slices.Clone(m.slots)
	}
	m.asleep = false
	b, err := m.start()
	if err == nil {
		if err = b.qmp.do(ctx, "qmp_capabilities", nil); err != nil { // the monitor's first word, before any other
			b.off()
			err = fmt.Errorf("qemu: %w: %s", err, b.talk.String())
		}
	}
	if err != nil {
		return fmt.Errorf("switch %s on: %w", m.ID, err)
	}
	m.boot = b
	go m.watch(b, m.patience)
	return nil
}

// watch resets a machine that has nothing to say. Once in some hundred boots on a busy machine an
// emulated kernel gets so far behind its timer interrupts before its first word that it does
// nothing else any more; nothing of a boot has happened then. Each time it has twice as long.
func (m *Machine) watch(b *boot, patience time.Duration) {
	for resets := 0; ; patience *= 2 {
		text, changed := m.console.read()
		if text != "" {
			if resets > 0 {
				_ = b.qmp.onReset("shutdown") // as it was started: see Reboot
			}
			return
		}
		var over <-chan time.Time
		if resets < 3 { // who waits for this boot says what did not come
			over = time.After(patience)
		}
		select {
		case <-changed:
		case <-b.process.Done:
			return
		case <-over:
			resets++
			if err := b.qmp.onReset("reset"); err != nil { // the firmware makes another one of it
				return
			}
			_ = b.qmp.tell("system_reset", nil)
		}
	}
}

// PowerCut switches the machine off without a word to it. What its programs had written but not
// synced is lost as on a real power cut; what its kernel had handed to a disk is not (see Disk).
// The machine keeps its disks.
func (m *Machine) PowerCut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut()
}

func (m *Machine) cut() {
	if m.login != nil {
		m.login.close()
		m.login = nil
	}
	if m.boot != nil {
		m.boot.off()
		m.boot = nil
	}
}

// Shutdown presses the power button (ACPI), and cuts the power when the machine is not off after
// the grace time.
func (m *Machine) Shutdown(ctx context.Context, grace time.Duration) error {
	defer m.PowerCut()
	m.mu.Lock()
	b := m.boot
	m.mu.Unlock()
	if b == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, grace, fmt.Errorf("%s did not switch itself off within %s", m.ID, grace))
	defer cancel()
	for {
		if err := b.qmp.do(ctx, "system_powerdown", nil); err != nil && !errors.Is(err, errNoPower) {
			return fmt.Errorf("shut %s down: %w", m.ID, err)
		}
		select {
		case <-b.process.Done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("shut %s down: %w", m.ID, context.Cause(ctx))
		case <-time.After(2 * time.Second): // a machine that still boots does not hear the button: press it again
		}
	}
}

// Reboot runs "systemctl reboot" in the machine and returns when its processor starts anew. A
// machine that reboots without this goes off, and PowerOn is the way on: qemu ends at each reset,
// since an emulated machine that is reset in place boots three times as slowly as a new one.
func (m *Machine) Reboot(ctx context.Context) error {
	off := m.Off()
	out, err := m.Run(ctx, "systemctl", "reboot")
	if err != nil && out.Code != 255 && !errors.Is(err, errNoPower) { // 255: the connection went first
		return err
	}
	select {
	case <-off:
		return m.PowerOn(ctx)
	case <-ctx.Done():
		return fmt.Errorf("reboot %s: it still runs: %w", m.ID, context.Cause(ctx))
	}
}
