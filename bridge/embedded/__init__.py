"""Servers that the service brings along, and an MQTT broker: for development, the demo and tests."""
