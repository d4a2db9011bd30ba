"""The one error root. A leaf: imports nothing of ours.

Attributes decide what happens next, never the text: `retryable` says whether the same input may
succeed later, `http_status` what an HTTP client is told, `code` is the stable reason code.
"""

from __future__ import annotations

from typing import ClassVar


class BridgeError(Exception):
    """Root of every error this project raises on purpose."""

    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class DecodeError(BridgeError):
    """Bytes that are not of the form their door or topic promises."""

    http_status = 422
    code = "bad_form"

    def __init__(self, reason: str, detail: str, *, where: str = "$") -> None:
        super().__init__(detail)
        self.reason = reason  # a value of reading.Code
        self.where = where  # JSON path of the offending field, "$" for the whole

    def bare(self) -> DecodeError:
        """The same, to be kept for a while: without the frames and errors that hold the bytes and what came of them."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


class Unavailable(BridgeError):
    """A part we need is away for now; the sender should come again after `retry_after_s`.

    `told` is what anybody may read of it, where `detail` may name hosts and users.
    """

    retryable = True
    http_status = 503
    code = "unavailable"

    def __init__(self, detail: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.told = detail
        self.retry_after_s = retry_after_s


class StoreUnavailable(Unavailable):
    """The database did not answer.

    `in_doubt` is true when the connection was lost after a batch was sent: it may have been
    committed. `Store.was_committed` settles the doubt once the database is back.
    """

    code = "store_unavailable"

    def __init__(self, detail: str, *, in_doubt: bool = False, told: str = "") -> None:
        super().__init__(detail)
        self.in_doubt = in_doubt
        self.told = told or detail


class StoreMisconfigured(StoreUnavailable):
    """The database answers, and refuses us as the settings have us come: password, name, rights, version, pooler.

    Trying again does not help before somebody changes something. A service that starts ends with it; one that runs
    waits as for any database that is away, since a password may be changed on both sides one after the other.
    """

    code = "store_misconfigured"


class InstanceExpired(StoreUnavailable):
    """This process was away for so long that its ledger was closed as that of a dead one.

    What was pending in it was returned. It begins a new one, with what it still holds.
    """


class BrokerUnavailable(Unavailable):
    """The stream broker (Redis) did not answer. Readings go on being stored."""

    code = "broker_unavailable"


class Backpressure(Unavailable):
    """The queue of the pipeline is at its limit."""

    code = "overloaded"


class StoreRefused(BridgeError):
    """The database answered and refuses these rows for good; sending them again cannot help."""

    http_status = 422
    code = "store_refused"


class ConfigError(BridgeError):
    """The configuration has mistakes. `problems` has one line for each of them."""

    code = "bad_config"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
