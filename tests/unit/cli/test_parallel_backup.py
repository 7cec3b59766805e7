# SPDX-License-Identifier: Apache-2.0
"""Several VMs are backed up at a time, into one repository; a signal stops all of them in order."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from donjon import trace
from donjon.cli.parallel import Stop, run_each
from donjon.cli.progress import LogProgress, shown_bars
from donjon.errors import HostError
from donjon.model.progress import NoProgress
from donjon.model.vm import Power
from donjon.testing.hypervisor import FakeHypervisor
from tests.unit.cli.conftest import BLOCK, Cli, make_raw
from tests.unit.cli.test_round_trip import DEFINITION


def define_guests(cli: Cli, home: Path, count: int, *, running: bool = False) -> dict[str, bytes]:
    """VMs web00, web01, ... that share some of their blocks; returns what is on their disks."""
    contents = {}
    for number in range(count):
        name, image = f"web{number:02}", home / f"{number}.img"
        contents[name] = make_raw(image, {0: b"s", 1: b"%d" % (number % 3), 2: bytes([65 + number])}, size=4 * BLOCK)
        text = DEFINITION.format(image=image).replace("web01", name)
        vm = cli.hypervisor.define(text.replace("11111111-", f"111111{number:02}-"))
        if running:
            cli.hypervisor.start(vm.uuid)
    return contents


def test_many_vms_at_a_time_leave_a_sound_repository_and_come_back(cli: Cli, home: Path) -> None:
    contents = define_guests(cli, home, 4)
    outcome = cli("backup", "--all", "--parallel", "4", "--json")
    assert outcome.exit_code == 0, outcome.err
    assert [it["restore_point"]["vm_name"] for it in outcome.json["backups"]] == sorted(contents)
    assert cli("check", "--read-data", "--json").json["sound"]
    for name, content in contents.items():
        assert cli("restore", name, "--to", "-").raw == content
    assert not list((home / "repo/locks").iterdir())


def test_no_more_are_backed_up_at_a_time_than_was_said(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 4, running=True)
    busy: list[int] = []
    guard = threading.Lock()

    class Watched(FakeHypervisor):
        def shut_down(self, uuid: str, timeout_s: float) -> None:
            super().shut_down(uuid, timeout_s)
            time.sleep(0.05)
            with guard:
                busy.append(sum(vm.power is Power.OFF for vm in self.list_vms()))

    cli.hypervisor = Watched(cli.hypervisor.list_vms())
    assert cli("backup", "--all", "--shutdown", "--parallel", "2").exit_code == 0
    assert max(busy) == 2
    assert all(vm.power is Power.RUNNING for vm in cli.hypervisor.list_vms())


def test_a_vm_that_is_said_by_name_and_by_uuid_is_backed_up_once(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 2)
    uuid = cli.hypervisor.find_vm("web00").uuid
    outcome = cli("backup", "web00", uuid, "web01", "web00", "--json")
    assert [it["restore_point"]["vm_name"] for it in outcome.json["backups"]] == ["web00", "web01"]


def test_one_that_is_not_there_does_not_stop_the_others(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 2)
    outcome = cli("backup", "web00", "wob01", "web01", "--json")
    assert outcome.exit_code == 3
    assert len(outcome.json["backups"]) == 2
    (failed,) = outcome.json["failed"]
    assert failed["vm"] == "wob01"
    assert "'web01'" in failed["failure"]["hint"]


def test_a_signal_stops_all_of_them_in_order_and_a_second_one_changes_nothing(cli: Cli, home: Path) -> None:
    number = signal.SIGTERM
    define_guests(cli, home, 4, running=True)
    reached = threading.Barrier(2, timeout=10)

    class Impatient(FakeHypervisor):
        """While a guest is started again, the operator tries once more."""

        def start(self, uuid: str) -> None:
            os.kill(os.getpid(), number)
            super().start(uuid)

    def stop(point: str) -> None:
        if point == "standstill.shut-down":
            if reached.wait() == 0:
                os.kill(os.getpid(), number)
            time.sleep(0.3)  # until the main thread has heard it

    cli.hypervisor = Impatient(cli.hypervisor.list_vms())
    inherited = signal.signal(number, signal.default_int_handler)
    try:
        with trace.listening(stop):
            outcome = cli("backup", "--all", "--shutdown", "--parallel", "2", "--json")
    finally:
        signal.signal(number, inherited)
    assert (outcome.exit_code, outcome.json["error"]) == (130, f"stopped by {number.name}: everything was put back")
    assert [vm.power for vm in cli.hypervisor.list_vms()] == [Power.RUNNING] * 4
    assert cli("owed").out == ""
    assert cli("list", "--json").json["restore_points"] == []
    assert not list((home / "repo/locks").iterdir())


def test_what_a_stopped_worker_could_not_put_back_is_said() -> None:
    begun = threading.Barrier(2)
    main_thread = threading.main_thread().ident
    assert main_thread

    def work(item: str, stop: Stop) -> None:
        begun.wait()
        if item == "a":
            signal.pthread_kill(main_thread, signal.SIGINT)
        progress = stop.heeded_by(NoProgress())
        try:
            while True:
                progress.advance(1)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"{item} is still owed")
            raise

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            run_each(["a", "b", "never begun"], work, 2)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert sorted(caught.value.__notes__) == ["a is still owed", "b is still owed"]


def test_results_come_in_the_order_of_the_items_and_a_defect_of_one_stops_the_others() -> None:
    def work(item: float, _: Stop) -> float:
        time.sleep(item)
        return item

    items: Sequence[float] = (0.03, 0.0, 0.02, 0.01)
    assert run_each(items, work, 4) == list(items)

    def fail(item: str, stop: Stop) -> None:
        if item == "defect":
            raise ZeroDivisionError
        while True:
            stop.check()

    with pytest.raises(ZeroDivisionError):
        run_each(["defect", "endless"], fail, 2)


def test_a_single_one_is_done_in_the_thread_that_signals_reach() -> None:
    assert run_each(["a"], lambda _, __: threading.current_thread(), 2) == [threading.main_thread()]


def test_a_log_has_lines_of_each_vm_and_quiet_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    log = io.StringIO()
    for whose in ("web\n01", "web02"):
        progress = LogProgress(log, whose)
        progress.begin("vda", 100)
        progress._said_s -= 11
        progress.advance(50)
    first, second = log.getvalue().splitlines()
    assert first.startswith("web\\n01 vda: 50 % of 100 B")
    assert second.startswith("web02 vda: 50 % of 100 B")
    with shown_bars(quiet=True) as bars, bars("web01") as quiet:
        quiet.begin("vda", 1)
        quiet.advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_guest_that_cannot_be_started_again_is_reported_while_others_succeed(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 3, running=True)
    broken = cli.hypervisor.find_vm("web01").uuid

    class Unstartable(FakeHypervisor):
        def start(self, uuid: str) -> None:
            if uuid == broken:
                raise HostError("cannot start it: no memory")
            super().start(uuid)

    cli.hypervisor = Unstartable(cli.hypervisor.list_vms())
    outcome = cli("backup", "--all", "--shutdown", "--parallel", "3", "--json")
    assert outcome.exit_code == 3
    assert [it["restore_point"]["vm_name"] for it in outcome.json["backups"]] == ["web00", "web02"]
    assert [(it["vm"], it["failure"]["exit_code"]) for it in outcome.json["failed"]] == [("web01", 3)]
    assert len(cli("owed", "--json").json["debts"]) == 1
