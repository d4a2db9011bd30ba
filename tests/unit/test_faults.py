"""What the database says, translated once: whose fault it is, in few words."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from bridge.errors import StoreRefused, StoreUnavailable
from bridge.store.faults import translate

CODE = 'CONTEXT:  SQL statement "WITH input AS MATERIALIZED (' + "SELECT " * 1_000


@pytest.mark.parametrize(
    "error",
    [
        errors.CardinalityViolation("a row twice"),
        errors.NumericValueOutOfRange("bigint out of range"),
        errors.ForeignKeyViolation("no such sensor"),
        errors.WithCheckOptionViolation("not in this view"),
        errors.ProgramLimitExceeded("index row size 2712 exceeds btree maximum"),
        errors.RaiseException("a trigger's own words"),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        OverflowError("int too large"),
    ],
)
def test_fault_of_content_is_refused(error: Exception) -> None:
    assert isinstance(translate(error, sent=True), StoreRefused)


@pytest.mark.parametrize(
    "error",
    [
        errors.DeadlockDetected("deadlock"),
        errors.AdminShutdown("shutting down"),
        errors.UndefinedFunction("no ingest_batch_v1"),
        errors.DiskFull("no space"),
        errors.CheckViolation("no partition of relation found for row"),  # its constraint has no name
        psycopg.OperationalError("the connection is lost"),
    ],
)
def test_fault_that_passes_is_unavailable(error: Exception) -> None:
    assert isinstance(translate(error, sent=True), StoreUnavailable)


@pytest.mark.parametrize("kind", [errors.NumericValueOutOfRange, errors.DeadlockDetected])
def test_code_of_procedures_stays_in_the_database(kind: type[psycopg.Error]) -> None:
    fault = translate(kind(f"bigint out of range\n{CODE}"), sent=True)
    assert "WITH input" not in fault.detail
    assert len(translate(kind("long " * 1_000), sent=True).detail) < 400


def test_hosts_and_users_are_for_the_log() -> None:
    fault = translate(psycopg.OperationalError('connection to 10.0.0.5 failed for user "bridge"'), sent=True)
    assert isinstance(fault, StoreUnavailable)
    assert "10.0.0.5" in fault.detail
    assert "10.0.0.5" not in fault.told
