package publish_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"ebs-release/internal/exit"
	"ebs-release/internal/pointer"
)

func TestMessageThatIsTooLongIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("1")
		p := w.publisher()
		p.Settings.Message = strings.Repeat("m", pointer.MaxMessage+1)
		_, err := p.Publish(t.Context(), "source")
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "4097 bytes, want at most 4096") {
			t.Errorf("exit code %d, %v", exit.Code(err), err)
		}
		if len(w.log) != 0 {
			t.Errorf("it did %v", w.log)
		}
	})
}
