"""Publishes to streams and reads them in consumer groups: in memory or on Redis, throttled or split; the outbox relay.

Flows in: publications of committed batches. Flows out: stream entries. Persists no readings.
"""
