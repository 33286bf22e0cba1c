package gateway

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registry returns the gateway's metrics: what the parts count, read when
// somebody looks.
func (g *Gateway) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{g}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// A collector renders the parts' counters by the Prometheus naming
// conventions. It is unchecked (Describe sends nothing), because lists come
// and go with the configuration.
type collector struct{ g *Gateway }

// Describe implements prometheus.Collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch}
	c.policy(e)
	c.planes(e)
	if c.g.audit != nil {
		st := c.g.audit.Stats()
		e.counter("weir_audit_records_total", "Audit records by fate.", float64(st.Written), "fate", "written")
		e.counter("weir_audit_records_total", "Audit records by fate.", float64(st.Dropped), "fate", "dropped")
		e.counter("weir_audit_records_total", "Audit records by fate.", float64(st.Failed), "fate", "failed")
	}
}

func (c collector) policy(e emitter) {
	g, st := c.g, c.g.state.Load()
	e.gauge("weir_build_info", "The program's version.", 1, "version", g.opts.Version, "goversion", runtime.Version())
	e.gauge("weir_policy_generation", "Number of the policy in force.", float64(st.generation))
	e.gauge("weir_policy_since_timestamp_seconds", "When the policy in force was put in force.", float64(st.since.UnixNano())/1e9)
	e.gauge("weir_policy_compile_seconds", "How long the policy in force took to compile.", st.took.Seconds())
	e.gauge("weir_policy_rules", "Different rules in force, of all lists.", float64(g.store.Load().Rules()))
	for _, l := range st.lists {
		if !l.Enabled {
			continue
		}
		e.gauge("weir_list_rules", "Rules loaded of a list.", float64(l.Rules), "list", l.Name, "ban", l.Ban)
		if l.Report == nil {
			continue
		}
		for reason, n := range l.Report.Skips {
			e.gauge("weir_list_skipped", "Entries of a list that were not used, by reason.", float64(n),
				"list", l.Name, "ban", l.Ban, "reason", string(reason))
		}
	}
	e.counter("weir_reloads_total", "Reloads by result.", float64(g.counts.ok.Load()), "result", "success")
	e.counter("weir_reloads_total", "Reloads by result.", float64(g.counts.failed.Load()), "result", "failure")
	ok := 1.0
	if g.counts.lastError.Load() != nil {
		ok = 0
	}
	e.gauge("weir_reload_last_successful", "Whether the latest reload succeeded.", ok)
	e.gauge("weir_reload_last_success_timestamp_seconds", "When a policy was last loaded with success.", float64(g.counts.lastOK.Load())/1e9)
}

// An emitter sends metrics; labels alternate names and values.
type emitter struct{ ch chan<- prometheus.Metric }

func (e emitter) counter(name, help string, v float64, labels ...string) {
	e.emit(prometheus.CounterValue, name, help, v, labels)
}

func (e emitter) gauge(name, help string, v float64, labels ...string) {
	e.emit(prometheus.GaugeValue, name, help, v, labels)
}

func (e emitter) emit(t prometheus.ValueType, name, help string, v float64, labels []string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	e.ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), t, v, values...)
}
