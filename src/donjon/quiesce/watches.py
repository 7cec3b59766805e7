# SPDX-License-Identifier: Apache-2.0
"""What the watchdog looks out for, and what it does about it: a deadline that passes, a disk that fills up."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event
from typing import Protocol

from donjon.errors import HostError
from donjon.hypervisors.live_hypervisor import LiveHypervisor
from donjon.model.vm import Power
from donjon.quiesce.bounded import together
from donjon.quiesce.thaw import GRACE_S, THAW_TIMEOUT_S, undo_freeze

Connected = Callable[[], AbstractContextManager[LiveHypervisor]]

_LOOK_AGAIN_S = 1.0
_LOOK_AT_SPACE_S = 0.2
_END_JOB_S = 120.0
_TRIES = 5


class Watch(Protocol):
    """Looks out for one thing, in a thread of its own."""

    ended: Event

    def run(self, fire: Callable[[], None]) -> None:
        """Until `ended`; calls `fire` when it happens, and then does about it what there is to do."""
        ...

    def relieve(self) -> None:
        """Do that now."""
        ...


class DeadlineWatch:
    """Thaws guests after a time, and from then on again and again: the worker may have been about to freeze them."""

    def __init__(self, connected: Connected, uuids: tuple[str, ...], deadline_s: float) -> None:
        self.ended = Event()
        self._connected = connected
        self._uuids = uuids
        self._deadline_s = deadline_s

    def run(self, fire: Callable[[], None]) -> None:
        """See Watch."""
        if self.ended.wait(self._deadline_s):
            return
        fire()
        self.relieve()
        while not self.ended.wait(_LOOK_AGAIN_S):
            self.relieve()

    def relieve(self) -> None:
        """Thaw; a guest that cannot be is left to the ledger."""
        together(self._thaw, self._uuids, THAW_TIMEOUT_S + 2 * GRACE_S)

    def _thaw(self, uuid: str) -> None:
        undo_freeze(lambda _: self._connected(), "", uuid)


class SpaceWatch:
    """Ends a backup job before what the guest overwrites has no place any more: QEMU would pause the guest."""

    def __init__(self, connected: Connected, uuid: str, scratch: str, socket: str, least_free: int) -> None:
        self.ended = Event()
        self._connected = connected
        self._uuid = uuid
        self._scratch = scratch
        self._socket = socket
        self._least_free = least_free

    def run(self, fire: Callable[[], None]) -> None:
        """See Watch."""
        stuck_before = self._is_stuck()
        while not self.ended.wait(_LOOK_AT_SPACE_S):
            if self._is_low() or (not stuck_before and self._is_stuck()):
                fire()
                self.relieve()
                return

    def relieve(self) -> None:
        """End the job, and let a guest go on that its full scratch space has stopped."""
        for _ in range(_TRIES):
            try:
                with self._connected() as host:
                    host.end_backup(self._uuid, Path(self._socket), _END_JOB_S)
                    if not _stuck(host, self._uuid):
                        return
                    host.resume(self._uuid)
            except HostError:
                self.ended.wait(_LOOK_AT_SPACE_S)

    def _is_low(self) -> bool:
        try:
            status = os.statvfs(self._scratch)
        except OSError:
            return False
        return status.f_bavail * status.f_frsize < self._least_free

    def _is_stuck(self) -> bool:
        try:
            with self._connected() as host:
                return _stuck(host, self._uuid)
        except HostError:
            return False


def _stuck(host: LiveHypervisor, uuid: str) -> bool:
    """Whether an error of its disks has paused the guest."""
    return host.power(uuid) is Power.PAUSED and bool(host.disk_errors(uuid))
