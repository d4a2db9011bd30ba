"""What one check has found."""

from __future__ import annotations

import msgspec

AS_ROOT = "sudo iot-edge check"


class CheckResult(msgspec.Struct, frozen=True):
    """Says what one check has found, and what to do. `ok` None: nothing to say, or not seen (`needs_root`)."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""
    needs_root: bool = False


def passed(name: str, detail: str, advice: str = "") -> CheckResult:
    """It works."""
    return CheckResult(name, True, detail, advice)


def failed(name: str, detail: str, advice: str) -> CheckResult:
    """It does not work, and this is the one thing to do, or the place to look."""
    return CheckResult(name, False, detail, advice)


def noted(name: str, detail: str, advice: str = "") -> CheckResult:
    """It is not wrong, and somebody should know."""
    return CheckResult(name, None, detail, advice)


def unseen(name: str, detail: str) -> CheckResult:
    """It cannot be seen by this user."""
    return CheckResult(name, None, detail, AS_ROOT, needs_root=True)
