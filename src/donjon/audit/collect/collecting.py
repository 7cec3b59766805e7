# SPDX-License-Identifier: Apache-2.0
"""Run the collector on hosts, through the system's ssh or here, and take the bundles it prints."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import BinaryIO

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script
from donjon.audit.collect.target import Target
from donjon.errors import CancelledError, ConfigError, DonjonError, HostError
from donjon.host_command import Helper, conversing

TIME_LIMIT_S = 300.0
LARGEST_BUNDLE = 256 << 20
_PIECE = 1 << 16
_HEARS_S = 0.5
_END_S = 10.0
_BEGINNING = b"manifest.json\0"
_NOISE_BYTES = 1 << 16
_HINTS = {
    "Host key verification failed": "compare the host's key with what its console shows, then connect once with ssh",
    "REMOTE HOST IDENTIFICATION": "somebody else may be answering: find out why the host's key changed",
    "Permission denied": "the key must be in the agent or in ssh_config; no password is asked for",
    "no matching host key type": "an old host: say legacy for it",
    "no matching key exchange": "an old host: say legacy for it",
    "a password is required": "allow this user `sudo -n sh`, or connect as root",
    "sudo: not found": "connect as root",
    "Could not resolve hostname": "check the name, or add it to ssh_config",
    "Connection refused": "is sshd running there, and on this port?",
    "timed out": "is the host up, and may this machine reach its ssh port?",
    "No route to host": "is the host up, and may this machine reach its ssh port?",
}

Progress = Callable[[Target, DonjonError | None], None]


def collect(
    target: Target,
    into: BinaryIO,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    cancelled: threading.Event | None = None,
) -> None:
    """Run the collector on a host, and write the bundle as it comes.

    Raises:
        HostError: the host cannot be reached, does not let us in, does not answer with a bundle, or not in time.
        CancelledError: `cancelled` was set.
    """
    stop = cancelled or threading.Event()
    try:
        with conversing(target.shell()) as (helper, to_shell, from_shell):
            conversation = _Conversation(to_shell, from_shell, into, time.monotonic() + time_limit_s, stop)
            conversation.hold()
            _finish(helper, conversation)
    except HostError as error:
        raise _explained(target, error) from error


def collect_many(
    targets: Sequence[Target],
    folder: Path,
    *,
    parallel: int = 16,
    time_limit_s: float = TIME_LIMIT_S,
    on_progress: Progress = lambda target, error: None,  # noqa: ARG005
) -> dict[Target, Path | DonjonError]:
    """A bundle of each host in a folder; one host's failure is its result, and stops no other.

    A KeyboardInterrupt stops all of them, leaves no half of a bundle, and goes on.

    Args:
        targets: whom to collect from.
        folder: is there; bundles are named after the hosts.
        parallel: how many at a time.
        time_limit_s: for each.
        on_progress: told of each host that is done, in the calling thread.
    """
    stop = threading.Event()
    found: dict[Target, Path | DonjonError] = {}
    names = _names(targets)
    with ThreadPoolExecutor(parallel, "collector") as pool:
        jobs = {
            pool.submit(_collect_file, target, folder / names[target], time_limit_s, stop): target for target in names
        }
        try:
            for job in as_completed(jobs):
                target, result = jobs[job], job.result()
                found[target] = result
                on_progress(target, result if isinstance(result, DonjonError) else None)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {target: found[target] for target in names}


def _collect_file(target: Target, path: Path, time_limit_s: float, stop: threading.Event) -> Path | DonjonError:
    """The bundle is under its name only once it is whole and can be read; never over another, which is evidence."""
    if path.exists():
        return ConfigError(f"cannot write {path}: it exists", hint="name another directory, or move the bundle away")
    part = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            collect(target, file, time_limit_s=time_limit_s, cancelled=stop)
        read_bundle(part)
        part.rename(path)
    except DonjonError as error:
        part.unlink(missing_ok=True)
        return error
    except OSError as error:
        part.unlink(missing_ok=True)
        return HostError(f"cannot write {path}: {error.strerror}")
    return path


def _names(targets: Sequence[Target]) -> dict[Target, str]:
    """File names that tell hosts apart."""
    names: dict[Target, str] = {}
    for target in dict.fromkeys(targets):
        name = str(target).removeprefix("ssh://").replace(":", "-").strip("[]")
        names[target] = f"{name}.tar" if f"{name}.tar" not in names.values() else f"{name}-{len(names)}.tar"
    return names


class _Conversation:
    """The script goes out, the bundle comes in; whatever the host prints before the bundle is dropped."""

    def __init__(self, to: int, from_: int, into: BinaryIO, deadline: float, stop: threading.Event) -> None:
        self._to, self._from = to, from_
        self._into = into
        self._deadline = deadline
        self._stop = stop
        self._script = memoryview(script().encode())
        self._noise: bytes = b""
        self.size = 0

    def hold(self) -> None:
        """Until the host has said everything."""
        os.set_blocking(self._to, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            selector.register(self._to, selectors.EVENT_WRITE)
            while True:
                self._check()
                for key, _ in selector.select(_HEARS_S):
                    if key.fd == self._to:
                        self._say(selector)
                    elif not self._hear():
                        return

    @property
    def noise(self) -> str:
        """What the host printed instead of a bundle."""
        return self._noise[:200].decode("ascii", "replace").strip()

    def _check(self) -> None:
        if self._stop.is_set():
            raise CancelledError("cannot collect: it was cancelled")
        if time.monotonic() > self._deadline:
            raise HostError("cannot finish: it timed out")
        if self.size > LARGEST_BUNDLE:
            raise HostError(f"cannot finish: it sends more than {LARGEST_BUNDLE >> 20} MiB")

    def _say(self, selector: selectors.BaseSelector) -> None:
        try:
            self._script = self._script[os.write(self._to, self._script[:_PIECE]) :]
        except BrokenPipeError:  # it has ended before it had read all; its exit code says more
            self._script = self._script[:0]
        if not self._script:
            selector.unregister(self._to)

    def _hear(self) -> bool:
        """Take the next piece; False at the end."""
        piece = os.read(self._from, _PIECE)
        if not piece:
            return False
        if not self.size:
            self._noise += piece
            begin = self._noise.find(_BEGINNING)
            if begin < 0:
                if len(self._noise) > _NOISE_BYTES:
                    raise HostError("cannot finish: what it sends is no bundle")
                return True
            piece = self._noise[begin:]
        self._into.write(piece)
        self.size += len(piece)
        return True


def _finish(helper: Helper, conversation: _Conversation) -> None:
    helper.finish(_END_S)
    if not conversation.size:
        raise HostError(f"cannot finish: it sent no bundle, but {conversation.noise!r}")


def _explained(target: Target, error: HostError) -> HostError:
    """The error as one about the host, with what to do about it."""
    lines = [line for line in str(error).partition(": ")[2].splitlines() if line.strip()]
    reason, hint = (lines or ["it ended"])[-1], error.hint
    for sign, advice in _HINTS.items():
        telling = [line for line in lines if sign in line]
        if telling:
            reason, hint = telling[0], advice
            break
    shown = "".join(char if char.isprintable() else "?" for char in reason.strip())
    return HostError(f"cannot collect from {target}: {shown}", hint=hint)
