"""The gateway: the service's doors and pipeline over a spool on its own disk, and the uplink to the service."""
