"""Is this gateway fit to be left alone? What must work, in order, and what to do where it does not.

    order ──► disk, clock, broker (mosquitto: why not), devices, service (tls: why not) ──► CheckResult

Flows in: the settings' file; the machine, as a `Machine`; the status document of the gateway, where one runs. Flows
out: `CheckResult`s, one after the other. Nothing is written and nothing made, no code and no message of a device is
spent: whoever runs it, as root or not, finds everything as it was. What a user may not see is told as such, never as a
fault.
"""

from edge.check.machine import Machine
from edge.check.order import look
from edge.check.result import CheckResult

__all__ = ["CheckResult", "Machine", "look"]
