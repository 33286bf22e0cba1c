package gateway

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-gateway/weir/gateway/dnsserver"
)

// collected is a collector that is a function.
type collected func(e emitter)

func (c collected) Describe(chan<- *prometheus.Desc)    {}
func (c collected) Collect(ch chan<- prometheus.Metric) { c(emitter{ch}) }

// gather renders metrics as name{label=value}, and what they are worth.
func gather(t *testing.T, c collected) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf("{%s=%s}", l.GetName(), l.GetValue())
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// Every counter of the DNS server is a metric, and no two are mixed up.
func TestDNSMetricsAreComplete(t *testing.T) {
	var st dnsserver.Stats
	want := map[float64]string{}
	v := reflect.ValueOf(&st).Elem()
	for i := range v.NumField() {
		n := 1000 + i
		switch f := v.Field(i); f.Kind() {
		case reflect.Uint64:
			f.SetUint(uint64(n))
		case reflect.Int64:
			f.SetInt(int64(n))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]uint64{"key": uint64(n)}))
		default:
			t.Fatalf("Stats.%s is a %s", v.Type().Field(i).Name, f.Kind())
		}
		want[float64(n)] = v.Type().Field(i).Name
	}
	got := gather(t, func(e emitter) { dnsMetrics(e, st) })
	for name, n := range got {
		if _, ok := want[n]; !ok {
			t.Errorf("%s is %v, which is no counter's, or another's too", name, n)
		}
		delete(want, n)
	}
	for _, field := range want {
		t.Errorf("Stats.%s is no metric", field)
	}
	for name, n := range map[string]uint64{
		"weir_dns_udp_calls_total{direction=read}":  st.UDPReads,
		"weir_dns_udp_calls_total{direction=write}": st.UDPWrites,
		"weir_dns_messages_total{transport=udp}":    st.UDP,
		"weir_dns_dropped_total{reason=key}":        st.Dropped["key"],
		"weir_dns_replies_total{rcode=key}":         st.Rcodes["key"],
	} {
		if got[name] != float64(n) {
			t.Errorf("%s is %v, want %d", name, got[name], n)
		}
	}
}

// The metrics of a gateway that runs, as they are scraped.
func TestDNSMetricsOfAGateway(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": ownBan, "own.txt": "banned.example\n"})
	f.rcode("banned.example")
	for _, want := range []string{
		`weir_dns_udp_calls_total{direction="read"} `, `weir_dns_udp_calls_total{direction="write"} 1\n`,
		`weir_dns_questions_total{action="block"} 1\n`, `weir_dns_replies_total{rcode="NXDOMAIN"} 1\n`,
	} {
		f.until(want)
	}
}

func TestHistogram(t *testing.T) {
	l := dnsserver.Latency{
		Transport: "udp", Outcome: "upstream", Bounds: []time.Duration{time.Millisecond, time.Second},
		Buckets: []uint64{5, 3, 2}, Sum: 4 * time.Second,
	}
	r := prometheus.NewRegistry()
	r.MustRegister(collected(func(e emitter) { e.histogram("x", "help", &l) }))
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	h := families[0].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 10 || h.GetSampleSum() != 4 || len(h.GetBucket()) != 2 || h.GetBucket()[0].GetCumulativeCount() != 5 || h.GetBucket()[1].GetCumulativeCount() != 8 {
		t.Errorf("got %v", h)
	}
}

// A running gateway shows what it has answered, timed or not.
func TestDurations(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": listeners})
	f.rcode("wechat.com")
	f.rcode("plain.example")
	for _, want := range []string{
		`weir_dns_duration_seconds_bucket{outcome="blocked",transport="udp",le="0.0001"} 1\n`,
		`weir_dns_duration_seconds_count{outcome="upstream",transport="udp"} 1\n`,
	} {
		f.until(want)
	}
}
