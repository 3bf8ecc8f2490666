"""Figures in words, as the commands and the page show them."""

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_DURATIONS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def count(number: float, one: str, many: str) -> str:
    """Return a number and what is counted."""
    return f"{number:,.0f} {one if number == 1 else many}"


def duration(seconds: float) -> str:
    """Return a length of time, in at most two units."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    for size_of, unit, size_of_smaller, smaller in _DURATIONS:
        if whole >= size_of:
            rest = whole % size_of // size_of_smaller
            return f"{whole // size_of} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(number: float) -> str:
    """Return a number of bytes in the largest unit of which it has at least one."""
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number /= 1024
        unit += 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"
