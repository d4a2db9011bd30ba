"""The machine that a gateway runs on: clock, systemd, files that survive a pulled plug, installation."""
