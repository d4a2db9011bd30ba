"""What a gateway does for its own site: local alerts, and the latest values for subscribers there."""
