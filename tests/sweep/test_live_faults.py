# SPDX-License-Identifier: Apache-2.0
"""Every step of a live backup fails once: the guest goes on, nothing is left, the next backup is right and small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from donjon.errors import DonjonError, HostError, StoreError
from donjon.hypervisors.hot_backup import CheckpointError
from donjon.model.vm import Power
from donjon.repository.check import check
from donjon.repository.pack_reading import Subset
from donjon.repository.repository import Repository
from donjon.repository.stores.memory import MemoryStore
from donjon.testing.faults import Faults
from donjon.trace import listening
from tests.unit.backup.live_site import BLOCK, WEB, DiedError, LiveSite, new_site
from tests.unit.repository.disks import CHEAP, PASSWORD

BLOCKS = 4
CONTENT = b"".join(bytes([number + 1]) * BLOCK for number in range(BLOCKS))
FEW = 2 * BLOCK
"""What is written between two restore points, at most."""


class Guest:
    """A guest with one restore point, to which it goes back before each failure."""

    def __init__(self, site: LiveSite) -> None:
        self.site = site
        self.store = MemoryStore()
        site.store = self.store
        site.repository = Repository.create(self.store, PASSWORD, scrypt=CHEAP)
        site.back_up()
        self._files = dict(self.store.files)
        (self._base,) = site.checkpoints()

    def reset(self) -> None:
        self.store.files = dict(self._files)
        self.site.repository = self.site.open()
        self.site.host.fill(WEB, "vda", CONTENT)
        self.site.host.disk(WEB, "vda").bitmaps[self._base] = set()
        self.site.host.forget_checkpoints(WEB)
        self.site.host.adopt_checkpoint(WEB, self._base, ["vda"])

    def write(self, block: int) -> None:
        """One more block is not as it was."""
        self.site.host.write(WEB, "vda", block * BLOCK, b"new")

    def endure(self, fail: Callable[[], object]) -> bool:
        """Whether the backup failed."""
        site = self.site
        self.reset()
        self.write(1)
        now, failed = site.content(), False
        try:
            fail()
        except (DonjonError, KeyboardInterrupt, SystemExit, DiedError):
            failed = True
        site.hypervisor = site.host
        site.ledger.fail_at = 0
        site.repository = site.open()
        site.revive()
        site.check_nothing_left()
        assert site.host.power(WEB) is Power.RUNNING
        made = site.count_points() == len(("first", "second"))
        assert site.restored() == (now if made else CONTENT)
        assert made or site.checkpoints() == site.bitmaps() == {self._base}
        self.check_next(is_base_there=not made or site.point().checkpoint in site.bitmaps())
        return failed

    def check_next(self, *, is_base_there: bool) -> None:
        """The next backup is as if nothing had happened; where nothing was committed, it is as small, too."""
        site = self.site
        self.write(3)
        report = site.back_up().disks[0]
        assert report.read <= (FEW if is_base_there else len(CONTENT)), report.reason
        assert site.restored() == site.content()
        assert site.checkpoints() == site.bitmaps() == {site.point().checkpoint}
        site.check_nothing_left()

    def by(self, hypervisor: Faults) -> None:
        """A backup by a hypervisor that fails."""
        self.site.hypervisor = hypervisor
        self.site.back_up()

    def through(self, store: Faults) -> None:
        """A backup into a repository behind a store that fails."""
        repository = self.site.repository
        self.site.repository = Repository(store, repository.key, repository.config)
        self.site.back_up()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with TemporaryDirectory(prefix="donjon-") as scratch:
        guest = Guest(new_site(tmp_path, Path(scratch), CONTENT))
        yield guest
        assert check(guest.site.open(), read_data=Subset(), no_lock=True).errors == ()


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_every_word_with_the_hypervisor_and_the_agent_can_fail(guest: Guest, after: bool) -> None:
    failed = 0
    for fail_at in count(1):
        faults = Faults(guest.site.host, fail_at, HostError("cannot"), after=after)
        failed += guest.endure(partial(guest.by, faults))
        if faults.calls < fail_at:
            break
    assert fail_at > 12
    assert failed > 8


@pytest.mark.parametrize("method", ["adopt_checkpoint", "begin_backup"])
def test_a_checkpoint_that_fails_costs_no_more_than_reading_all(guest: Guest, method: str) -> None:
    faults = Faults(guest.site.host, 1, CheckpointError("cannot"), only=[method])
    assert not guest.endure(partial(guest.by, faults))
    assert faults.calls > 0


@pytest.mark.parametrize(
    ("after", "for_good"), [(False, False), (True, False), (False, True)], ids=["refused", "reply lost", "for good"]
)
def test_every_call_of_the_store_can_fail(guest: Guest, after: bool, for_good: bool) -> None:
    failed = 0
    for fail_at in count(1, 3 if for_good else 1):
        faults = Faults(guest.store, fail_at, StoreError("no space left"), after=after, for_good=for_good)
        failed += guest.endure(partial(guest.through, faults))
        if faults.calls < fail_at:
            break
    assert failed > 7


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_every_entry_into_the_ledger_can_fail(guest: Guest, after: bool) -> None:
    ledger = guest.site.ledger

    def back_up(number: int) -> None:
        ledger.after, ledger.calls, ledger.fail_at = after, 0, number
        guest.site.back_up()

    failures = [guest.endure(partial(back_up, number)) for number in range(1, 10)]
    assert sum(failures) > 5


@contextmanager
def raising_at(point: str, time: int, error: BaseException) -> Iterator[None]:
    left = time

    def fail(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if reached == point and not left:
            raise error

    with listening(fail):
        yield


def points_of_a_backup(guest: Guest) -> list[tuple[str, int]]:
    """Each, and how often it is reached."""
    reached: list[str] = []
    guest.reset()
    guest.write(1)
    with listening(reached.append):
        guest.site.back_up()
    assert {"live.owed", "live.begun", "live.read", "live.ended", "live.forgiven", "backup.reread"} <= set(reached)
    return [(point, reached.count(point)) for point in dict.fromkeys(reached)]


@pytest.mark.parametrize("error", [HostError("cannot"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_a_failure_at_any_point_of_the_way(guest: Guest, error: BaseException) -> None:
    def back_up(point: str, time: int) -> None:
        with raising_at(point, time, error):
            guest.site.back_up()

    assert all(guest.endure(partial(back_up, *where)) for where in points_of_a_backup(guest))


def test_death_at_any_point_of_the_way(guest: Guest) -> None:
    def back_up(point: str, time: int) -> None:
        with guest.site.dying_at(point, time):
            guest.site.back_up()

    assert all(guest.endure(partial(back_up, *where)) for where in points_of_a_backup(guest))
