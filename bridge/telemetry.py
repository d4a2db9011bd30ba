"""Metrics, by one registry per process. Names are stable; docs/metrics.md lists them (held by a test).

`Metrics` is made once in the process's wiring and handed to each part.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0)
"""Of latencies that count from the time of measurement: a gateway's backlog is days old."""
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


class Metrics:
    """Every metric of a bridge process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        r = self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=r)  # memory, CPU and open files of this process: process_*
        self.readings = Counter(
            "iot_bridge_readings_total", "Readings settled, by door and outcome.", ["source", "outcome"], registry=r
        )
        self.received = Counter(
            "iot_bridge_received_total", "Readings received at the door, before settlement.", ["source"], registry=r
        )
        self.quarantined = Counter(
            "iot_bridge_quarantined_total", "Readings quarantined, by reason code.", ["code"], registry=r
        )
        self.thinned = Counter(
            "iot_bridge_thinned_total",
            "Of the quarantined, those whose bytes a full quarantine has not kept, by reason code.",
            ["code"],
            registry=r,
        )
        self.quarantine_rows = Gauge("iot_bridge_quarantine_rows", "Rows in quarantine.", registry=r)
        self.quarantine_bytes = Gauge("iot_bridge_quarantine_bytes", "Bytes in quarantine, as they came.", registry=r)
        self.batch_size = Histogram(
            "iot_bridge_batch_readings", "Readings in one call of the store.", buckets=SIZE_BUCKETS, registry=r
        )
        self.stage = Histogram(
            "iot_bridge_stage_seconds",
            "Latency by stage: door (receipt to settlement), resolve, store, publish (measured to published).",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=r,
        )
        self.queued = Gauge("iot_bridge_queued_readings", "Readings waiting for the store.", registry=r)
        self.store_up = Gauge("iot_bridge_store_up", "1 when the last call of the store succeeded.", registry=r)
        self.store_errors = Counter("iot_bridge_store_errors_total", "Failed calls of the store.", ["code"], registry=r)
        self.unstorable = Counter(
            "iot_bridge_unstorable_total",
            "Refused by the database in every form, by kind: ledger (a line, set aside), quarantine (a row, failed).",
            ["kind"],
            registry=r,
        )
        self.cache = Counter(
            "iot_bridge_cache_total", "Cache look-ups, by cache and result.", ["cache", "result"], registry=r
        )
        self.cache_size = Gauge("iot_bridge_cache_entries", "Entries in a cache.", ["cache"], registry=r)
        self.limited = Counter("iot_bridge_limited_total", "Requests refused by a limit.", ["limit"], registry=r)
        self.login_failures = Counter(
            "iot_bridge_login_failures_total",
            "Logins refused, by door: http (a key), enrol (a one-time code), hook (its secret), mqtt (an account).",
            ["door"],
            registry=r,
        )
        self.http_requests = Counter(
            "iot_bridge_http_requests_total", "HTTP requests, by route and status.", ["route", "status"], registry=r
        )
        self.http_connections = Gauge("iot_bridge_http_connections", "Open HTTP connections.", registry=r)
        self.http_held = Gauge(
            "iot_bridge_http_held_bytes",
            "Bytes held: of bodies until they are stored; of what came without a key (heads, unread answers).",
            ["of"],
            registry=r,
        )
        self.mqtt_connected = Gauge("iot_bridge_mqtt_connected", "1 while the MQTT session is up.", registry=r)
        self.mqtt_inflight = Gauge("iot_bridge_mqtt_inflight", "MQTT messages held unacknowledged.", registry=r)
        self.mqtt_messages = Counter(
            "iot_bridge_mqtt_messages_total",
            "MQTT messages by format (native: our own topics) and outcome: readings, refused, unknown, nothing.",
            ["format", "outcome"],
            registry=r,
        )
        self.mqtt_unknown_fields = Counter(
            "iot_bridge_mqtt_unknown_fields_total",
            "Fields of MQTT messages that no converter takes, by format and channel; beyond 200 channels (other).",
            ["format", "channel"],
            registry=r,
        )
        self.ignored_fields = Counter(
            "iot_bridge_ignored_fields_total",
            "Messages with fields that nobody reads, by door; the log names the fields (fields_ignored).",
            ["source"],
            registry=r,
        )
        self.mqtt_reconnects = Counter("iot_bridge_mqtt_reconnects_total", "MQTT reconnects.", registry=r)
        self.mqtt_contested = Gauge(
            "iot_bridge_mqtt_contested", "1 while another client takes our client id at the broker.", registry=r
        )
        self.mqtt_refused = Gauge(
            "iot_bridge_mqtt_refused",
            "Topics that the broker refuses us, as far as it tells: to publish to, or to subscribe to.",
            registry=r,
        )
        self.mqtt_withheld = Counter(
            "iot_bridge_mqtt_withheld_total",
            "Publications held back, since the broker hangs up at them, by kind of topic.",
            ["topic"],
            registry=r,
        )
        self.mqtt_taken_over = Counter(
            "iot_bridge_mqtt_taken_over_total",
            "Times that another client seemed to connect with our client id.",
            registry=r,
        )
        self.commands = Counter(
            "iot_bridge_commands_total",
            "Commands to devices, by what happened: published, unreachable, result, unknown_result.",
            ["event"],
            registry=r,
        )
        self.outbox_depth = Gauge("iot_bridge_outbox_batches", "Batches in the outbox not yet published.", registry=r)
        self.outbox_age = Gauge("iot_bridge_outbox_age_seconds", "Age of the oldest unpublished batch.", registry=r)
        self.relay_queued = Gauge(
            "iot_bridge_relay_queued_readings", "Readings held in memory for publishing.", registry=r
        )
        self.published = Counter("iot_bridge_published_total", "Events published, by stream.", ["stream"], registry=r)
        self.alerts = Counter(
            "iot_bridge_alerts_total", "Alert events, by kind: alert, warning, resolved.", ["kind"], registry=r
        )
        self.throttled = Counter("iot_bridge_throttled_total", "Readings the throttle kept off the stream.", registry=r)
        self.stream_length = Gauge("iot_bridge_stream_entries", "Entries in a stream.", ["stream"], registry=r)
        self.stream_lag = Gauge(
            "iot_bridge_stream_lag", "Entries not yet handed to a group.", ["stream", "group"], registry=r
        )
        self.stream_dropped = Counter(
            "iot_bridge_stream_dropped_total",
            "Entries trimmed before a group had read them, by stream and group.",
            ["stream", "group"],
            registry=r,
        )
        self.stream_pending = Gauge(
            "iot_bridge_stream_pending",
            "Entries handed to a group and not acknowledged.",
            ["stream", "group"],
            registry=r,
        )
        self.stream_pending_age = Gauge(
            "iot_bridge_stream_pending_age_seconds",
            "How long ago the oldest pending entry of a group was added to the stream.",
            ["stream", "group"],
            registry=r,
        )
        self.consumer_events = Counter(
            "iot_bridge_consumer_events_total",
            "Events settled by a consumer, by outcome: handled, repeated (handled before), dead (given up).",
            ["stream", "group", "outcome"],
            registry=r,
        )
        self.consumer_retries = Counter(
            "iot_bridge_consumer_retries_total", "Times a consumer tried again.", ["stream", "group"], registry=r
        )
        self.consumer_claimed = Counter(
            "iot_bridge_consumer_claimed_total",
            "Entries taken over from consumers that gave no sign of life.",
            ["stream", "group"],
            registry=r,
        )
        self.consumer_seconds = Histogram(
            "iot_bridge_consumer_batch_seconds",
            "Time in which a consumer handled a batch.",
            ["stream", "group"],
            buckets=LATENCY_BUCKETS_S,
            registry=r,
        )
        self.notifications = Counter(
            "iot_bridge_notifications_total", "Notifications recorded, to be sent or suppressed.", [], registry=r
        )
        self.deliveries = Counter(
            "iot_bridge_deliveries_total",
            "Messages a channel was handed, by outcome: sent, failed (and tried again).",
            ["channel", "outcome"],
            registry=r,
        )
        self.decisions = Counter(
            "iot_bridge_decisions_total",
            "Decisions: escalate, de_escalate, device_offline, device_back, flapping_suppressed.",
            ["decision"],
            registry=r,
        )
        self.predictions = Counter(
            "iot_bridge_predictions_total", "Predictions written, by kind: forecast, anomaly.", ["kind"], registry=r
        )
        self.latency = Histogram(
            "iot_bridge_latency_seconds",
            "Sampled latency of readings: measured_to_stored, stored_to_published.",
            ["stage"],
            buckets=LONG_BUCKETS_S,
            registry=r,
        )
        self.consumer_latency = Histogram(
            "iot_bridge_consumer_latency_seconds",
            "Sampled latency of events at a consumer: published_to_handled, measured_to_handled.",
            ["stream", "group", "stage"],
            buckets=LONG_BUCKETS_S,
            registry=r,
        )
        self.ledger_imbalance = Gauge(
            "iot_bridge_ledger_imbalance",
            "Readings missing from the ledger: received -"
            " (stored + duplicate + quarantined + thinned + returned + pending).",
            registry=r,
        )
