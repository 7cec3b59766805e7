# SPDX-License-Identifier: Apache-2.0
"""A libvirt daemon of one's own: nothing of the machine's own libvirt is touched, and nothing of it stays.

As root it is a system daemon in namespaces of its own, for an ordinary user a session daemon. Either is reached from
outside through its socket.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from lab import LabError, LabUnavailableError
from lab.programs import SEARCH_PATH, require

SCRIPT = Path(__file__).with_name("libvirt_host.sh")
NAMESPACES = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--mount-proc", "--net")
PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
}
# Guests run as whoever runs the daemon; images keep their owner; no daemon but this one is needed.
QEMU_CONF = """\
stdio_handler = "file"
"""
QEMU_CONF_SYSTEM = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
"""
LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
"""
START_TIME_S = 20.0
STOP_TIME_S = 20.0


@contextmanager
def private_libvirt() -> Iterator[str]:
    """A daemon for as long as the block runs; gives its URI.

    When the block is left the daemon, its guests and all it kept are gone; so they are when this process is killed,
    but for a folder of small files. SIGTERM leaves the block in good order.

    Raises:
        LabUnavailableError: this machine cannot run one.
    """
    require(PROGRAMS)
    # A short path: names of sockets have at most 107 bytes, and libvirt's are long.
    with _terminable(), TemporaryDirectory(prefix="donjon-") as name, _daemon(Path(name)) as uri:
        yield uri


@contextmanager
def _daemon(folder: Path) -> Iterator[str]:
    as_root = os.geteuid() == 0
    runtime, environment = _prepare_system(folder) if as_root else _prepare_session(folder)
    command = ["sh", str(SCRIPT), "system" if as_root else "session", str(folder)]
    log = folder / "libvirtd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*NAMESPACES, *command] if as_root else command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **environment},
            start_new_session=True,
        )
    address = runtime / "libvirt-sock"
    try:
        _wait_until_open(address, process, log)
        yield f"qemu+unix:///{'system' if as_root else 'session'}?socket={address}"
    finally:
        _stop(process)


def _prepare_system(folder: Path) -> tuple[Path, Mapping[str, str]]:
    for place in ("run", "etc", "lib", "cache", "log"):
        (folder / place).mkdir()
    (folder / "etc/qemu.conf").write_text(QEMU_CONF + QEMU_CONF_SYSTEM, encoding="utf-8")
    (folder / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF, encoding="utf-8")
    return folder / "run", {}


def _prepare_session(folder: Path) -> tuple[Path, Mapping[str, str]]:
    places = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "etc", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "lib"}
    for place in places.values():
        (folder / place).mkdir(mode=0o700)
    (folder / "etc/libvirt").mkdir()
    (folder / "etc/libvirt/qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
    environment = {variable: str(folder / place) for variable, place in places.items()}
    return folder / "run/libvirt", {**environment, "HOME": str(folder)}


def _wait_until_open(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIME_S
    while not _is_open(address):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise LabUnavailableError("cannot start a libvirt daemon: " + ("; ".join(said) or "it does not answer"))
        time.sleep(0.05)


def _is_open(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(address)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(STOP_TIME_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise LabError("the lab's libvirt daemon does not end") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as an exception, so that whatever it holds is let go of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
