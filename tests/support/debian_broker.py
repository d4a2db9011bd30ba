"""The main configuration of Debian's package of Mosquitto, which includes ours, below a root."""

from __future__ import annotations

from pathlib import Path

MAIN = """\
pid_file /run/mosquitto/mosquitto.pid

persistence true
persistence_location /var/lib/mosquitto/

log_dest file /var/log/mosquitto/mosquitto.log

include_dir /etc/mosquitto/conf.d
"""
"""/etc/mosquitto/mosquitto.conf of mosquitto 2.0.11-1.2+deb12u2, without its comments."""


def debian_broker(root: Path) -> Path:
    """Write the main configuration below `root`, and have what `iot-edge install` wrote there name files below it."""
    for folder in ("run/mosquitto", "var/lib/mosquitto", "var/log/mosquitto"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    included = root / "etc/mosquitto/conf.d/iot-edge.conf"
    included.write_text(included.read_text().replace(" /etc/mosquitto/", f" {root}/etc/mosquitto/"))
    main = root / "etc/mosquitto/mosquitto.conf"
    text = MAIN
    for folder in ("/run/", "/var/", "/etc/"):
        text = text.replace(f" {folder}", f" {root}{folder}")
    main.write_text(f"{text}user root\n")
    return main
