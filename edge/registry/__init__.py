"""What a gateway knows of devices, sensors, keys and thresholds: the snapshot, and keeping it up to date."""
