# SPDX-License-Identifier: Apache-2.0
"""Sizes, times and names as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def safe(text: str) -> str:
    r"""What came from outside, fit for a terminal: control characters and the like as \x1b, \n, \u202e."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size(length: float) -> str:
    """Bytes in IEC units: "1.5 GiB"."""
    exponent = 0
    while length >= 1024 and exponent < len(_UNITS) - 1:
        length /= 1024
        exponent += 1
    number = f"{length:.0f}" if exponent == 0 or length >= 100 else f"{length:.1f}"
    return f"{number} {_UNITS[exponent]}"


def moment(time: datetime) -> str:
    """Local time with its zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def utc(time: datetime) -> datetime:
    """For JSON, where times end in Z."""
    return time.astimezone(UTC)


def duration(seconds: float) -> str:
    """A stretch of time: "0.4 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    """A number of things: "1 disk", "2 disks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
