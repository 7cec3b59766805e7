# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a real hypervisor during a live backup costs the backup at most, and never the guest."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.hypervisors.hot_backup import DiskJob
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.nbd.client import NbdClient
from lab.libvirt_host import NOBODY
from lab.programs import run
from tests.system.admin import Admin, make_admin
from tests.system.live import LiveGuest
from tests.system.live_truth import Site, site_of, wait_until

pytestmark = pytest.mark.system

READERS = 8
STEP = 1 << 20
MUCH_MIB = 16
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def site(idle_guest: LiveGuest, admin: Admin) -> Iterator[Site]:
    with site_of(idle_guest, admin) as site:
        yield site


@contextmanager
def small_scratch(site: Site, size_mib: int) -> Iterator[Site]:
    """The same with a file system of its own for what the guest overwrites, which only the host's processes see."""
    inside = ("nsenter", "--target", str(site.guest.host.namespace_pid()), "--mount", "--pid")
    run(*inside, "mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "tmpfs", site.scratch)
    try:
        yield replace(site, least_free_mib=8, admin=replace(site.admin, before=inside))
        assert run(*inside, "ls", "-A", site.scratch) == ""
    finally:
        run(*inside, "umount", site.scratch)


def test_a_job_that_ends_while_many_read_does_not_stop_the_guest(site: Site) -> None:
    guest = site.guest
    guest.do("writer:vda")
    socket = site.scratch / "nbd"
    failures: list[str] = []

    def read(client: NbdClient, begun: threading.Semaphore) -> None:
        buffer = memoryview(bytearray(STEP))
        try:
            for turn in range(1 << 20):
                client.read_into(turn * STEP % client.size, buffer)
                begun.release()
        except HostError as error:
            failures.append(str(error))

    with LibvirtHypervisor(guest.uri) as host, ExitStack() as held:
        uuid = host.find_vm(guest.name).uuid
        host.begin_backup(uuid, [DiskJob("vda", site.scratch / "vda", since=None, track=False)], socket, None)
        client = NbdClient.connect_unix(socket, "vda")
        held.callback(client.close)
        client.connect_fully()
        begun = threading.Semaphore(0)
        readers = [threading.Thread(target=read, args=(client, begun)) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        for _ in readers:
            begun.acquire()
        host.end_backup(uuid, socket, 60)
        for reader in readers:
            reader.join()
        assert host.active_job(uuid) is None
    assert len(failures) == READERS
    socket.unlink(missing_ok=True)
    guest.writes_on()
    site.nothing_is_left()


@pytest.mark.root
def test_nobody_but_qemu_and_root_gets_to_the_socket_of_a_backup(site: Site) -> None:
    with site.halted_at("live.captured") as backup:
        [folder] = site.scratch.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "nbd").is_socket()
        stranger = [*NOBODY.before(), "/usr/bin/python3", "-c", CONNECT, str(folder / "nbd")]
        denied = subprocess.run(stranger, capture_output=True, text=True, check=False)
        assert "PermissionError" in denied.stderr
        assert backup.goes_on()[0] == 0
    site.nothing_is_left()


@pytest.mark.root
def test_a_backup_is_given_up_when_scratch_runs_full_and_the_guest_loses_nothing(site: Site) -> None:
    guest = site.guest
    guest.do(f"write:much:{MUCH_MIB}:vda", "writer:vda")
    with small_scratch(site, 12) as cramped:
        with cramped.halted_at("live.captured") as backup:
            guest.do(f"write:much:{MUCH_MIB}:vda")
            wait_until(lambda: not site.has_job(), "the watchdog does not give the backup up")
            guest.writes_on()
            code, said = backup.goes_on()
        assert code == 1
        assert "the guest goes on" in said["error"]
        site.nothing_is_left()
    assert site.admin.donjon("list")["restore_points"] == []
    guest.writes_on()
    site.prove_writing()


@pytest.mark.root
def test_a_backup_for_which_there_is_too_little_scratch_is_not_begun(site: Site) -> None:
    with small_scratch(site, 4) as cramped:
        said = cramped.admin.donjon(*cramped.words, exit_code=1)
        assert "only 4 MiB are free, not 8" in said["error"]
        site.nothing_is_left()


def test_a_guest_that_freezes_too_late_is_thawed_and_its_backup_is_crash_consistent(site: Site) -> None:
    guest = site.guest
    guest.do("writer:vda", "hook:sleep:5")
    guest.writes_on()
    report = site.admin.donjon(*site.words, "--freeze-deadline", "2")["backups"][0]
    assert report["restore_point"]["consistency"] == "crash"
    assert "not frozen in time" in " ".join(report["notes"])
    time.sleep(5)
    guest.writes_on()
    site.nothing_is_left()


def test_a_guest_whose_freeze_fails_is_not_backed_up_if_less_is_not_enough(site: Site) -> None:
    site.guest.do("hook:fail")
    said = site.admin.donjon(*site.words, "--least", "filesystem", exit_code=1)
    assert "hook has failed with status 3" in said["error"]
    site.nothing_is_left()
    assert site.checkpoints() == set()


def test_a_second_backup_is_refused_at_once_and_the_first_is_not_harmed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_admin(tmp_path / "other", site.guest.uri)
    with site.halted_at("live.captured") as backup:
        for admin in (site.admin, other):
            said = admin.donjon(*site.words, exit_code=1)
            assert "another backup of it is under way" in said["error"]
        assert backup.goes_on()[0] == 0
    site.nothing_is_left()
    assert other.owed() == []
    site.back_up_exactly()


def test_backups_follow_each_other_without_a_pause(site: Site) -> None:
    site.guest.do("writer:vda")
    kept = [site.back_up()["vda"]["kept"] for _ in range(4)]
    assert kept[0] == 0
    assert all(kept[1:])
    site.nothing_is_left()


def test_a_guest_that_cannot_be_frozen_is_backed_up_as_after_a_power_cut(site: Site) -> None:
    site.guest.do("writer:vda", "database:vda", "hook:fail")
    site.guest.writes_on("database")
    report = site.prove_writing().report
    assert report["restore_point"]["consistency"] == "crash"
    assert "hook has failed with status 3" in " ".join(report["notes"])


def test_a_guest_whose_qemu_stands_still_costs_the_backup_only(site: Site) -> None:
    guest = site.guest
    guest.do("writer:vda")
    with site.halted_at("live.captured") as backup:
        guest.signal_qemu(signal.SIGSTOP)
        try:
            time.sleep(2)
        finally:
            guest.signal_qemu(signal.SIGCONT)
        assert backup.goes_on()[0] == 0
    guest.writes_on()
    site.nothing_is_left()
