"""The service: its doors, its pipeline, its stores, its commands and the consumers of its streams."""
