"""A whole status document, as `edge/web/document.py` makes it, of a gateway that is well."""

from __future__ import annotations

from typing import Any

from edge.web.document import VERSION


def status_document(**changed: Any) -> dict[str, Any]:
    """The document, with these keys at its top."""
    return {
        "gateway": "north",
        "version": VERSION,
        "package": {"installed": "", "candidate": "", "held": False, "reboot_required": False, "update": ""},
        "first_boot": {"state": "", "file": "", "reason": ""},
        "uplink": {
            "up": True, "problem": "", "denied": "", "since_s": 60.0, "retry_in_s": 0.0, "backlog": False,
            "records_per_s": 0.0, "eta_s": 0.0, "refused": [],
        },
        "registry": {"known": True, "problem": ""},
        "spool": {
            "records": 3, "oldest_s": 1.0, "used_bytes": 4_000, "limit_bytes": 2_000_000, "problem": "",
            "shed": {"total": 0}, "lost": 0, "set_aside": [],
        },
        "mqtt": {
            "address": "mqtt://127.0.0.1:1884", "embedded": False, "problem": "", "contested": "", "refused": {},
        },
        "clock": {"set": True, "ahead_s": 0},
        "disk_free_bytes": 10**9,
        "temperature_c": 48.2,
        "devices": [],
        "alerts": [],
        "rejected": {},
        "problems": [],
    } | changed  # fmt: skip
