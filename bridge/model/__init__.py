"""What flows through the bridge, frozen and without I/O: readings, deliveries, receipts, notifications, predictions."""
