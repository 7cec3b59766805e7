# SPDX-License-Identifier: Apache-2.0
"""A libvirt of its own for each test process, a guest to run on it, and an administrator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest

from lab import LabUnavailableError
from lab.guest import create_disk, define, definition
from lab.guest_kit import GuestKit
from lab.guest_kit import guest_kit as build_guest_kit
from lab.hosts import two_hosts
from lab.libvirt_host import NOBODY, Host, libvirt_host
from lab.programs import run
from lab.witness import DATABASE, wait_for_more
from tests.system.admin import Admin, Guest, make_admin
from tests.system.live import LiveGuest, LiveGuests

CHANNEL = "<channel type='unix'>"
INTERFACE = "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>"


@pytest.fixture(scope="session")
def guest_kit() -> GuestKit:
    """What a guest boots."""
    try:
        return build_guest_kit()
    except LabUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A libvirt host that nobody else uses: as root QEMU runs as root, else it is a session daemon."""
    with ExitStack() as held:
        yield _entered(held, libvirt_host())


@pytest.fixture(scope="session")
def stock_host() -> Iterator[Host]:
    """A host as Debian configures it: QEMU runs as libvirt-qemu."""
    with ExitStack() as held:
        yield _entered(held, libvirt_host(stock=True))


@pytest.fixture(scope="session")
def session_host() -> Iterator[Host]:
    """The session daemon of somebody who is not root."""
    with ExitStack() as held:
        yield _entered(held, libvirt_host(account=NOBODY if os.geteuid() == 0 else None))


@pytest.fixture(scope="session")
def connected_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts between which guests can migrate."""
    with ExitStack() as held:
        yield _entered(held, two_hosts())


@pytest.fixture(scope="session")
def libvirt_uri(host: Host) -> str:
    """A libvirt daemon that runs guests and that nobody else uses."""
    return host.uri


@pytest.fixture(scope="session")
def live_guests(guest_kit: GuestKit) -> LiveGuests:
    """Running guests in a moment, on any host."""
    return LiveGuests(guest_kit)


@pytest.fixture
def idle_guest(host: Host, live_guests: LiveGuests) -> Iterator[LiveGuest]:
    """A guest that runs, its agent answering; vda is qcow2, vdb is raw; it writes nothing of its own accord."""
    with live_guests.running(host) as guest:
        yield guest


@pytest.fixture
def live_guest(idle_guest: LiveGuest) -> LiveGuest:
    """The same with a self-checking writer and a database going on vda."""
    idle_guest.do("writer:vda", "database:vda")
    for writer in ("vda", DATABASE):
        wait_for_more(idle_guest.console, writer)
    return idle_guest


@pytest.fixture(scope="session")
def written(libvirt_uri: str, guest_kit: GuestKit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with base.qcow2 and vdb.raw, to which a guest has written."""
    folder = tmp_path_factory.mktemp("written")
    create_disk(folder / "base.qcow2", 128)
    create_disk(folder / "vdb.raw", 64, "raw")
    disks = {"vda": (folder / "base.qcow2", "qcow2"), "vdb": (folder / "vdb.raw", "raw")}
    define(libvirt_uri, definition(guest_kit, "writer", disks, folder / "console"))
    writer = Guest(libvirt_uri, "writer", {})
    writer.run("write:first:3")
    writer.remove()
    return folder


@pytest.fixture
def guest(libvirt_uri: str, guest_kit: GuestKit, written: Path, tmp_path: Path) -> Iterator[Guest]:
    """A guest that is off: vda is qcow2 on top of another qcow2, vdb is raw, both have files on them."""
    folder = tmp_path / "its images"
    folder.mkdir()
    base, vda, vdb = folder / "base.qcow2", folder / "vda.qcow2", folder / "vdb.raw"
    run("cp", "--sparse=always", written / base.name, written / vdb.name, folder)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", vda)
    xml = definition(guest_kit, "web & db", {"vda": (vda, "qcow2"), "vdb": (vdb, "raw")}, tmp_path / "console")
    define(libvirt_uri, xml.replace(CHANNEL, INTERFACE + CHANNEL))
    guest = Guest(libvirt_uri, "web & db", {"vda": vda, "vdb": vdb})
    yield guest
    guest.remove()


@pytest.fixture
def admin(libvirt_uri: str, tmp_path: Path) -> Iterator[Admin]:
    """An administrator; in the end donjon owes the host nothing."""
    # A short path for the sockets of what is killed; their names have at most 107 bytes.
    with TemporaryDirectory(prefix="donjon-") as folder:
        admin = make_admin(tmp_path, libvirt_uri, TMPDIR=folder)
        yield admin
        assert admin.owed() == []


@pytest.fixture
def tpm_root(libvirt_uri: str) -> Path:
    """Where the libvirt daemon keeps the state of TPMs, as this process sees it."""
    if not (shutil.which("swtpm") and shutil.which("swtpm_setup")):
        pytest.skip("needs swtpm: apt-get install swtpm swtpm-tools")
    place = "lib/swtpm" if os.geteuid() == 0 else "etc/libvirt/qemu/swtpm"
    root = _folder_of(libvirt_uri) / place
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def admin_on_the_host(admin: Admin, libvirt_uri: str) -> Admin:
    """The administrator, at a place where the daemon's own files are where they always are."""
    folder = _folder_of(libvirt_uri)
    if os.geteuid() != 0:
        return replace(admin, environment={**admin.environment, "XDG_CONFIG_HOME": str(folder / "etc")})
    enter = ["sh", "-c", 'mount --bind "$0" /var/lib/libvirt && exec "$@"', str(folder / "lib")]
    return replace(admin, before=("unshare", "--mount", *enter))


_T = TypeVar("_T")


def _entered(held: ExitStack, context: AbstractContextManager[_T]) -> _T:
    try:
        return held.enter_context(context)
    except LabUnavailableError as error:
        pytest.skip(str(error))


def _folder_of(libvirt_uri: str) -> Path:
    socket = Path(libvirt_uri.partition("?socket=")[2])
    return next(folder for folder in socket.parents if folder.name.startswith("donjon-"))
