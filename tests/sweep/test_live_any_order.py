# SPDX-License-Identifier: Apache-2.0
"""Whatever a guest, its host and its backups go through: every restore point is the disk at its moment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from donjon.backup.methods.offline import Offline, OfflineOptions
from donjon.errors import DonjonError, HostError
from donjon.model.vm import Power
from donjon.restore_points import survey_restore_points
from donjon.testing.faults import Faults
from tests.unit.backup.live_site import BLOCK, KIB, WEB, DiedError, new_site
from tests.unit.backup.site import bitmaps, qemu, restored

GRAIN = 64 * KIB
SIZES = (3 * BLOCK, 3 * BLOCK + 4 * KIB, 2 * BLOCK)
TARGETS = ("vda", "vdb")
POINTS = (
    "scratch.made-for-guest",
    "live.owed",
    "freeze.frozen",
    "live.begun",
    "writer.pack-saved",
    "writer.before-snapshot",
    "writer.snapshot-saved",
    "backup.reread",
    "live.read",
    "live.ended",
    "live.forgiven",
)


class Guest(RuleBasedStateMachine):
    """One with two disks; what it writes fills whole grains with one byte."""

    def __init__(self) -> None:
        super().__init__()
        self.held = ExitStack()
        folder, scratch = (self.held.enter_context(TemporaryDirectory(prefix="donjon-")) for _ in range(2))
        self.site = new_site(Path(folder), Path(scratch), b"a" * SIZES[0], b"b" * BLOCK)
        self.truths: dict[str, dict[str, bytes]] = {}

    def teardown(self) -> None:
        self.held.close()

    @property
    def is_on(self) -> bool:
        return self.site.host.power(WEB) is Power.RUNNING

    @precondition(lambda self: self.is_on)
    @rule(disk=st.sampled_from(TARGETS), at=st.integers(0, 40), count=st.integers(1, 9), byte=st.integers(0, 3))
    def write(self, disk: str, at: int, count: int, byte: int) -> None:
        """Zeros for 0: as the guest's own, or what it has trimmed."""
        size = len(self.site.content(disk))
        start = at * GRAIN % size // GRAIN * GRAIN
        self.site.host.write(WEB, disk, start, bytes([byte]) * (min(start + count * GRAIN, size) - start))

    @precondition(lambda self: self.is_on)
    @rule(size=st.sampled_from(SIZES))
    def resize(self, size: int) -> None:
        self.site.resize(size)

    @precondition(lambda self: self.is_on)
    @rule()
    def kill(self) -> None:
        self.site.host.kill(WEB)

    @precondition(lambda self: self.is_on)
    @rule()
    def power_off(self) -> None:
        self.site.host.power_off(WEB)

    @precondition(lambda self: not self.is_on)
    @rule()
    def start(self) -> None:
        self.site.host.start(WEB)

    @rule()
    def forget_checkpoints(self) -> None:
        self.site.host.forget_checkpoints(WEB)

    @precondition(lambda self: self.is_on)
    @rule()
    def back_up(self) -> None:
        self.site.back_up()
        self.check_last()
        last = {self.site.point(target).checkpoint for target in TARGETS}
        assert self.site.checkpoints() == last
        for target in TARGETS:
            assert {
                name for name in self.site.bitmaps(target) if self.site.host.disk(WEB, target).has_sound(name)
            } == last

    @precondition(lambda self: not self.is_on)
    @rule()
    def back_up_offline(self) -> None:
        site = self.site
        for target in TARGETS:
            self.store_image(target)
        site.back_up_by(Offline(site.host, site.ledger, site.repository.config.id, OfflineOptions()))
        self.check_last()
        for target in TARGETS:
            disk, left = site.host.disk(WEB, target), bitmaps(site.folder / f"{target}.qcow2")
            disk.bitmaps = {name: disk.bitmaps.get(name, set()) for name in left}
            disk.broken = set()

    @precondition(lambda self: self.is_on)
    @rule(point=st.sampled_from(POINTS))
    def die(self, point: str) -> None:
        def back_up() -> None:
            with self.site.dying_at(point):
                self.site.back_up()

        self.fail(back_up)

    @precondition(lambda self: self.is_on)
    @rule(number=st.integers(1, 16), after=st.booleans())
    def lose_a_word(self, number: int, after: bool) -> None:
        self.site.hypervisor = Faults(self.site.host, number, HostError("cannot"), after=after)
        self.fail(self.site.back_up)

    @precondition(lambda self: self.is_on)
    @rule(end=st.sampled_from(["kill", "power_off"]), number=st.integers(1, 9))
    def end_meanwhile(self, end: str, number: int) -> None:
        """The guest is gone, and so the call to the hypervisor that would have come next fails or finds it off."""

        def end_it() -> None:
            getattr(self.site.host, end)(WEB)

        self.site.hypervisor = Faults(self.site.host, number, end_it)
        self.fail(self.site.back_up)

    @invariant()
    def nothing_is_owed(self) -> None:
        self.site.check_nothing_left()

    def fail(self, back_up: Callable[[], object]) -> None:
        """A backup that need not succeed; its restore point may be there all the same, and be right then."""
        site = self.site
        now = {target: site.content(target) for target in TARGETS}
        before = {point.id for point in survey_restore_points(site.open()).points}
        with suppress(DonjonError, DiedError):
            back_up()
        site.hypervisor = site.host
        site.revive()
        for point in survey_restore_points(site.open()).points:
            if point.id not in before:
                for target, content in now.items():
                    assert restored(site.open(), point, target) == content

    def check_last(self) -> None:
        for target in TARGETS:
            assert self.site.restored(target) == self.site.content(target)

    def store_image(self, target: str) -> None:
        """As the guest's process leaves it when it ends: with its sound bitmaps, and what is dirty in any of them."""
        disk, image = self.site.host.disk(WEB, target), self.site.folder / f"{target}.qcow2"
        plain = image.with_suffix(".plain")
        plain.write_bytes(disk.content)
        qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", plain, image)
        sound = [name for name in disk.bitmaps if disk.has_sound(name)]
        for name in sound:
            qemu("qemu-img", "bitmap", "--add", image, name)
        dirty = sorted(set().union(*(disk.bitmaps[name] for name in sound)))
        words: list[str] = []
        for (byte, _), grains in groupby(dirty, key=lambda grain: (disk.content[grain * GRAIN], grain // 8)):
            for grain in grains:
                start = grain * GRAIN
                words += ["-c", f"write -P {byte} {start} {min(GRAIN, len(disk.content) - start)}"]
        if words:
            qemu("qemu-io", "-f", "qcow2", *words, image)


# A step takes as long as a backup: what fails is told in the twelve steps at most that it took, not made shorter.
Guest.TestCase.settings = settings(
    max_examples=max(1, settings().max_examples // 5), stateful_step_count=12, phases=[Phase.generate]
)
TestGuest = Guest.TestCase
