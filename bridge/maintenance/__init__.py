"""Long jobs behind commands: CSV import, replay and audit of streams, predictions. None runs in the service."""
