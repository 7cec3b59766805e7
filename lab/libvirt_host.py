# SPDX-License-Identifier: Apache-2.0
"""A libvirt daemon of one's own: nothing of the machine's own libvirt is touched, and nothing of it stays.

As root it is a system daemon in namespaces of its own, for an ordinary user a session daemon. Either is reached from
outside through its socket.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from lab import LabError, LabUnavailableError
from lab.guest_kit import GuestKit
from lab.programs import SEARCH_PATH, require, run

SCRIPT = Path(__file__).with_name("libvirt_host.sh")
NAMESPACES = ("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--mount-proc", "--net", "--uts")
PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
}
# No daemon but this one is needed.
QEMU_CONF = """\
stdio_handler = "file"
"""
# As Debian ships it, but for what the lab's namespaces do not have.
QEMU_CONF_STOCK = """\
security_driver = "none"
cgroup_controllers = [ ]
"""
# Guests run as whoever runs the daemon; images keep their owner.
QEMU_CONF_ROOT = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
"""
LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
"""
START_TIME_S = 20.0
STOP_TIME_S = 20.0


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who is not root."""

    uid: int
    gid: int

    def before(self) -> list[str]:
        """What a command begins with that runs as this account."""
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]


NOBODY = Account(65534, 65534)


@dataclass(frozen=True, slots=True)
class Named:
    """A host with a name of its own that other hosts reach by TLS; `prepare(name, folder)` puts its files there."""

    name: str
    prepare: Callable[[str, Path], None]


@dataclass(frozen=True)
class Host:
    """A libvirt daemon, and what can happen to it and its guests.

    `folder` holds all that the daemon keeps; `images` is a folder in it that the guests' QEMU can reach.
    """

    uri: str
    folder: Path
    images: Path
    script: subprocess.Popen[bytes]
    socket: Path
    account: Account | None = None
    name: str | None = None

    def own(self, kit: GuestKit, folder: Path) -> GuestKit:
        """The kit, as files in a folder of `images` that this host may make its own."""
        mine = GuestKit(folder / "vmlinuz", folder / "initramfs")
        for theirs, path in ((kit.kernel, mine.kernel), (kit.initramfs, mine.initramfs)):
            shutil.copyfile(theirs, path)
            self.give(path)
        return mine

    def give(self, *paths: Path) -> None:
        """Files and folders that root has made become those of whoever runs the daemon."""
        for path in paths:
            if self.account:
                os.chown(path, self.account.uid, self.account.gid)

    def new_folder(self, name: str) -> Path:
        """A folder for the images of a guest."""
        folder = self.images / name
        folder.mkdir()
        self.give(folder)
        return folder

    def kill_libvirtd(self) -> None:
        """End the daemon with SIGKILL; its guests go on."""
        self._say("kill")
        _wait_until(lambda: not _is_open(self.socket), "the libvirt daemon lives on")

    def start_libvirtd(self) -> None:
        """Start the daemon again; it finds its guests."""
        self._say("start")
        _wait_until(lambda: _is_open(self.socket), "the libvirt daemon does not come back")

    def restart_libvirtd(self) -> None:
        """As its crash and its service manager do."""
        self.kill_libvirtd()
        self.start_libvirtd()

    def qemu_pid(self, name: str) -> int:
        """Process id of a running guest's QEMU, as it is seen from here, to be sent signals. Raises LabError."""
        found = [path for path in self.folder.rglob(f"{name}.pid") if path.parent.name in {"qemu", "run"}]
        if not found:
            raise LabError(f"guest {name} does not run")
        inside = found[0].read_text(encoding="ascii").strip()
        namespace = Path(f"/proc/{self.script.pid}/ns/pid_for_children").readlink()
        for status in Path("/proc").glob("[0-9]*/status"):
            if _pid_inside(status, namespace) == inside:
                return int(status.parent.name)
        raise LabError(f"no QEMU of guest {name} is running")

    def namespace_pid(self) -> int:
        """Process id of a process in the namespaces of root's daemon, as it is seen from here."""
        return int(run("ps", "-o", "pid=", "--ppid", self.script.pid))

    def _say(self, word: str) -> None:
        assert self.script.stdin is not None
        self.script.stdin.write(f"{word}\n".encode())
        self.script.stdin.flush()


