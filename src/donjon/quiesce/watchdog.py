# SPDX-License-Identifier: Apache-2.0
"""What a backup needs of its watchdog, which looks after the guest when the backup cannot."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Alarm(Protocol):
    """Something the watchdog looks out for."""

    @property
    def fired(self) -> bool:
        """Whether it has happened, and the watchdog has done about it what there is to do."""
        ...


class Watchdog(Protocol):
    """Watches over the guests of one hypervisor from another process, for as long as a backup lasts.

    When the backup dies, it thaws what is frozen, ends what the backup had begun, and settles the ledger.
    """

    def armed(self, uuids: tuple[str, ...], deadline_s: float) -> AbstractContextManager[Alarm]:
        """Have it thaw these guests in `deadline_s`, unless the block ends before. It knows when the block begins.

        Raises:
            HostError: it does not run, or cannot reach the hypervisor.
        """
        ...

    def watching_space(self, uuid: str, scratch: Path, socket: Path, least_free: int) -> AbstractContextManager[Alarm]:
        """Have it give up the guest's backup job, the one with that socket, before `scratch` is full.

        It does so when fewer than `least_free` bytes are left there, or when the guest was paused by an error of its
        disks; then the guest goes on.

        Raises:
            HostError: it does not run, or cannot reach the hypervisor.
        """
        ...
