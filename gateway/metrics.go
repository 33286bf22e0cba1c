package gateway

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/dnsserver"
	"github.com/weir-gateway/weir/gateway/proxy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/vpn"
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
	c.g.feeds.metrics(e, time.Now())
	c.planes(e)
	c.zone(e)
	c.g.certs.metrics(e)
	if c.g.tap != nil {
		st := c.g.tap.Stats()
		e.counters("weir_dnstap_messages_total", "Messages for the dnstap collector, by fate.", "fate",
			series{"written", st.Written}, series{"dropped", st.Dropped}, series{"failed", st.Failed})
		connected := 0.0
		if st.Connected {
			connected = 1
		}
		e.gauge("weir_dnstap_connected", "Whether the dnstap collector is there.", connected)
	}
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
	e.counter("weir_generation_write_failures_total", "Policies in force that could not be written to disk, at each try.", float64(g.counts.unkept.Load()))
	e.gauge("weir_policy_held", "The generation that a rollback went back to and that is held, 0 for none.", float64(g.Status().Held))
	canary, running := "", 0.0
	if st.canary != nil {
		canary, running = st.canary.Group, 1
		e.gauge("weir_policy_canary_since_timestamp_seconds", "When the group began to go ahead.", float64(st.canary.Since.UnixNano())/1e9, "group", canary)
		e.gauge("weir_policy_canary_rules", "Different rules in force for the group that goes ahead.", float64(st.canary.Rules), "group", canary)
	}
	e.gauge("weir_policy_canary", "Whether a group goes ahead of all others, and which.", running, "group", canary)
	ok := 1.0
	if g.lastError() != "" {
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

func (e emitter) histogram(name, help string, l *dnsserver.Latency) {
	total, buckets := uint64(0), make(map[float64]uint64, len(l.Bounds))
	for i, n := range l.Buckets {
		total += n
		if i < len(l.Bounds) {
			buckets[l.Bounds[i].Seconds()] = total
		}
	}
	e.ch <- prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, []string{"transport", "outcome"}, nil),
		total, l.Sum.Seconds(), buckets, l.Transport, l.Outcome)
}

// planes renders what the planes and the resolver count.
func (c collector) planes(e emitter) {
	if c.g.dns != nil {
		dnsMetrics(e, c.g.dns.Stats())
		for _, l := range c.g.dns.Latency() {
			e.histogram("weir_dns_duration_seconds", "How long questions took, by transport and what became of them; what the fast path answers is not timed, but in the first bucket.", &l)
		}
	}
	if c.g.proxy != nil {
		proxyMetrics(e, c.g.proxy.Stats())
		if len(c.g.TransparentAddrs()) > 0 {
			transparentMetrics(e, c.g.proxy.TransparentStats())
		}
		if len(c.g.proxy.QUICAddrs()) > 0 {
			quicMetrics(e, c.g.proxy.QUICStats())
		}
	}
	resolverMetrics(e, c.g.resolver.p.Load().Stats())
	answerFileMetrics(e, c.g.answers)
	history := c.g.resolver.history.Stats()
	e.gauge("weir_resolver_history_names", "Names whose addresses are remembered.", float64(history.Names))
	e.gauge("weir_resolver_history_addresses", "Addresses that are remembered, and names that lead to others.", float64(history.Given))
	e.counter("weir_resolver_history_evicted_total", "Names that were forgotten to make room.", float64(history.Evicted))
	recordMetrics(e, &c.g.record)
	if c.g.admin != nil {
		adminMetrics(e, c.g.admin.Stats())
	}
	if c.g.vpn != nil {
		vpnMetrics(e, c.g.vpn.Stats())
	}
}

