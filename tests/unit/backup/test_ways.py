# SPDX-License-Identifier: Apache-2.0
"""A guest that runs is backed up live, one that is off offline, and one that is turned off meanwhile all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from donjon.backup.method import Capture, Method
from donjon.backup.methods.live import GuestEndedError
from donjon.backup.ways import Restrained, Ways
from donjon.errors import HostError, RefusedError
from donjon.model.restore_point import Consistency, Manifest
from donjon.model.vm import Power, Vm
from donjon.testing.hypervisor import FakeHypervisor

WEB = Vm(uuid="1111", name="web01", host="fakehost", power=Power.RUNNING, disks=())


@dataclass
class Way:
    """A method that captures nothing; `ends` is called while the VM is captured."""

    name: str
    consistency: Consistency = Consistency.FILESYSTEM
    held: list[str] = field(default_factory=list)

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        self.held.append(vm.name)
        try:
            yield Capture(vm, self.consistency, (), (), ("a note",), lambda: None, lambda: None)
        finally:
            self.held.remove(vm.name)

    @contextmanager
    def capture_together(self, vms: Sequence[tuple[Vm, Manifest | None]]) -> Iterator[list[Capture]]:
        yield [Capture(vm, self.consistency, (), (), (), lambda: None, lambda: None) for vm, _ in vms]


LIVE, OFFLINE = Way("live"), Way("offline", Consistency.OFFLINE)


def captured(vm: Vm, method: Method) -> tuple[str, Power, Consistency, tuple[str, ...]]:
    with method.capture(vm, None) as capture:
        return method.name, capture.vm.power, capture.consistency, capture.notes


@pytest.mark.parametrize(
    ("power", "way"),
    [(Power.RUNNING, "live"), (Power.PAUSED, "live"), (Power.OFF, "offline"), (Power.UNKNOWN, "offline")],
)
def test_the_way_is_chosen_by_what_the_guest_does(power: Power, way: str) -> None:
    ways = Ways(FakeHypervisor([replace(WEB, power=power, live_definition="<domain/>")]), LIVE, OFFLINE)
    assert ways.back_up("web01", captured)[:2] == (way, power)


def test_a_guest_whose_memory_is_saved_on_disk_is_backed_up_offline() -> None:
    saved = FakeHypervisor([replace(WEB, power=Power.PAUSED)])
    assert Ways(saved, LIVE, OFFLINE).back_up("web01", captured)[:2] == ("offline", Power.PAUSED)


def test_a_guest_that_runs_is_left_to_the_offline_way_where_live_is_not_wanted() -> None:
    assert Ways(FakeHypervisor([WEB]), None, OFFLINE).back_up("web01", captured)[0] == "offline"


def test_a_guest_that_is_off_is_refused_where_only_live_is_wanted() -> None:
    with pytest.raises(RefusedError, match="cannot back up web01 live: it is off"):
        Ways(FakeHypervisor([replace(WEB, power=Power.OFF)]), LIVE, None).back_up("web01", captured)


@pytest.mark.parametrize("orderly", [True, False], ids=["turned off", "still running"])
def test_a_guest_that_is_turned_off_in_the_middle_is_backed_up_offline_at_once(orderly: bool) -> None:
    host = FakeHypervisor([WEB])

    def store(vm: Vm, method: Method) -> tuple[str, Power, Consistency, tuple[str, ...]]:
        if method.name == "live":
            if orderly:
                host.shut_down(vm.uuid, 0)
            raise GuestEndedError("cannot read vda: the guest was turned off")
        return captured(vm, method)

    if not orderly:
        with pytest.raises(GuestEndedError):
            Ways(host, LIVE, OFFLINE).back_up("web01", store)
        return
    way, power, consistency, notes = Ways(host, LIVE, OFFLINE).back_up("web01", store)
    assert (way, power) == ("offline", Power.OFF)
    assert consistency is Consistency.CRASH, "nobody saw it end in order"
    assert notes[0] == "a note"
    assert "turned off while it was backed up live" in notes[1]


def test_what_fails_live_for_another_reason_is_not_tried_again() -> None:
    host = FakeHypervisor([WEB])

    def store(vm: Vm, _: Method) -> None:
        host.shut_down(vm.uuid, 0)
        raise HostError("cannot write the scratch file")

    with pytest.raises(HostError, match="scratch"):
        Ways(host, LIVE, OFFLINE).back_up("web01", store)


def test_a_guest_turned_off_in_the_middle_is_not_passed_off_as_more_than_was_asked_for() -> None:
    host = FakeHypervisor([WEB])

    def store(vm: Vm, method: Method) -> tuple[str, Power, Consistency, tuple[str, ...]]:
        if method.name == "live":
            host.power_off(vm.uuid)
            raise GuestEndedError("gone")
        return captured(vm, method)

    with pytest.raises(HostError, match="only crash consistency was reached, not filesystem"):
        Ways(host, LIVE, OFFLINE, least=Consistency.FILESYSTEM).back_up("web01", store)


def test_a_group_is_taken_only_if_every_guest_runs() -> None:
    off = replace(WEB, uuid="2222", name="db01", power=Power.OFF)
    ways = Ways(FakeHypervisor([WEB, off]), LIVE, OFFLINE)
    with pytest.raises(RefusedError, match="cannot back up web01, db01 together: db01 is not running"):
        ways.find_group(["web01", "db01"])
    assert ways.find_group(["web01"]) == ([WEB], LIVE)
    with pytest.raises(HostError, match="'db02'"):
        ways.find_group(["web01", "db02"])


def test_less_consistency_than_asked_for_fails_and_says_what_was_reached() -> None:
    suspended = Way("offline", Consistency.CRASH)
    with (
        pytest.raises(HostError, match=r"web01.*only crash consistency was reached, not filesystem") as caught,
        Restrained(suspended, least=Consistency.FILESYSTEM).capture(WEB, None),
    ):
        pass
    assert "--least crash" in (caught.value.hint or "")
    assert suspended.held == []
    with Restrained(OFFLINE, least=Consistency.APPLICATION).capture(WEB, None) as capture:
        assert capture.consistency is Consistency.OFFLINE
