# SPDX-License-Identifier: Apache-2.0
"""A guest is frozen only for a moment, and thawed whatever happens to whoever froze it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from donjon.hypervisors.agent import AgentError, AgentProblem, FreezeState
from donjon.hypervisors.hot_backup import DiskJob
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.model.restore_point import Consistency
from donjon.model.vm import Power
from donjon.quiesce.freeze import FREEZE_DEBT, Freezer, Quiesce
from donjon.quiesce.watchdog_process import WatchdogProcess
from donjon.state.ledger import Ledger
from donjon.wiring import undoers
from lab.programs import run
from tests.system.live import LiveGuest

pytestmark = pytest.mark.system

WORKER = """
import sys, time
from donjon.quiesce.freeze import Freezer, Quiesce
from donjon.quiesce.watchdog_process import WatchdogProcess
from donjon.wiring import Program

uri, name, deadline_s = sys.argv[1:]
program = Program()
with program.connect(uri) as host, program.open_ledger() as ledger, WatchdogProcess(uri) as watchdog:
    vm = host.find_vm(name)
    print(watchdog.pid, flush=True)
    with Freezer(host, ledger, watchdog, float(deadline_s)).frozen([vm], Quiesce.FILESYSTEM):
        print("frozen", flush=True)
        time.sleep(600)
