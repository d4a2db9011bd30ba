"""Delivers what is spooled to the service: lanes, batches, retries; `direct` goes to database and streams."""
