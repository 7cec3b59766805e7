# SPDX-License-Identifier: Apache-2.0
"""The process that serves the disks of one VM from the repository, and outlives the command that starts it.

It is given what it needs through a pipe: who looks at the list of processes learns nothing of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from select import select
from typing import IO

import msgspec

from donjon.errors import ConfigError, DonjonError, HostError
from donjon.host_command import Companion, start_companion
from donjon.images.new_file import new_file
from donjon.nbd.server import NbdServer
from donjon.repository import lock
from donjon.repository.format.config import Config
from donjon.repository.format.crypto import SecretKey
from donjon.repository.repository import Repository
from donjon.repository.store import Store
from donjon.restore.instant_state import InstantState, InstantStates
from donjon.restore.serving import opened_exports
from donjon.restore_points import load_manifest
from donjon.state.process import Process, this_process

ENTRY = "donjon.cli.instant_server"
READY = b"ready\n"
_START_TIMEOUT_S = 60.0
_STOP_S = 10.0


class Handover(msgspec.Struct, frozen=True):
    """What the process is told: a repository that is open already, and which VM it is for."""

    location: str
    key: SecretKey
    config: Config
    states: str
    vm_uuid: str
    no_lock: bool


class ServerProcesses:
    """One process per VM, known by a file beside its state."""

    def __init__(self, states: InstantStates, *, no_lock: bool = False) -> None:
        self._states = states
        self._no_lock = no_lock

    def is_serving(self, vm_uuid: str) -> bool:
        """Whether it is there, and so is the socket that guests find it by."""
        process, state = _load(self._states, vm_uuid), self._states.load(vm_uuid)
        return process is not None and process.is_alive() and state is not None and state.socket.is_socket()

    def start(self, state: InstantState, repository: Repository) -> None:
        """Start it in place of one that nobody can reach; wait until it serves. Raises HostError, with its words."""
        self.stop(state.vm_uuid)
        told = Handover(
            repository.store.location,
            repository.key,
            repository.config,
            str(self._states.directory),
            state.vm_uuid,
            self._no_lock,
        )
        companion = start_companion([sys.executable, "-m", ENTRY])
        try:
            with companion.input as pipe, suppress(BrokenPipeError):
                pipe.write(msgspec.json.encode(told))
            with companion.output as pipe:
                _check_ready(pipe, companion, state.vm_name)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(companion.pid, signal.SIGKILL)
            companion.leave(_STOP_S)
            raise

    def stop(self, vm_uuid: str) -> None:
        """End it, by force if it does not listen."""
        process = _load(self._states, vm_uuid)
        if process is not None:
            _end(process)
            _path(self._states, vm_uuid).unlink(missing_ok=True)


def serve(told: bytes, open_store: Callable[[str], Store], say: IO[bytes]) -> int:
    """What the process does: serve until it is asked to end; says READY, or why it cannot.

    SIGTERM ends it, and must be blocked in every thread; SIGINT and SIGHUP, too, which are not for it.

    Args:
        told: a Handover.
        open_store: from a location to the store there.
        say: takes it.
    """
    os.chdir("/")
    try:
        with _serving(told, open_store):
            say.write(READY)
            say.flush()
            signal.sigwait({signal.SIGTERM})
    except (DonjonError, msgspec.MsgspecError) as error:
        with suppress(OSError):
            say.write(str(error).encode())
            say.flush()
        return 1
    return 0


@contextmanager
def _serving(told: bytes, open_store: Callable[[str], Store]) -> Iterator[None]:
    handover = msgspec.json.decode(told, type=Handover)
    states = InstantStates(Path(handover.states))
    state = _known(states, handover.vm_uuid)
    repository = Repository(open_store(handover.location), handover.key, handover.config)
    with nullcontext() if handover.no_lock else lock.held(repository.files):
        disks = load_manifest(repository, state.point).disks
        with opened_exports(repository, state.point, disks) as exports:
            server = NbdServer(exports)
            with server.serving_unix(state.socket):
                _give_to_folders_owner(state.socket)
                _save(states, state.vm_uuid, this_process())
                _known(states, state.vm_uuid)  # else who discarded it meanwhile did not see us
                yield


def _known(states: InstantStates, vm_uuid: str) -> InstantState:
    state = states.load(vm_uuid)
    if state is None:
        raise ConfigError(f"cannot serve the disks of {vm_uuid}: no instant restore of it is known")
    return state


def _give_to_folders_owner(path: Path) -> None:
    """Whose process is to connect to it."""
    owner = path.parent.stat()
    if os.geteuid() == 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _check_ready(pipe: IO[bytes], companion: Companion, vm_name: str) -> None:
    """Wait until it says READY. Raises HostError, with its own words."""
    said = b""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (left := deadline - time.monotonic()) > 0 and select([pipe], [], [], left)[0]:
        more = os.read(pipe.fileno(), 4096)
        if (said := said + more) == READY:
            return
        if not more:
            words = said.decode(errors="replace").strip() or companion.complaint or "it ended at once"
            raise HostError(f"cannot serve the disks of {vm_name}: {words}")
    raise HostError(f"cannot serve the disks of {vm_name}: the server does not answer")


def _end(process: Process) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.is_alive():
                signal.pidfd_send_signal(handle, number)
                select([handle], [], [], _STOP_S)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    if process.is_alive():
        raise HostError(f"cannot end process {process.pid}, which serves disks: it does not go")


def _path(states: InstantStates, vm_uuid: str) -> Path:
    return states.directory / f"{vm_uuid}.server"


def _save(states: InstantStates, vm_uuid: str, process: Process) -> None:
    with new_file(_path(states, vm_uuid), exist_ok=True) as unfinished:
        unfinished.write_bytes(msgspec.json.encode(process))


def _load(states: InstantStates, vm_uuid: str) -> Process | None:
    try:
        return msgspec.json.decode(_path(states, vm_uuid).read_bytes(), type=Process)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise HostError(f"cannot read {_path(states, vm_uuid)}: {error}") from error
