package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// However it is printed, a secret does not appear.
func TestSecret_NeverPrints(t *testing.T) {
	t.Parallel()
	const text = "hunter2-hunter2"
	s := New([]byte(text))
	holder := struct {
		Name   string
		Key    Secret
		Keys   []Secret
		Ref    *Secret
		hidden Secret
	}{"n", s, []Secret{s}, &s, s}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("m", "key", s, "holder", holder, "ref", &s)
	}
	js, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	key, err := json.Marshal(map[string]any{"k": s})
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := s.MarshalText()
	outputs := []string{log.String(), string(js), string(key), string(plain), s.String(), fmt.Sprint(holder.hidden), fmt.Errorf("x %v", s).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%T %[1]v"} {
		outputs = append(outputs, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, holder.Keys))
		if verb != "%#v" { // which prints unexported fields of a foreign struct past every method
			outputs = append(outputs, fmt.Sprintf(verb, struct{ Key Secret }{s}))
		}
	}
	for _, out := range outputs {
		for _, form := range []string{text, s.Base64(), fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), fmt.Sprint([]byte(text)), strings.Trim(fmt.Sprint([]byte(text)), "[]")} {
			if strings.Contains(out, form) {
				t.Errorf("%q shows %q", out, form)
			}
		}
	}
	if string(key) != `{"k":"[redacted]"}` {
		t.Errorf("as JSON: %s", key)
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	b := []byte("key")
	s := New(b)
	b[0] = 'x'
	if string(s.Reveal()) != "key" || !s.Matches([]byte("key")) || s.Matches([]byte("kex")) || s.Matches(nil) || s.IsZero() {
		t.Error("a secret is not what it was made of")
	}
	if zero := (Secret{}); !zero.IsZero() || zero.Matches([]byte("x")) || zero.Base64() != "" {
		t.Error("the zero secret holds something")
	}
	back, err := FromBase64(s.Base64())
	if err != nil || !back.Matches(s.Reveal()) {
		t.Errorf("base64 and back: %v", err)
	}
	if _, err := FromBase64("not*base64"); err == nil || strings.Contains(err.Error(), "not*base64") {
		t.Errorf("got %v", err)
	}
	if a, b := Random(32), Random(32); a.Matches(b.Reveal()) || len(a.Reveal()) != 32 {
		t.Error("randomness repeats itself")
	}
}

func TestSealer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "master.key")
	s, err := OpenSealer(path)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("a private key")
	sealed := s.Seal("pki/root", plain)
	if bytes.Contains(sealed, plain) || bytes.Equal(sealed, s.Seal("pki/root", plain)) {
		t.Error("sealing twice gives the same, or the plain text")
	}
	again, err := OpenSealer(path) // the next start
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open("pki/root", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := s.Open("x", s.Seal("x", nil)); err != nil || len(got) != 0 {
		t.Errorf("nothing, sealed: %q, %v", got, err)
	}
	if _, err := s.Open("pki/other", sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("for another purpose: %v", err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := s.Open("pki/root", changed); !errors.Is(err, ErrSealed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := s.Open("pki/root", sealed[:i]); !errors.Is(err, ErrSealed) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	other, err := OpenSealer(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open("pki/root", sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("with another key: %v", err)
	}
}

func TestOpenSealer_Refusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	if _, err := OpenSealer(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSealer(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("short"), 0o600), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSealer(path); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("damaged: %v", err)
	}
	if _, err := OpenSealer(filepath.Join(dir, "no", "such", "folder")); err == nil {
		t.Error("made in a folder that is not there")
	}
}
