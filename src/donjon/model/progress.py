# SPDX-License-Identifier: Apache-2.0
"""How long work tells whoever waits for it how it goes on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told of one thing after the other, and how much of each is done."""

    def begin(self, what: str, total: int) -> None:
        """`what` begins: so many bytes to deal with."""
        ...

    def advance(self, done: int) -> None:
        """So many more bytes are dealt with."""
        ...


class NoProgress:
    """For whoever does not wait."""

    def begin(self, what: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""
