# SPDX-License-Identifier: Apache-2.0
"""Hashes of a guest's files, taken by the guest itself, for a restore drill to compare with.

They are taken before the moment of the restore point and after it. Only files that had the same hash both times are
kept, of guests whose file systems were frozen at that moment: else nobody knows what their disks held.

Source: sha256sum(1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from donjon.errors import HostError
from donjon.hypervisors.agent import GuestAgent
from donjon.model.restore_point import Consistency
from donjon.quiesce.bounded import together, until
from donjon.quiesce.thaw import GRACE_S

_TIMEOUT_S = 30.0
_HASH = re.compile(r"\\?([0-9a-f]{64}) ")


@dataclass(frozen=True, slots=True)
class Sworn:
    """What a guest has found: SHA-256 in hex by path, and why there is none of others, a sentence each."""

    hashes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Witness:
    """Asks guests, before and after."""

    def __init__(self, agent: GuestAgent, paths: Sequence[str]) -> None:
        """`paths` are those in the guests; without any nobody is asked."""
        self._agent = agent
        self._paths = tuple(dict.fromkeys(paths))
        self._before: dict[str, dict[str, str | None]] = {}

    def ask_before(self, uuids: Sequence[str]) -> None:
        """Before file systems are frozen, all guests at a time; takes a minute at most, and raises nothing."""
        asked = together(self._ask, uuids if self._paths else (), _TIMEOUT_S + GRACE_S)
        self._before = {uuid: {} if isinstance(found, HostError) else found for uuid, found in asked.items()}

    def ask_after(self, uuid: str, consistency: Consistency) -> Sworn:
        """After the thaw: what was true in between."""
        before = self._before.get(uuid, {})
        if not before:
            return Sworn()
        if consistency is Consistency.CRASH:
            return Sworn(notes=("no hashes of files were kept: file systems were not frozen",))
        after = self._ask(uuid)
        same = {path: found for path, found in before.items() if found is not None and found == after[path]}
        return Sworn(same, tuple(_reason(path, before[path], after[path]) for path in before if path not in same))

    def _ask(self, uuid: str) -> dict[str, str | None]:
        deadline = time.monotonic() + _TIMEOUT_S
        return {path: self._hash(uuid, path, until(deadline)) for path in self._paths}

    def _hash(self, uuid: str, path: str, timeout_s: float) -> str | None:
        if not timeout_s:
            return None
        try:
            done = self._agent.execute(uuid, ["sha256sum", "--", path], timeout_s=timeout_s)
        except HostError:
            return None
        found = _HASH.match(done.stdout.decode(errors="replace"))
        return found[1] if found and done.exit_code == 0 else None


def _reason(path: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"no hash of {path} was kept: the guest could not tell it"
    return f"no hash of {path} was kept: it was changed while the restore point was taken"
