# SPDX-License-Identifier: Apache-2.0
"""What changed between two audits."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

from msgspec import Struct

from donjon.audit.judge import Result
from donjon.audit.verdict import Status


class Change(enum.Enum):
    """How a result differs from the one before."""

    NEW = "new"
    FIXED = "fixed"
    UNCHANGED = "unchanged"
    CHANGED_EVIDENCE = "changed evidence"
    LOST_VISIBILITY = "lost visibility"
    GONE = "gone"


class Changed(Struct, frozen=True):
    """A result that fails or failed, or that cannot be seen any more. `before` or `now` is None if there was none."""

    change: Change
    before: Result | None
    now: Result | None

    @property
    def result(self) -> Result:
        """The newer one."""
        result = self.now or self.before
        assert result is not None
        return result


def compare(before: Iterable[Result], now: Iterable[Result]) -> tuple[Changed, ...]:
    """The results that fail, failed, or were seen and are not any more; in the order of `now`, then what is gone."""
    return tuple(_compare(dict(_by_fingerprint(before)), dict(_by_fingerprint(now))))


def _by_fingerprint(results: Iterable[Result]) -> Iterator[tuple[str, Result]]:
    """The worst of those of the same fingerprint."""
    order = (Status.NOT_APPLICABLE, Status.PASS, Status.MANUAL, Status.UNKNOWN, Status.FAIL)
    for result in sorted(results, key=lambda one: order.index(one.status)):
        yield result.fingerprint, result


def _compare(before: dict[str, Result], now: dict[str, Result]) -> Iterator[Changed]:
    for fingerprint, result in now.items():
        old = before.get(fingerprint)
        change = _change(old, result)
        if change is not None:
            yield Changed(change, old, result)
    for fingerprint, old in before.items():
        if fingerprint not in now and old.status is Status.FAIL:
            yield Changed(Change.GONE, old, None)


def _change(old: Result | None, now: Result) -> Change | None:
    failed_before = old is not None and old.status is Status.FAIL
    if now.status is Status.FAIL:
        if not failed_before:
            return Change.NEW
        same = old is not None and old.evidence_digest == now.evidence_digest
        return Change.UNCHANGED if same else Change.CHANGED_EVIDENCE
    if now.status is Status.UNKNOWN and old is not None and old.status in {Status.PASS, Status.FAIL}:
        return Change.LOST_VISIBILITY
    return Change.FIXED if failed_before else None
