"""The worker loop of a consumer group, and the consumers that come with the bridge.

Flows in: stream entries. Flows out: notifications, decisions, predictions. Authors of consumers import `api` alone.
"""
