# SPDX-License-Identifier: Apache-2.0
"""Verdicts of a rule that looks at several things: one that cannot be seen hides no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from donjon.audit.fact import Unseen
from donjon.audit.verdict import Verdict, unknown


def all_parts(*parts: Iterable[Verdict]) -> Iterator[Verdict]:
    """What each part says, and unknown for one that needs what could not be seen."""
    for part in parts:
        try:
            yield from part
        except Unseen as unseen:
            yield unknown(str(unseen))
