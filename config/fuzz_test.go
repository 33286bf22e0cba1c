package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/weir-gateway/weir/blocklists"
)

// FuzzConfig proves that no text whatever makes Parse panic, that each error
// says where and what, and that what is accepted holds what callers rely on.
func FuzzConfig(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yml", "testdata/good/*.yml", "examples/*.yml", "default.yml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	fsys := inMemory(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("dir/x.yml", data, fsys)
		if err != nil {
			checkErrors(t, err)
			return
		}
		again, err := Parse("dir/x.yml", slices.Clone(data), fsys)
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Errorf("read again it is another: %v", err)
		}
		checkDNS(t, &c.DNS)
		checkPolicy(t, c)
		for _, p := range []string{c.State, c.Audit.File} {
			if p != "" && !filepath.IsAbs(p) {
				t.Errorf("path %q is not absolute", p)
			}
		}
	})
}

// inMemory returns the test bans without the cost of a disk.
func inMemory(f *testing.F) fs.FS {
	m := fstest.MapFS{}
	err := fs.WalkDir(bundles, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(bundles, name)
		m[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	return m
}

func checkErrors(t *testing.T, err error) {
	t.Helper()
	var all Errors
	if !errors.As(err, &all) || len(all) == 0 || len(all) > maxErrors+1 {
		t.Fatalf("%T with %d errors: %v", err, len(all), err)
	}
	for i, e := range all {
		if e.File == "" || e.Line < 1 || e.Column < 1 || e.Key == "" || e.Msg == "" || strings.ContainsAny(e.Error(), "\n\r\x00\x1b") {
			t.Errorf("%#v", e)
		}
		if i > 0 && all[i-1].File == e.File && (all[i-1].Line > e.Line || all[i-1].Line == e.Line && all[i-1].Column > e.Column) {
			t.Errorf("out of order: %v, %v", all[i-1], e)
		}
	}
}

func checkDNS(t *testing.T, c *DNS) {
	t.Helper()
	if c.Blocked.Mode == blocklists.ModeDefault || (c.Blocked.Mode == blocklists.Addresses) != (c.Blocked.IPv4.IsValid() || c.Blocked.IPv6.IsValid()) {
		t.Errorf("blocked: %+v", c.Blocked)
	}
	if c.Cache.Entries < 0 || c.Cache.Entries > maxEntries {
		t.Errorf("cache: %d", c.Cache.Entries)
	}
	for _, a := range slices.Concat(c.Listen, c.Bootstrap) {
		if !a.IsValid() || a.Addr().Is4In6() {
			t.Errorf("address %v", a)
		}
	}
	for _, u := range c.Upstreams {
		if u == nil || u.Port() == "" || u.Hostname() == "" || overHTTP(u.Scheme) != (u.Path != "") {
			t.Fatalf("upstream %v", u)
		}
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			name, err := blocklists.CanonicalName(u.Hostname())
			if err != nil || name != u.Hostname() || u.Scheme == "udp" || u.Scheme == "tcp" {
				t.Errorf("upstream %v: %v", u, err)
			}
		}
		if len(u.String()) > maxText {
			continue // percent-encoding made it longer
		}
		// What was made canonical is accepted as it is.
		text := "bans: []\ndns: {listen: [], upstreams: ['" + strings.ReplaceAll(u.String(), "'", "''") + "']}"
		again, err := Parse("x.yml", []byte(text), nil)
		if err != nil || !reflect.DeepEqual(again.DNS.Upstreams[0], u) {
			t.Errorf("upstream %v: %v", u, err)
		}
	}
}

func checkPolicy(t *testing.T, c *Config) {
	t.Helper()
	var ids []string
	for _, b := range c.Bans {
		if b.ID == "" || slices.Contains(ids, b.ID) || b.Title.EN == "" || b.Title.FR == "" || b.Authority.EN == "" || b.Reference == "" || len(b.Lists) == 0 {
			t.Errorf("ban %+v", b)
		}
		for _, l := range b.Lists {
			if l.Name == "" || l.Source == "" || !slices.Contains(dialects, l.Format) || l.Tier == "" {
				t.Errorf("list %+v", l)
			}
		}
		ids = append(ids, b.ID)
	}
	for _, r := range slices.Concat(c.Allow, c.Protected) {
		if r.Kind == blocklists.Prefix && !odd(r.Prefix) && r.Prefix.Bits() > 0 {
			continue
		}
		if name, err := blocklists.CanonicalName(r.Name); err != nil || name != r.Name || r.Action != blocklists.Allow || r.Kind == 0 || r.Line < 1 {
			t.Errorf("rule %+v: %v", r, err)
		}
	}
	var groups []string
	for _, g := range c.Groups {
		if g.Name == "" || len(g.Devices) == 0 || slices.ContainsFunc(g.Devices, odd) {
			t.Errorf("group %+v", g)
		}
		groups = append(groups, g.Name)
	}
	for _, e := range c.Exemptions {
		if e.ID == "" || e.Ticket == "" || e.ApprovedBy == "" || e.Reason == "" || slices.Contains(ids, e.Ban) == (e.Name != "") || !e.Until.After(e.From) {
			t.Errorf("exemption %+v", e)
		}
		if e.Device.IsValid() == (e.Group != "") || e.Group != "" && !slices.Contains(groups, e.Group) || e.Device.IsValid() && odd(e.Device) {
			t.Errorf("exemption for %v and %q", e.Device, e.Group)
		}
	}
	if slices.ContainsFunc(c.Proxy.AllowNetworks, odd) || slices.Contains(c.Proxy.ConnectPorts, 0) || slices.Contains(c.Proxy.HTTPPorts, 0) {
		t.Errorf("proxy %+v", c.Proxy)
	}
}

func odd(p netip.Prefix) bool {
	return !p.IsValid() || p != p.Masked() || p.Addr().Is4In6()
}