@contextmanager
def private_libvirt(*, stock: bool = False, account: Account | None = None) -> Iterator[str]:
    """As `libvirt_host`, for those who only need its URI."""
    with libvirt_host(stock=stock, account=account) as host:
        yield host.uri


@contextmanager
def libvirt_host(*, stock: bool = False, account: Account | None = None, named: Named | None = None) -> Iterator[Host]:
    """A daemon for as long as the block runs.

    When the block is left the daemon, its guests and all it kept are gone; so they are when this process is killed,
    but for a folder of small files. SIGTERM leaves the block in good order.

    Args:
        stock: root's daemon as Debian configures it: QEMU runs as libvirt-qemu, which is given the images.
        account: root starts a session daemon of this account.
        named: one of several hosts.

    Raises:
        LabUnavailableError: this machine cannot run one.
    """
    require(PROGRAMS)
    # A short path: names of sockets have at most 107 bytes, and libvirt's are long.
    with _terminable(), TemporaryDirectory(prefix="donjon-") as folder:
        as_root = os.geteuid() == 0
        if not as_root and (stock or account or named):
            raise LabUnavailableError("needs root")
        if as_root and account is None:
            prepared = _prepare_system(Path(folder), stock=stock, named=named)
        else:
            prepared = _prepare_session(Path(folder), account)
        with _daemon(Path(folder), prepared) as (script, address):
            yield Host(
                f"{prepared.uri}?socket={address}",
                Path(folder),
                Path(folder) / "images",
                script,
                address,
                account,
                named.name if named else None,
            )


@dataclass(frozen=True)
class _Prepared:
    command: list[str]
    environment: Mapping[str, str]
    runtime: Path
    uri: str


@contextmanager
def _daemon(folder: Path, prepared: _Prepared) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Gives the script that keeps the daemon, and the daemon's socket."""
    log = folder / "libvirtd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            prepared.command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **prepared.environment},
            start_new_session=True,
        )
    address = prepared.runtime / "libvirt-sock"
    try:
        _wait_until_open(address, process, log)
        yield process, address
    finally:
        _stop(process)


def _prepare_system(folder: Path, *, stock: bool, named: Named | None) -> _Prepared:
    if named:
        named.prepare(named.name, folder)
    for place in ("run", "etc", "lib", "cache", "log", "images"):
        (folder / place).mkdir(exist_ok=True)
    folder.chmod(0o711)  # QEMU may be somebody else
    qemu_conf = QEMU_CONF + QEMU_CONF_STOCK + ("" if stock else QEMU_CONF_ROOT)
    for file, text in (("qemu.conf", qemu_conf), ("libvirtd.conf", LIBVIRTD_CONF)):
        with (folder / "etc" / file).open("a", encoding="utf-8") as conf:
            conf.write(text)
    command = [*NAMESPACES, "sh", str(SCRIPT), "system", str(folder), *([named.name] if named else [])]
    return _Prepared(command, {}, folder / "run", "qemu+unix:///system")


def _prepare_session(folder: Path, account: Account | None) -> _Prepared:
    places = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "etc", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "lib"}
    for place in (*places.values(), "images"):
        (folder / place).mkdir(mode=0o700)
    (folder / "etc/libvirt").mkdir()
    (folder / "etc/libvirt/qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
    if account:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.uid, account.gid)
    environment = {variable: str(folder / place) for variable, place in places.items()}
    command = [*(account.before() if account else []), "sh", str(SCRIPT), "session", str(folder)]
    return _Prepared(command, {**environment, "HOME": str(folder)}, folder / "run/libvirt", "qemu+unix:///session")


def _wait_until_open(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIME_S
    while not _is_open(address):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise LabUnavailableError("cannot start a libvirt daemon: " + ("; ".join(said) or "it does not answer"))
        time.sleep(0.05)


def _wait_until(done: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + START_TIME_S
    while not done():
        if time.monotonic() > deadline:
            raise LabError(failure)
        time.sleep(0.05)


def _is_open(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(address)) == 0


def _pid_inside(status: Path, namespace: Path) -> str | None:
    """The process id that a process has in a namespace; None if it is not in there, or gone."""
    try:
        if (status.parent / "ns/pid").readlink() != namespace:
            return None
        text = status.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.partition("NSpid:")[2].partition("\n")[0].split()[-1]


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
