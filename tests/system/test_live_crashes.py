# SPDX-License-Identifier: Apache-2.0
"""A live backup that is interrupted, at whatever point, leaves nothing behind and takes nothing from the next one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import TypedDict

import pytest

from lab.libvirt_host import Host
from tests.system.admin import Admin
from tests.system.live import LiveGuest, LiveGuests, admin_of
from tests.system.live_truth import Site, is_incremental, site_of

pytestmark = pytest.mark.system

SOME_POINTS = (
    "scratch.made-for-guest", "freeze.owed", "live.frozen", "live.captured", "writer.pack-saved", "live.read",
    "writer.snapshot-saved", "live.forgiven",
)  # fmt: skip


class Expected(TypedDict):
    """Whether the next backup reads changes only, and how many checkpoints there are before it."""

    incremental: bool
    checkpoints: int


@pytest.fixture
def site(idle_guest: LiveGuest, admin: Admin) -> Iterator[Site]:
    with site_of(idle_guest, admin) as site:
        yield site


def next_is_right(site: Site, *, incremental: bool = True, checkpoints: int = 1) -> None:
    """After whatever has happened: nothing is left, the next backup is exact, and reads changes only."""
    site.settles_by_itself(checkpoints)
    site.guest.do("write:later:1:vda")
    assert is_incremental(site.back_up_exactly()["vda"]) is incremental
    site.nothing_is_left()
    site.admin.repository_is_sound()


@pytest.mark.parametrize("point", SOME_POINTS)
def test_the_worker_is_killed(point: str, site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    site.guest.do("write:second:2:vda", "writer:vda")
    site.admin.dies(point, *site.words)
    site.guest.writes_on()
    next_is_right(site, **left_after(point, SOME_POINTS))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_worker_is_killed_at_every_point(site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    points = site.points()
    assert set(SOME_POINTS) <= {*points, "writer.pack-saved"}
    for number, point in enumerate(points):
        site.guest.do(f"write:turn{number % 4}:2:vda")
        site.admin.dies(point, *site.words)
        next_is_right(site, **left_after(point, points))


def left_after(point: str, points: Sequence[str]) -> Expected:
    """What is expected after a death at one of the points, which are in the order in which they are reached.

    Of a restore point that was saved and not committed the checkpoint is undone: then everything is read once more. The
    checkpoint before is deleted by the next backup if this one died when it had committed.
    """
    saved, committed = points.index("writer.snapshot-saved"), points.index("live.forgiven")
    return Expected(
        incremental=not saved <= points.index(point) < committed,
        checkpoints=2 if points.index(point) >= committed else 1,
    )


def test_worker_and_watchdog_are_killed_and_the_next_backup_settles_what_they_left(site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    site.guest.do("write:second:1:vda")
    with site.halted_at("live.captured") as backup:
        for pid in backup.children():
            os.kill(pid, signal.SIGKILL)
        assert backup.gets(signal.SIGKILL) == -signal.SIGKILL
    assert site.has_job()
    assert site.admin.owed()
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()


@pytest.mark.parametrize("point", ["live.frozen", "live.begun", "live.captured", "live.read", "live.ended"])
def test_libvirtd_is_restarted(point: str, site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    site.guest.do("write:second:2:vda", "writer:vda")
    with site.halted_at(point) as backup:
        site.guest.host.restart_libvirtd()
        code, _ = backup.goes_on()
        assert code in {0, 1}
    site.guest.writes_on()
    next_is_right(site)


def test_libvirtd_is_down_when_the_backup_dies(site: Site) -> None:
    site.guest.do("write:first:1:vda", "writer:vda")
    site.back_up()
    with site.halted_at("live.frozen") as backup:
        site.guest.host.kill_libvirtd()
        backup.gets(signal.SIGKILL)
        site.guest.host.start_libvirtd()
    site.guest.writes_on()
    next_is_right(site)


@pytest.mark.parametrize(
    ("point", "method"),
    [("live.owed", "offline"), ("live.frozen", "offline"), ("live.read", "live"), ("live.ended", "live")],
)
def test_qemu_is_killed_and_the_run_ends_with_a_restore_point(point: str, method: str, site: Site) -> None:
    site.guest.do("write:first:1:vda")
    site.back_up()
    with site.halted_at(point) as backup:
        site.guest.signal_qemu(signal.SIGKILL)
        code, said = backup.goes_on()
    assert code == 0, said
    assert said["backups"][0]["restore_point"]["method"] == method
    assert site.admin.owed() == []
    site.guest.start("write:second:2:vda")
    site.back_up_exactly()
    assert is_incremental(site.back_up_exactly()["vda"])
    site.nothing_is_left()
    site.admin.repository_is_sound()


@pytest.mark.parametrize("kind", ["stock_host", "session_host"])
def test_whoever_qemu_runs_as(kind: str, live_guests: LiveGuests, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue(kind)
    with live_guests.running(host) as guest:
        admin = admin_of(host, host.new_folder("crash-admin"))
        with site_of(guest, admin) as site:
            host.give(site.scratch)
            guest.do("writer:vda")
            guest.writes_on()
            site.back_up()
            site.admin.dies("live.frozen", *site.words)
            guest.writes_on()
            site.settles_by_itself()
            with site.halted_at("live.captured") as backup:
                assert backup.gets(signal.SIGTERM) > 0
            site.nothing_is_left()
            assert is_incremental(site.back_up()["vda"])
            site.prove_writing()