func vpnMetrics(e emitter, st vpn.Stats) {
	ok, foreign := 1.0, 0.0
	if st.LastError != "" {
		ok = 0
	}
	if st.Foreign {
		foreign = 1
	}
	e.gauge("weir_vpn_generation", "Number of the policy that the packet filter has, 0 for none.", float64(st.Generation))
	e.gauge("weir_vpn_set_elements", "Elements of the packet filter's sets.", float64(st.Elements))
	e.gauge("weir_vpn_last_successful", "Whether the packet filter is kept equal to the policy.", ok)
	e.gauge("weir_vpn_foreign_rules", "Whether the rules are those of another weir vpn apply, and only the sets are kept.", foreign)
	if !st.Synced.IsZero() {
		e.gauge("weir_vpn_synced_timestamp_seconds", "When packet filter and policy were last known to be equal.", float64(st.Synced.UnixNano())/1e9)
	}
	e.counters("weir_vpn_transactions_total", "Changes of the packet filter, by cause and result.", "cause",
		series{"policy", st.Updates}, series{"repair", st.Repairs}, series{"failure", st.Failures})
	e.gauge("weir_vpn_peers", "WireGuard peers that are known.", float64(st.Peers))
}

// A series is one value of a counter with a label.
type series struct {
	label string
	value uint64
}

func (e emitter) counters(name, help, label string, values ...series) {
	for _, v := range values {
		e.counter(name, help, float64(v.value), label, v.label)
	}
}

func dnsMetrics(e emitter, st dnsserver.Stats) {
	e.counters("weir_dns_messages_total", "DNS messages received, by transport.", "transport",
		series{"udp", st.UDP}, series{"tcp", st.TCP}, series{"dot", st.DoT}, series{"doh", st.DoH},
		series{"doh3", st.DoH3}, series{"doq", st.DoQ})
	e.counters("weir_dns_udp_calls_total", "System calls that moved UDP messages, by direction.", "direction",
		series{"read", st.UDPReads}, series{"write", st.UDPWrites})
	e.counters("weir_dns_questions_total", "Questions, by the verdict that they were answered under.", "action",
		series{"block", st.Blocked}, series{"report", st.Reported}, series{"allow", st.Allowed}, series{"undecided", st.Undecided})
	e.counters("weir_dns_answers_total", "Questions that were not blocked, by where their answer came from.", "origin",
		series{"cache", st.Cached}, series{"upstream", st.Forwarded}, series{"synthesized", st.Synthesized},
		series{"failed", st.Failed}, series{"overloaded", st.Overloaded})
	e.counter("weir_dns_rejected_total", "Messages answered with a protocol error and no judgement.", float64(st.Rejected))
	e.counter("weir_dns_rejudged_total", "Questions judged again because the policy changed before the reply was written.", float64(st.Rejudged))
	e.counter("weir_dns_limit_slips_total", "Questions beyond a limit that were answered with TC.", float64(st.Slipped))
	e.counter("weir_dns_limit_waits_total", "Questions over connections that had to wait, because their client was beyond a limit.", float64(st.Paced))
	e.counter("weir_dns_limit_misses_total", "Questions that no limit could be applied to, because too many asked at once.", float64(st.Unlimited))
	e.counters("weir_dns_cookies_total", "DNS cookies of clients, by what they were worth.", "cookie",
		series{"new", st.CookiesNew}, series{"valid", st.CookiesValid}, series{"bad", st.CookiesBad})
	e.counter("weir_dns_truncated_total", "Replies that were truncated.", float64(st.Truncated))
	for reason, n := range st.Dropped {
		e.counter("weir_dns_dropped_total", "Messages without a reply and connections cut off, by reason.", float64(n), "reason", reason)
	}
	for rcode, n := range st.Rcodes {
		e.counter("weir_dns_replies_total", "Replies, by response code.", float64(n), "rcode", rcode)
	}
	e.gauge("weir_dns_inflight", "Questions that wait for the resolver.", float64(st.Inflight))
	for transport, n := range map[string]int64{"tcp": st.Conns, "dot": st.ConnsDoT, "doh": st.ConnsDoH, "doh3": st.ConnsDoH3, "doq": st.ConnsDoQ} {
		e.gauge("weir_dns_connections", "Connections that are open, by transport.", float64(n), "transport", transport)
	}
	e.counter("weir_dns_connections_accepted_total", "Connections accepted.", float64(st.Accepted))
}

