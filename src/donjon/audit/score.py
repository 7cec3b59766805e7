# SPDX-License-Identifier: Apache-2.0
"""One number for how well hosts do; what cannot be seen, or does not apply, never raises it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from donjon.audit.judge import Result
from donjon.audit.verdict import Severity, Status

WEIGHTS = {Severity.CRITICAL: 10, Severity.HIGH: 5, Severity.MEDIUM: 2, Severity.LOW: 1, Severity.INFO: 0}


def score(results: Iterable[Result]) -> float | None:
    """Percent of what could be reached; None if nothing can be said.

    A control on a host counts once, with the weight of its worst severity: as reached if it passes for every subject
    it applies to. Unknown and attested-by-nobody count as not reached; not applicable does not count at all.
    """
    grouped: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.status is not Status.NOT_APPLICABLE:
            grouped[result.host, result.control].append(result)
    reachable = sum(map(_weight, grouped.values()))
    reached = sum(_weight(group) for group in grouped.values() if all(one.status is Status.PASS for one in group))
    return 100 * reached / reachable if reachable else None


def _weight(group: list[Result]) -> int:
    return max(WEIGHTS[one.severity] for one in group)