"""
LONG_S = 60.0
HOOK_S = 6


class Site:
    """A guest, its host as donjon sees it, and a ledger."""

    def __init__(self, guest: LiveGuest, folder: Path) -> None:
        self.guest = guest
        self.state = folder / "state"
        self.ledger = Ledger(self.state / "ledger.sqlite", undoers(LibvirtHypervisor))
        self.host = LibvirtHypervisor(guest.uri)
        self.vm = self.host.find_vm(guest.name)

    def owed(self) -> list[str]:
        return [debt.kind for debt in self.ledger.debts()]

    def is_frozen(self) -> bool:
        return self.host.freeze_state(self.vm.uuid, 5) is FreezeState.FROZEN

    @contextmanager
    def freezer(self, deadline_s: float = LONG_S) -> Iterator[Freezer]:
        with WatchdogProcess(self.guest.uri) as watchdog:
            yield Freezer(self.host, self.ledger, watchdog, deadline_s)

    @contextmanager
    def worker(self, deadline_s: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
        """Another process that freezes the guest for very long; gives it, and the process id of its watchdog."""
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, self.guest.uri, self.guest.name, str(deadline_s)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DONJON_STATE_DIR": str(self.state)},
        ) as process:
            try:
                assert process.stdout is not None
                yield process, int(process.stdout.readline())
            finally:
                process.kill()


@pytest.fixture
def site(live_guest: LiveGuest, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as held:
        site = Site(live_guest, tmp_path)
        held.callback(site.ledger.close)
        held.enter_context(site.host)
        yield site


def test_a_guest_writes_nothing_while_it_is_frozen_and_goes_on_afterwards(site: Site) -> None:
    with site.freezer() as freezer:
        for level, reached in ((Quiesce.FILESYSTEM, Consistency.FILESYSTEM), (Quiesce.CRASH, Consistency.CRASH)):
            with freezer.frozen([site.vm], level):
                assert site.is_frozen() is (level is Quiesce.FILESYSTEM)
                last = site.guest.acked()
                time.sleep(1)
                assert (site.guest.acked() - last <= 1) is (level is Quiesce.FILESYSTEM)
            outcome = freezer.outcome(site.vm.uuid)
            assert (outcome.consistency, outcome.note) == (reached, None)
            assert (outcome.frozen_s is not None and outcome.frozen_s >= 1) is (level is Quiesce.FILESYSTEM)
            site.guest.writes_on()
    assert site.owed() == []


def test_a_guest_whose_backup_is_killed_while_it_is_frozen_is_thawed_without_anybodys_help(site: Site) -> None:
    with site.worker(LONG_S) as (process, watchdog):
        assert_says(process, "frozen")
        assert site.is_frozen()
        assert site.owed() == [FREEZE_DEBT]
        process.kill()
        until(lambda: not site.is_frozen())
        site.guest.writes_on()
        until(lambda: site.owed() == [])
        until(lambda: not Path(f"/proc/{watchdog}").exists())


def test_a_guest_is_thawed_though_the_backup_was_killed_before_its_agent_answered(site: Site) -> None:
    site.guest.do(f"hook:sleep:{HOOK_S}")
    with site.worker(LONG_S) as (process, _):
        until(lambda: site.owed() == [FREEZE_DEBT])
        time.sleep(1)
        process.kill()
        until(lambda: site.owed() == [])
    time.sleep(HOOK_S)
    assert not site.is_frozen()
    site.guest.writes_on()


def test_a_guest_whose_backup_hangs_is_thawed_at_the_deadline(site: Site) -> None:
    with site.worker(3) as (process, watchdog):
        assert_says(process, "frozen")
        process.send_signal(signal.SIGSTOP)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watchdog, number)
        until(lambda: not site.is_frozen())
        site.guest.writes_on()
        assert site.owed() == [FREEZE_DEBT]
        process.kill()
        until(lambda: site.owed() == [])


def test_a_guest_that_was_frozen_too_long_is_only_crash_consistent(site: Site) -> None:
    with site.freezer(deadline_s=2) as freezer:
        with freezer.frozen([site.vm], Quiesce.APPLICATION):
            until(lambda: not site.is_frozen())
        outcome = freezer.outcome(site.vm.uuid)
    assert outcome.consistency is Consistency.CRASH
    assert "by the watchdog: the deadline of 2 s was over" in str(outcome.note)
    assert site.owed() == []


def test_a_guest_whose_hook_fails_is_not_frozen(site: Site) -> None:
    site.guest.do("hook:fail")
    with site.freezer() as freezer:
        with freezer.frozen([site.vm], Quiesce.FILESYSTEM):
            assert not site.is_frozen()
        outcome = freezer.outcome(site.vm.uuid)
    assert outcome.consistency is Consistency.CRASH
    assert "hook has failed with status 3" in str(outcome.note)
    assert site.owed() == []
    site.guest.writes_on()


def test_a_guest_that_freezes_too_late_is_thawed_then(site: Site) -> None:
    site.guest.do(f"hook:sleep:{HOOK_S}")
    with site.freezer(deadline_s=2) as freezer:
        with freezer.frozen([site.vm], Quiesce.FILESYSTEM):
            pass
        outcome = freezer.outcome(site.vm.uuid)
    assert outcome.consistency is Consistency.CRASH
    assert "not frozen in time" in str(outcome.note)
    assert site.owed() == []
    time.sleep(HOOK_S)
    assert not site.is_frozen()
    site.guest.writes_on()


def test_a_guest_is_thawed_though_libvirtd_is_restarted_while_it_is_frozen(site: Site) -> None:
    with site.freezer() as freezer:
        with freezer.frozen([site.vm], Quiesce.FILESYSTEM):
            site.guest.host.restart_libvirtd()
        outcome = freezer.outcome(site.vm.uuid)
    assert outcome.consistency is Consistency.CRASH
    assert site.owed() == []
    site.guest.writes_on()


def test_an_agent_that_dies_while_its_guest_is_frozen_leaves_a_debt_and_a_note(site: Site) -> None:
    kill = "sleep 4; kill -9 $(pidof qemu-ga)"
    site.host.execute(site.vm.uuid, ["sh", "-c", f"({kill}) >/dev/null 2>&1 &"], timeout_s=10)
    with site.freezer() as freezer:
        with freezer.frozen([site.vm], Quiesce.FILESYSTEM):
            until(lambda: site.host.freeze_state(site.vm.uuid, 5) is FreezeState.UNKNOWN)
        outcome = freezer.outcome(site.vm.uuid)
        with freezer.frozen([site.vm], Quiesce.FILESYSTEM):
            pass
        assert "not connected" in str(freezer.outcome(site.vm.uuid).note)
    assert outcome.consistency is Consistency.CRASH
    assert "may still be frozen" in str(outcome.note)
    assert site.owed() == [FREEZE_DEBT]
    with pytest.raises(AgentError) as caught:
        site.host.ping(site.vm.uuid, 5)
    assert caught.value.kind is AgentProblem.ABSENT
    site.guest.signal_qemu(signal.SIGKILL)
    assert site.ledger.settle() == []


def test_a_paused_guest_cannot_be_frozen(site: Site) -> None:
    site.host.suspend(site.vm.uuid)
    with site.freezer() as freezer, freezer.frozen([site.vm], Quiesce.FILESYSTEM):
        pass
    assert freezer.outcome(site.vm.uuid).consistency is Consistency.CRASH
    assert "not frozen" in str(freezer.outcome(site.vm.uuid).note)
    assert site.owed() == []
    site.host.resume(site.vm.uuid)
    site.guest.writes_on()


def test_programs_run_in_the_guest(site: Site) -> None:
    argv = ["sh", "-c", "cat; echo wrong >&2; exit 3"]
    done = site.host.execute(site.vm.uuid, argv, timeout_s=30, input=b"\x00\xff right")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"\x00\xff right", b"wrong\n")
    with pytest.raises(AgentError, match="did not end within 1 s") as caught:
        site.host.execute(site.vm.uuid, ["sleep", "30"], timeout_s=1)
    assert caught.value.kind is AgentProblem.TIMED_OUT
    with pytest.raises(AgentError):
        site.host.execute(site.vm.uuid, ["/nowhere"], timeout_s=10)


def assert_says(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def until(met: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def test_a_backup_is_given_up_before_its_scratch_space_is_full(site: Site) -> None:
    folder = site.guest.host.new_folder("scratch-low")
    with backup_job(site, folder) as socket, WatchdogProcess(site.guest.uri) as watchdog:
        with watchdog.watching_space(site.vm.uuid, folder, socket, least_free=1 << 62) as alarm:
            until(lambda: site.host.active_job(site.vm.uuid) is None)
        assert alarm.fired
    site.guest.writes_on()


@pytest.mark.root
def test_a_guest_that_full_scratch_space_has_paused_goes_on_without_its_backup(site: Site) -> None:
    folder = site.guest.host.new_folder("scratch-full")
    inside = ("nsenter", "-t", site.guest.host.namespace_pid(), "-m", "-p")
    run(*inside, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    try:
        with WatchdogProcess(site.guest.uri) as watchdog, backup_job(site, folder) as socket:
            with watchdog.watching_space(site.vm.uuid, folder, socket, least_free=0) as alarm:
                until(lambda: alarm.fired)
            assert site.host.active_job(site.vm.uuid) is None
            assert site.host.power(site.vm.uuid) is Power.RUNNING
            site.guest.writes_on()
    finally:
        run(*inside, "umount", "-l", folder)


@contextmanager
def backup_job(site: Site, folder: Path) -> Iterator[Path]:
    """A backup of vda under way, which keeps in a folder what the guest overwrites; gives its socket."""
    socket = folder / "nbd"
    site.host.begin_backup(site.vm.uuid, [DiskJob("vda", folder / "vda.scratch", track=False)], socket, None)
    try:
        yield socket
    finally:
        site.host.end_backup(site.vm.uuid, socket, 60)
