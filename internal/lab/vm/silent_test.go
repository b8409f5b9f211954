package vm

import (
	"net/netip"
	"testing"
	"time"
)

// A machine that says nothing is reset, in place, and boots then; for those who wait for it, it was
// never off.
func TestSilentMachineIsReset(t *testing.T) {
	m, err := New(t.Context(), Spec{ID: "i-0123456789abcdef1", Image: goldenImage(t), Dir: t.TempDir(), Switch: newSwitch(t), Address: netip.MustParseAddr("10.44.0.10")})
	if err != nil {
		t.Fatal(err)
	}
	defer showConsole(t, m)
	defer func() {
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	m.patience = 200 * time.Millisecond // no kernel is that quick
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := m.current().qmp
	if err := q.wait(within(t, time.Minute), 0, "RESET", ""); err != nil {
		t.Fatal(err)
	}
	if err := m.Booted(within(t, 2*bootTime)); err != nil { // reset in place, it boots three times as slowly
		t.Fatal(err)
	}
	// A reset from within ends qemu again.
	if err := q.do(within(t, time.Minute), "system_reset", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Off():
	case <-within(t, time.Minute).Done():
		t.Error("a reset after that does not end it")
	}
}
