"""Units by name in, a factor and an offset out. Used by commands only: the service multiplies and knows no units."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from bridge.errors import ConfigError

_UNIT = re.compile(r"[°%‰µΩA-Za-z][°%‰µΩA-Za-z0-9²³·/*^ _.-]{0,31}")
HINT = "write units as in °F, psi, inHg, mph, m/s, kWh or m³/h"


@lru_cache(maxsize=1_000)
def conversion(unit_in: str, unit: str) -> tuple[float, float]:
    """(factor, offset): value * factor + offset is in `unit`. Raises ConfigError.

    Exact until the last step, so that 68 °F come out as 20 °C.
    """
    if unit_in == unit:
        return 1.0, 0.0
    for text in (unit_in, unit):
        if not _UNIT.fullmatch(text):  # the library's parser takes arithmetic, and fails in many ways
            raise ConfigError([f"{text[:40]!r} is no unit; {HINT}"])
    at = [_convert(Fraction(value), unit_in, unit) for value in (0, 1, 100)]
    factor, offset = at[1] - at[0], at[0]
    if abs(at[2] - (100 * factor + offset)) > abs(at[2]) * Fraction(1, 10**9):
        raise ConfigError([f"{unit_in} to {unit} is not a factor and an offset"])
    return float(factor), float(offset)


def _convert(value: Fraction, unit_in: str, unit: str) -> Fraction:
    from pint.errors import DimensionalityError, PintError

    registry = _registry()
    try:
        converted = registry.Quantity(value, registry.parse_units(unit_in)).to(registry.parse_units(unit))
        return Fraction(converted.magnitude)
    except DimensionalityError:  # whose own text fails on fractions
        reason = "they measure different things"
    except (PintError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise ConfigError([f"{unit_in} to {unit}: {reason}; {HINT}"])


@lru_cache(maxsize=1)
def _registry() -> Any:
    from pint import UnitRegistry  # a quarter of a second, which only those who convert need to pay

    return UnitRegistry(non_int_type=Fraction, cache_folder=None)
