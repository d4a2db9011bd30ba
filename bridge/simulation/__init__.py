"""Simulated devices, the demo and its signals: for development and tests."""
