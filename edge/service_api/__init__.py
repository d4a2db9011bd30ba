"""The service as a gateway reaches it: one HTTP client, the transport of batches, enrolment."""
