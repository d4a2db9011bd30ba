"""Metrics of the gateway's own parts, beside the pipeline's (bridge/telemetry.py). docs/spool.md lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class SpoolMetrics:
    """Every metric of the spool."""

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
        self.salvaged = Counter("iot_edge_spool_salvaged_total", "Records recovered from damaged spools.", registry=r)
        self.commit = Histogram(
            "iot_edge_spool_commit_seconds", "Time of a durable commit.", buckets=COMMIT_BUCKETS_S, registry=r
        )
        self.checkpoint = Histogram(
            "iot_edge_spool_checkpoint_seconds",
            "Time to write the log back into the file.",
            buckets=COMMIT_BUCKETS_S,
            registry=r,
        )
