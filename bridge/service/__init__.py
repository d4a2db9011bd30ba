"""The service's process: `app` wires it, `core` is what lies behind the doors, `housekeeping` what runs beside them."""
