package parse

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
)

// Each dialect over a real list, already unpacked: the number is the cost of
// reading lines and names, not of unpacking, and not of compiling a Set.
func BenchmarkLoad(b *testing.B) {
	for _, bm := range []struct {
		name   string
		format Format
	}{
		{"big/permissive/union-domains-2M.txt.gz", Domains},
		{"big/permissive/maltrail-static-raw.txt.gz", Domains},
		{"big/permissive/blp-basic.hosts.txt.gz", Hosts},
		{"big/permissive/blp-tracking.abp.txt.gz", ABP},
		{"big/copyleft/easylist-debian-ublock.txt.gz", ABP},
		{"big/permissive/blp-redirect.dnsmasq.conf.gz", Dnsmasq},
		{"big/copyleft/mullvad-privacy.rpz.zone.gz", RPZ},
		{"ips.txt", Prefixes},
		{"big/copyleft/ut1-phishing.urls.txt.gz", URLs},
	} {
		b.Run(string(bm.format)+"/"+filepath.Base(bm.name), func(b *testing.B) {
			data, err := io.ReadAll(corpus.Open(b, bm.name))
			if err != nil {
				b.Fatal(err)
			}
			lines := 0
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				rep, err := Load(bm.format, bytes.NewReader(data), Limits{}, func(blocklists.Rule) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				lines += rep.Lines
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(lines), "ns/line")
		})
	}
}

// BenchmarkCompile reads, parses and compiles a file of a million names: all
// that a reload does but opening and checking it.
func BenchmarkCompile(b *testing.B) {
	const million = 1_000_000
	data, err := io.ReadAll(corpus.Open(b, "big/permissive/union-domains-2M.txt.gz"))
	if err != nil {
		b.Fatal(err)
	}
	end := 0
	for range million {
		end += bytes.IndexByte(data[end:], '\n') + 1
	}
	data = bytes.Clone(data[:end])
	b.ReportAllocs()
	for b.Loop() {
		var build blocklists.Builder
		_, err := Load(Domains, bytes.NewReader(data), Limits{}, func(r blocklists.Rule) error { return build.Add(0, r) })
		if s := build.Build(); err != nil || s.Rules() != million {
			b.Fatalf("%d rules: %v", s.Rules(), err)
		}
	}
}

// The packed file through the iterator, as a caller has it.
func BenchmarkRulesGzip(b *testing.B) {
	data, err := os.ReadFile(filepath.Join(corpus.Dir(b), "big/permissive/union-domains-2M.txt.gz"))
	if err != nil {
		corpus.Missing(b, err.Error())
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range Rules(Domains, bytes.NewReader(data), Limits{}) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A line costs no allocation, or one in the dialects that keep their text, and
// nothing of the file stays behind.
func TestAllocations(t *testing.T) {
	const n = 10_000
	names := bytes.Repeat([]byte("some.name.example\n"), n)
	for _, tt := range []struct {
		format Format
		line   string
		allow  float64 // a line
	}{
		{Domains, "some.name.example\n", 0},
		{Domains, "# a comment\n", 0},
		{Hosts, "0.0.0.0 some.name.example\n", 0},
		{ABP, "||some.name.example^\n", 0},
		{Dnsmasq, "address=/some.name.example/\n", 0},
		{RPZ, "some.name.example CNAME .\n", 1},
		{Prefixes, "192.0.2.0/24\n", 1},
	} {
		text := bytes.Repeat([]byte(tt.line), n)
		got := testing.AllocsPerRun(3, func() {
			if _, err := Load(tt.format, bytes.NewReader(text), Limits{}, func(blocklists.Rule) error { return nil }); err != nil {
				t.Error(err)
			}
		}) / n
		if got > tt.allow+0.01 {
			t.Errorf("%s: %.2f allocations for a line like %q, want %.0f", tt.format, got, tt.line, tt.allow)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	rep, err := Load(Domains, bytes.NewReader(names), Limits{}, func(blocklists.Rule) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 64<<10 {
		t.Errorf("%d bytes stay behind %d lines", kept, rep.Lines)
	}
	runtime.KeepAlive(names)
}
