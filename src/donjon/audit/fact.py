# SPDX-License-Identifier: Apache-2.0
"""What is known of a host: every value with its source; what could not be seen is not mistaken for what is absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, Union

from msgspec import Struct

T = TypeVar("T")
U = TypeVar("U")


class Known(Struct, Generic[T], frozen=True, tag="known"):
    """It was seen; `source` says where: "cmd/NAME" for a probe, or a path on the host."""

    value: T
    source: str


class Absent(Struct, frozen=True, tag="absent"):
    """It was looked for and is not there; `source` says where it was looked for."""

    source: str


class Unknown(Struct, frozen=True, tag="unknown"):
    """It could not be seen: the probe timed out, was refused or was never made, or its answer cannot be understood."""

    reason: str


Fact = Union[Known[T], Absent, Unknown]  # noqa: UP007 -- an alias with a type variable needs Union before Python 3.12


class Unseen(Exception):  # noqa: N818 -- not an error of the program: the judge makes a result of it
    """A rule asked for something that is not known; its result is unknown."""


class _Nothing:
    """Stands for "no default"."""


_NOTHING = _Nothing()


def need(fact: Fact[T], absent: T | _Nothing = _NOTHING) -> T:
    """The value of a fact; `absent` if it was looked for and is not there.

    Raises:
        Unseen: it is not known; or it is absent, and no `absent` was given.
    """
    match fact:
        case Known(value):
            return value
        case Absent(source):
            if isinstance(absent, _Nothing):
                raise Unseen(f"not there: {source}")
            return absent
        case Unknown(reason):
            raise Unseen(reason)


def derived(fact: Fact[T], parse: Callable[[T], U]) -> Fact[U]:
    """What `parse` makes of a fact; unknown if it raises ValueError or LookupError, which is: cannot be understood."""
    if not isinstance(fact, Known):
        return fact
    try:
        return Known(parse(fact.value), fact.source)
    except (ValueError, LookupError) as error:
        return Unknown(f"{fact.source} cannot be understood: {error}")


def first_known(*facts: Fact[T]) -> Fact[T]:
    """The first that is known; else Unknown if one of them is, else Absent."""
    for fact in facts:
        if isinstance(fact, Known):
            return fact
    unknown = [fact for fact in facts if isinstance(fact, Unknown)]
    return unknown[0] if unknown else facts[-1]
