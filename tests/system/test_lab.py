# SPDX-License-Identifier: Apache-2.0
"""The lab is a fair witness: its guest keeps what it writes, notices damage, and leaves nothing on this machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import LabError
from lab.guest import (
    BLOCK_SIZE,
    create_disk,
    define,
    definition,
    is_off,
    run_jobs,
    start,
    virsh,
    wait_for,
    wait_until_off,
)
from lab.guest_kit import GuestKit
from lab.programs import run

ROOT = Path(__file__).parents[2]
HOLD = """
from lab.libvirt_host import private_libvirt
with private_libvirt() as uri:
    print(uri, flush=True)
    input()
"""

pytestmark = pytest.mark.system


@pytest.fixture
def guest(libvirt_uri: str, guest_kit: GuestKit, tmp_path: Path) -> Iterator[str]:
    name = "lab's guest"
    create_disk(tmp_path / "vda.qcow2", 128)
    create_disk(tmp_path / "vdb.raw", 64, "raw")
    disks = {"vda": (tmp_path / "vda.qcow2", "qcow2"), "vdb": (tmp_path / "vdb.raw", "raw")}
    define(libvirt_uri, definition(guest_kit, name, disks, tmp_path / "console"))
    yield name
    if not is_off(libvirt_uri, name):
        virsh(libvirt_uri, "destroy", name)
    virsh(libvirt_uri, "undefine", name)


def test_what_a_guest_writes_is_there_at_its_next_boot(libvirt_uri: str, guest: str) -> None:
    assert "wrote first: 8 files" in run_jobs(libvirt_uri, guest, "write:first:4")
    lines = run_jobs(libvirt_uri, guest, "verify", "write:first:4", "verify")
    before, after = (line for line in lines if line.startswith("verified 8 files, digest "))
    assert before != after


def test_a_guest_notices_a_changed_file(libvirt_uri: str, guest: str, tmp_path: Path) -> None:
    run_jobs(libvirt_uri, guest, "write:only:1", "write:gone:1", "remove:gone")
    raw = tmp_path / "vdb.raw"
    block = int(run("debugfs", "-R", "blocks /only/1", raw).split()[0])
    with raw.open("r+b") as disk:
        disk.seek(block * BLOCK_SIZE)
        disk.write(bytes(BLOCK_SIZE))
    with pytest.raises(LabError, match="FAILED verify: 1 of 2 files"):
        run_jobs(libvirt_uri, guest, "verify")


@pytest.mark.parametrize("way", ["agent", "acpi"])
def test_a_guest_can_be_asked_to_shut_down(libvirt_uri: str, guest: str, way: str) -> None:
    console = start(libvirt_uri, guest)
    wait_for(console, "ready")
    if way == "agent":
        _ask_until_answered(libvirt_uri, guest)
    virsh(libvirt_uri, "shutdown", guest, "--mode", way)
    wait_until_off(libvirt_uri, guest, timeout_s=30)
    wait_for(console, "powering off", timeout_s=1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_and_its_guests_end_with_their_owner(
    how: signal.Signals, guest_kit: GuestKit, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        uri = owner.stdout.readline().strip()
        define(uri, definition(guest_kit, "left behind", {}, tmp_path / "console"))
        start(uri, "left behind")
        owner.send_signal(how)
        owner.wait(30)
    folder = Path(uri.partition("socket=")[2]).parents[1]
    folder = folder.parent if folder.name == "run" else folder
    assert folder.name.startswith("donjon-")
    _wait_until_nothing_runs_in(folder, tmp_path)
    assert folder.exists() == (how == signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _ask_until_answered(uri: str, guest: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            virsh(uri, "qemu-agent-command", guest, '{"execute":"guest-ping"}')
        except LabError:
            assert time.monotonic() < deadline, "the guest agent does not answer"
            time.sleep(0.2)
        else:
            return


def _wait_until_nothing_runs_in(*folders: Path) -> None:
    deadline = time.monotonic() + 10
    while left := [line for line in run("ps", "-eo", "args").splitlines() if any(str(f) in line for f in folders)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