func proxyMetrics(e emitter, st proxy.Stats) {
	e.counters("weir_proxy_requests_total", "Requests to the proxy, by outcome.", "outcome",
		series{"malformed", st.Malformed}, series{"blocked", st.Blocked}, series{"denied", st.Denied},
		series{"undecided", st.Undecided}, series{"failed", st.Failed}, series{"forwarded", st.Forwarded},
		series{"tunnel", st.TunnelsOpened}, series{"panic", st.Panics})
	e.gauge("weir_proxy_connections", "Client connections that are open.", float64(st.Conns))
	e.counter("weir_proxy_connections_accepted_total", "Client connections accepted.", float64(st.Accepted))
	e.counters("weir_proxy_refused_total", "Connections and tunnels refused because there were too many.", "what",
		series{"connection", st.RefusedConns}, series{"tunnel", st.RefusedTunnels})
	e.gauge("weir_proxy_tunnels", "Tunnels that are open.", float64(st.Tunnels))
	e.counters("weir_proxy_tunnels_cut_total", "Tunnels that the gateway ended, by reason.", "reason",
		series{"policy", st.CutByPolicy}, series{"idle", st.CutIdle}, series{"drain", st.CutAtDrain})
	for _, h := range st.Hellos {
		e.counter("weir_proxy_hellos_total", "Beginnings of tunnels, by what policy said to them.", float64(h.Count),
			"reason", h.Reason.String(), "action", h.Action.String())
	}
	e.counters("weir_proxy_tunnel_bytes_total", "Bytes through tunnels, by direction.", "direction",
		series{"to_origin", st.BytesToOrigin}, series{"from_origin", st.BytesFromOrigin})
}

func transparentMetrics(e emitter, st proxy.TransparentStats) {
	e.counters("weir_transparent_connections_total", "Connections that the packet filter brought, by what they began with.", "protocol",
		series{"tls", st.TLS}, series{"http", st.HTTP}, series{"unknown", st.Unknown})
	e.counters("weir_transparent_refused_total", "Connections to a transparent listener that nothing was done for, by reason.", "reason",
		series{"ended", st.Abandoned}, series{"direct", st.Direct}, series{"limit", st.RefusedPeeks})
	e.counter("weir_transparent_unseen_total", "Exchanges with a name at an address that the gateway never gave for it.", float64(st.Unseen))
	e.gauge("weir_transparent_peeking", "Connections of which it is not known yet what they are.", float64(st.Peeking))
}

