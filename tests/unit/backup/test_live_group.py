# SPDX-License-Identifier: Apache-2.0
"""Guests that belong together are backed up as they all were at one moment, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import pytest

from donjon.backup.backup import GroupIncompleteError
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import ActiveJob
from donjon.testing.faults import Faults
from donjon.trace import listening
from tests.unit.backup.live_site import BLOCK, LiveSite, qcow2, running
from tests.unit.backup.test_live import AtOnce

GROUP = ("app", "db", "web")
CONTENT = bytes(8) + b"." * (2 * BLOCK - 8)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LiveSite]:
    vms = []
    for uuid in GROUP:
        (tmp_path / uuid).mkdir()
        vms.append(running(uuid, uuid, qcow2(tmp_path / uuid, "vda", CONTENT)))
    with TemporaryDirectory(prefix="donjon-") as scratch:
        site = LiveSite(tmp_path, Path(scratch), *vms)
        for uuid in GROUP:
            site.host.fill(uuid, "vda", CONTENT)
        yield site


def count(content: bytes) -> int:
    return int.from_bytes(content[:8], "big")


class Writers:
    """A program in all guests that writes one number after the other to each, in the order of the group.

    As in every guest, nothing is written while it is frozen.
    """

    def __init__(self, site: LiveSite) -> None:
        self._site = site
        self._stop = Event()
        self._thread = Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(0.0002):
            number += 1
            for uuid in GROUP:
                while self._site.host.agent(uuid).frozen and not self._stop.is_set():
                    self._stop.wait(0.0005)
                self._site.host.write(uuid, "vda", 0, number.to_bytes(8, "big"))


def test_what_is_written_to_several_guests_is_in_the_restore_points_in_that_order(site: LiveSite) -> None:
    with Writers(site):
        for _ in range(4):
            reports = site.back_up_group(*GROUP)
            numbers = [count(site.restored("vda", uuid)) for uuid in GROUP]
            assert numbers[0] - numbers[-1] in (0, 1), numbers
            assert numbers == sorted(numbers, reverse=True)
            assert {report.restore_point.consistency for report in reports} == {"filesystem"}
    assert len({site.manifest(uuid).group for uuid in GROUP}) == 1
    site.check_nothing_left()


def test_all_are_frozen_before_the_first_job_begins_until_the_last_one_has(site: LiveSite) -> None:
    def look(point: str) -> None:
        if point in ("live.frozen", "live.begun"):
            assert [site.host.agent(uuid).frozen for uuid in GROUP] == [True] * 3
            busy = [site.host.active_job(uuid) is not None for uuid in GROUP]
            assert busy == [point == "live.begun"] * 3

    with listening(look):
        site.back_up_group(*GROUP)
    assert [site.host.agent(uuid).said.count("freeze") for uuid in GROUP] == [1, 1, 1]


def test_each_is_incremental_for_itself(site: LiveSite) -> None:
    site.back_up_group(*GROUP)
    site.host.write("db", "vda", BLOCK, b"new")
    reports = site.back_up_group(*GROUP)
    assert [report.disks[0].read for report in reports] == [0, BLOCK, 0]
    assert site.restored("vda", "db") == site.content("vda", "db")
    site.host.write("web", "vda", 0, b"new")
    assert site.back_up("web").disks[0].read == BLOCK


def bases(site: LiveSite) -> list[set[str]]:
    return [site.checkpoints(uuid) for uuid in GROUP]


@pytest.mark.parametrize("chosen", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_if_the_job_of_one_cannot_be_begun_none_is_left(site: LiveSite, chosen: int, after: bool) -> None:
    site.back_up_group(*GROUP)
    before = bases(site)
    for uuid in GROUP:
        site.host.write(uuid, "vda", 0, b"new")
    site.hypervisor = Faults(site.host, chosen, HostError("cannot begin"), after=after, only=["begin_backup"])
    with pytest.raises(HostError, match="cannot begin"):
        site.back_up_group(*GROUP)
    site.check_nothing_left()
    assert (bases(site), site.count_points()) == (before, 3)
    site.hypervisor = site.host
    assert [report.disks[0].read for report in site.back_up_group(*GROUP)] == [BLOCK] * 3
    assert [site.restored("vda", uuid) for uuid in GROUP] == [site.content("vda", uuid) for uuid in GROUP]


def test_if_somebody_elses_job_is_active_in_one_no_guest_is_even_frozen(site: LiveSite) -> None:
    site.host.foreign_jobs["web"] = ActiveJob("backup", "/run/other")
    with pytest.raises(RefusedError, match="web: another backup"):
        site.back_up_group(*GROUP)
    assert [site.host.agent(uuid).said for uuid in GROUP] == [[], [], []]
    site.host.foreign_jobs.clear()
    site.check_nothing_left()


def test_if_one_ends_while_it_is_read_the_others_are_stored(site: LiveSite) -> None:
    site.back_up_group(*GROUP)
    for uuid in GROUP:
        site.host.write(uuid, "vda", 0, b"new")
    with pytest.raises(GroupIncompleteError) as failed:
        site.back_up_group(*GROUP, progress=AtOnce(lambda: site.host.kill("db")))
    assert list(failed.value.failures) == ["db"]
    assert [report.restore_point.vm_name for report in failed.value.reports] == ["app", "web"]
    site.check_nothing_left()
    site.host.start("db")
    assert site.back_up("db").disks[0].kept == 0
    assert [report.disks[0].read for report in site.back_up_group("app", "web")] == [0, 0]
    assert [site.restored("vda", uuid) for uuid in GROUP] == [site.content("vda", uuid) for uuid in GROUP]
