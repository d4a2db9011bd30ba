"""Metrics of the gateway's own parts, beside the pipeline's (bridge/telemetry.py).

docs/spool.md lists those of the spool, docs/gateway-operations.md the others (held by a test).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
REQUEST_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class SpoolMetrics:
    """Holds every metric of the spool."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = registry or CollectorRegistry()
        self.records = Gauge("iot_edge_spool_records", "Records in the spool.", registry=r)
        self.bytes = Gauge("iot_edge_spool_bytes", "Bytes of the spool in use on disk, with its log.", registry=r)
        self.limit = Gauge("iot_edge_spool_limit_bytes", "Bytes the spool may take at the moment.", registry=r)
        self.shed = Counter(
            "iot_edge_spool_shed_total",
            "Records shed, by reason: full, age, quarantine (over its share).",
            ["reason"],
            registry=r,
        )
        self.delivered = Counter(
            "iot_edge_spool_delivered_total", "Records handed over, by what the service said.", ["outcome"], registry=r
        )
        self.lost = Counter("iot_edge_spool_lost_total", "Records that were unreadable.", registry=r)
        self.set_aside = Counter("iot_edge_spool_set_aside_total", "Damaged spools set aside.", registry=r)
        self.recovered = Counter("iot_edge_spool_salvaged_total", "Records recovered from damaged spools.", registry=r)
        self.commit = Histogram(
            "iot_edge_spool_commit_seconds", "Time of a durable commit.", buckets=COMMIT_BUCKETS_S, registry=r
        )
        self.checkpoint = Histogram(
            "iot_edge_spool_checkpoint_seconds",
            "Time to write the log back into the file.",
            buckets=COMMIT_BUCKETS_S,
            registry=r,
        )


class UplinkMetrics:
    """Holds every metric of the uplink."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = registry or CollectorRegistry()
        self.up = Gauge("iot_edge_uplink_up", "1 while the service takes what it is sent.", registry=r)
        self.records = Counter(
            "iot_edge_uplink_records_total",
            "Records handed over, by lane (live, backlog) and what the service said.",
            ["lane", "outcome"],
            registry=r,
        )
        self.request = Histogram(
            "iot_edge_uplink_request_seconds",
            "Time from a batch to its answer.",
            ["lane"],
            buckets=REQUEST_BUCKETS_S,
            registry=r,
        )
        self.failures = Counter("iot_edge_uplink_failures_total", "Failed tries, by reason.", ["reason"], registry=r)
        self.splits = Counter("iot_edge_uplink_splits_total", "Batches made smaller by refusals.", registry=r)
        self.eta = Gauge(
            "iot_edge_uplink_backlog_eta_seconds", "Until the backlog is gone, at the present rate.", registry=r
        )


class RegistryMetrics:
    """Holds every metric of the registry snapshot."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = registry or CollectorRegistry()
        self.refused = Counter(
            "iot_edge_registry_refused_total",
            "Registry snapshots refused, by reason: unsigned, malformed, older (than one that was seen).",
            ["reason"],
            registry=r,
        )


class SiteMetrics:
    """Holds every metric of the site's own streams."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = registry or CollectorRegistry()
        self.active = Gauge("iot_edge_alerts_active", "Sensors in alert by the gateway's own judgement.", registry=r)
        self.alerts = Counter("iot_edge_alerts_total", "Local alert events, by kind.", ["kind"], registry=r)
        self.missed = Counter(
            "iot_edge_site_missed_total",
            "What local subscribers missed, by where: broker (readings), mqtt (alerts).",
            ["where"],
            registry=r,
        )