func resolverMetrics(e emitter, st resolver.Stats) {
	e.counters("weir_resolver_cache_total", "Questions to the answer cache, by result.", "result",
		series{"hit", st.Hits}, series{"miss", st.Misses})
	e.counter("weir_resolver_local_total", "Questions that were answered from local data.", float64(st.Local))
	e.gauge("weir_resolver_cache_entries", "Answers in the cache.", float64(st.Entries))
	e.gauge("weir_resolver_cache_bytes", "Bytes that the answers in the cache take, about.", float64(st.Bytes))
	e.counter("weir_resolver_stale_total", "Answers given though their TTL was over.", float64(st.Stale))
	e.counters("weir_resolver_prefetch_total", "Popular answers near their end, by whether they were fetched anew.", "result",
		series{"fetched", st.Prefetched}, series{"denied", st.Unfetched})
	e.counter("weir_resolver_failures_cached_total", "Questions that failed as they had a moment before, without asking again.", float64(st.Refailed))
	e.counter("weir_resolver_cache_evicted_total", "Answers that left the cache to make room.", float64(st.Evicted))
	e.counter("weir_resolver_filtered_total", "Answers that private addresses were taken out of.", float64(st.Filtered))
	e.counter("weir_resolver_coalesced_total", "Questions that shared an exchange under way.", float64(st.Coalesced))
	e.counter("weir_resolver_busy_total", "Questions refused because too many were under way.", float64(st.Busy))
	e.counter("weir_resolver_failed_total", "Exchanges in which no upstream answered.", float64(st.Failed))
	e.gauge("weir_resolver_inflight", "Exchanges under way.", float64(st.InFlight))
	e.counters("weir_resolver_responses_ignored_total", "Upstream responses that were not used, by reason.", "reason",
		series{"mismatched", st.Mismatched}, series{"malformed", st.Malformed}, series{"truncated", st.Truncated}, series{"doubted", st.Doubted})
	e.counter("weir_resolver_hedge_wins_total", "Second queries whose answer came before the first one's.", float64(st.HedgeWins))
	e.counter("weir_resolver_hedges_denied_total", "Second queries that were not sent, because there had been too many.", float64(st.Unhedged))
	for _, u := range st.Upstreams {
		healthy := 0.0
		if u.Healthy {
			healthy = 1
		}
		e.gauge("weir_upstream_healthy", "Whether the upstream is asked in its turn.", healthy, "upstream", u.Address)
		e.counter("weir_upstream_queries_total", "Queries sent to the upstream.", float64(u.Queries), "upstream", u.Address)
		e.counter("weir_upstream_failures_total", "Tries without a usable response.", float64(u.Failures), "upstream", u.Address)
		e.counter("weir_upstream_late_total", "Tries without a response when it was time to ask another upstream.", float64(u.Late), "upstream", u.Address)
		e.counter("weir_upstream_hedges_total", "Queries that the upstream got because another was late.", float64(u.Hedges), "upstream", u.Address)
		e.counter("weir_upstream_probes_total", "Questions of our own to the upstream, while it was down.", float64(u.Probes), "upstream", u.Address)
		e.counter("weir_upstream_down_total", "Times that the upstream went down.", float64(u.Opened), "upstream", u.Address)
		e.gauge("weir_upstream_rtt_seconds", "Smoothed round-trip time.", u.RTT.Seconds(), "upstream", u.Address)
	}
}

func adminMetrics(e emitter, st admin.Stats) {
	e.counters("weir_admin_requests_total", "Requests to the admin API, by outcome.", "outcome",
		series{"done", st.Done}, series{"refused", st.Refused}, series{"unauthenticated", st.Unauthenticated},
		series{"forbidden", st.Forbidden}, series{"limited", st.Limited}, series{"failed", st.Failed})
}

func quicMetrics(e emitter, st proxy.QUICStats) {
	e.counter("weir_quic_connections_total", "QUIC connections that were judged.", float64(st.Connections))
	e.counter("weir_quic_refused_total", "QUIC connections that were refused.", float64(st.Refused))
	e.gauge("weir_quic_paths", "Pairs of a device and an address between which QUIC is, or was tried.", float64(st.Paths))
	e.counters("weir_quic_dropped_total", "Datagrams that were not passed on, by reason.", "reason",
		series{"stray", st.Stray}, series{"unreadable", st.Unread}, series{"overflow", st.Overflow},
		series{"direct", st.Direct}, series{"limit", st.Beyond}, series{"unsent", st.Unsent})
}

func recordMetrics(e emitter, r *recorder) {
	head := r.head()
	if head == nil {
		return
	}
	ok := 1.0
	if r.bad.Load() || r.damaged.Load() {
		ok = 0
	}
	// The hash is there to be noted elsewhere: against it, a record that was cut
	// off is found.
	e.gauge("weir_ledger_entries", "Entries of the record of changes, with the hash of the last.", float64(head.Seq), "head", head.Hash)
	e.gauge("weir_ledger_last_successful", "Whether the record of changes verified, and took the latest change.", ok)
	e.counter("weir_ledger_failures_total", "Changes that are not on the record.", float64(r.failed.Load()))
	e.counter("weir_ledger_denials_coalesced_total", "Denied requests to the admin API that are on the record in numbers only, because there were many.", float64(r.denials.coalesced.Load()))
}
