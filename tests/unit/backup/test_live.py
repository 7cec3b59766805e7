# SPDX-License-Identifier: Apache-2.0
"""A guest that runs is backed up as it was at one moment, and only what it has written since the last time is read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from donjon.backup.method import Method
from donjon.backup.methods.live import GuestEndedError
from donjon.backup.methods.offline import Offline, OfflineOptions
from donjon.backup.ways import Ways
from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import ActiveJob, CheckpointError
from donjon.model.restore_point import Consistency
from donjon.model.vm import Power, Vm
from donjon.quiesce.freeze import Quiesce
from donjon.testing.faults import Faults
from donjon.trace import listening
from tests.unit.backup.live_site import BLOCK, KIB, MIB, WEB, LiveSite, new_site, plug, qcow2, raw
from tests.unit.backup.site import Calling, qemu

CONTENT = b"a" * BLOCK + bytes(BLOCK) + b"c" * BLOCK + b"d" * (BLOCK - KIB)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Its path must be short, for the socket's may have 107 bytes only."""
    with TemporaryDirectory(prefix="donjon-") as folder:
        yield Path(folder)


@pytest.fixture
def site(tmp_path: Path, scratch: Path) -> LiveSite:
    return new_site(tmp_path, scratch, CONTENT)


class AtOnce(Calling):
    """Does it before anything is read."""

    def begin(self, name: str, size: int) -> None:
        self.advance(0)


def test_the_first_backup_reads_all_and_later_ones_what_was_written(site: LiveSite) -> None:
    first = site.back_up()
    assert (first.disks[0].read, first.disks[0].zero) == (len(CONTENT) - BLOCK, BLOCK)
    assert first.restore_point.consistency == "filesystem"
    assert first.frozen_s is not None
    assert first.notes == ()
    assert site.restored() == CONTENT
    site.host.write(WEB, "vda", 3 * BLOCK + 5, b"new")
    site.host.write(WEB, "vda", 2 * BLOCK - 1, b"##")
    second = site.back_up()
    assert second.disks[0].reason == "the bitmap kept by the running guest tells what has changed"
    assert (second.disks[0].read, second.disks[0].kept) == (3 * BLOCK - KIB, BLOCK)
    assert site.restored() == site.content()
    assert site.back_up().disks[0].read == 0
    assert site.restored() == site.content()
    site.check_nothing_left()


def test_what_is_written_while_it_is_read_belongs_to_the_next_one(site: LiveSite) -> None:
    site.back_up()
    site.host.write(WEB, "vda", 0, b"before")
    then = site.content()
    site.back_up(progress=Calling(lambda: site.host.write(WEB, "vda", 0, b"during")))
    assert site.restored() == then
    assert site.back_up().disks[0].read == BLOCK
    assert site.restored() == site.content() != then


def test_zeros_that_were_written_are_not_kept_from_before(site: LiveSite) -> None:
    site.back_up()
    site.host.zero(WEB, "vda", 0, BLOCK)
    site.host.zero(WEB, "vda", 2 * BLOCK, 64 * KIB)
    report = site.back_up().disks[0]
    assert (report.zero, report.read) == (BLOCK, BLOCK)
    assert site.restored() == site.content()


def test_a_new_disk_is_read_in_full_beside_one_that_is_not(site: LiveSite) -> None:
    site.back_up()
    plug(site, qcow2(site.folder, "vdb", b"b" * MIB), b"b" * MIB)
    vda, vdb = site.back_up().disks
    assert (vda.read, vdb.read, vdb.reason) == (0, MIB, "there is no earlier restore point of this disk")
    assert site.restored("vdb") == b"b" * MIB
    assert [disk.read for disk in site.back_up().disks] == [0, 0]
    assert site.checkpoints() == {site.point("vda").checkpoint} == {site.point("vdb").checkpoint}


@pytest.mark.parametrize("size", [3 * MIB, 3 * BLOCK])
def test_a_disk_that_was_resized_is_read_in_full_and_tracked_again(site: LiveSite, size: int) -> None:
    site.back_up()
    site.resize(size)
    assert f"resized from {len(CONTENT)} to {size} bytes" in site.back_up().disks[0].reason
    assert site.restored() == site.content()
    assert site.back_up().disks[0].read == 0
    assert site.checkpoints() == site.bitmaps() == {site.point().checkpoint}


def test_of_a_disk_that_was_resized_beside_one_that_was_not_no_bitmap_stays(tmp_path: Path, scratch: Path) -> None:
    site = new_site(tmp_path, scratch, CONTENT, CONTENT)
    site.back_up()
    site.resize(3 * MIB)
    assert [disk.kept for disk in site.back_up().disks] == [0, len(CONTENT)]
    assert site.checkpoints() == site.bitmaps("vda") == site.bitmaps("vdb") == {site.point().checkpoint}


def test_a_raw_disk_is_read_in_full_every_time_beside_one_that_is_tracked(site: LiveSite) -> None:
    plug(site, raw(site.folder, "vdb", b"r" * BLOCK), b"r" * BLOCK)
    site.back_up()
    site.host.write(WEB, "vdb", 9, b"w")
    vda, vdb = site.back_up().disks
    assert (vda.read, vdb.read) == (0, BLOCK)
    assert "raw images keep no record of changes" in vdb.reason
    assert site.restored("vdb") == site.content("vdb")
    assert site.point("vdb").checkpoint is None


def test_a_guest_with_raw_disks_alone_gets_no_checkpoint(tmp_path: Path, scratch: Path) -> None:
    site = new_site(tmp_path, scratch)
    plug(site, raw(tmp_path, "vda", CONTENT), CONTENT)
    site.back_up()
    site.back_up()
    assert (site.restored(), site.checkpoints()) == (CONTENT, set())


def test_a_disk_that_is_shared_is_never_tracked(site: LiveSite) -> None:
    vm = site.host.find_vm(WEB)
    site.host.change(replace(vm, disks=(replace(vm.disks[0], shared=True),)))
    site.back_up()
    report = site.back_up()
    assert "other guests may write" in report.disks[0].reason
    assert report.notes == ("disk vda is shared with other guests",)
    assert (site.restored(), site.checkpoints()) == (CONTENT, set())


def test_an_image_with_internal_snapshots_is_not_tracked(site: LiveSite) -> None:
    qemu("qemu-img", "snapshot", "-c", "monday", site.folder / "vda.qcow2")
    site.back_up()
    assert (site.restored(), site.checkpoints(), site.point().checkpoint) == (CONTENT, set(), None)


def test_checkpoints_of_others_stay_and_old_ones_of_ours_go(site: LiveSite) -> None:
    ours, others = f"donjon-{site.repository.config.id[:8]}-00", "donjon-99999999-00"
    for name in (ours, others, "virtnbdbackup.0"):
        site.host.disk(WEB, "vda").bitmaps[name] = set()
        site.host.adopt_checkpoint(WEB, name, ["vda"])
    for _ in range(2):
        site.back_up()
        assert site.checkpoints() == {others, "virtnbdbackup.0", site.point().checkpoint}
        assert site.bitmaps() == site.checkpoints()


def test_a_checkpoint_that_the_hypervisor_forgot_is_known_again(site: LiveSite) -> None:
    site.back_up()
    site.host.forget_checkpoints(WEB)
    site.host.write(WEB, "vda", 0, b"new")
    assert site.back_up().disks[0].read == BLOCK
    assert site.restored() == site.content()
    assert site.checkpoints() == site.bitmaps() == {site.point().checkpoint}


def test_of_a_forgotten_checkpoint_no_bitmap_stays_either_where_it_is_of_no_use(site: LiveSite) -> None:
    site.back_up()
    site.host.forget_checkpoints(WEB)
    site.resize(3 * MIB)
    site.back_up()
    assert site.checkpoints() == site.bitmaps() == {site.point().checkpoint}


def test_after_the_guests_process_was_killed_all_is_read_and_the_report_says_why(site: LiveSite) -> None:
    site.back_up()
    site.host.write(WEB, "vda", 0, b"new")
    site.host.kill(WEB)
    site.host.start(WEB)
    report = site.back_up().disks[0]
    assert report.read == len(CONTENT) - BLOCK
    assert "the bitmap begun at the last restore point is lost or broken" in report.reason
    assert site.restored() == site.content()
    assert site.back_up().disks[0].read == 0
    assert site.checkpoints() == {site.point().checkpoint}


def test_one_broken_bitmap_costs_its_own_disk_only(tmp_path: Path, scratch: Path) -> None:
    site = new_site(tmp_path, scratch, CONTENT, b"b" * MIB, b"c" * MIB)
    site.back_up()
    site.host.disk(WEB, "vdb").break_bitmaps()
    site.host.write(WEB, "vdc", 0, b"new")
    assert [disk.read for disk in site.back_up().disks] == [0, MIB, BLOCK]
    for target in ("vda", "vdb", "vdc"):
        assert site.restored(target) == site.content(target)


def test_a_bitmap_that_breaks_at_the_last_moment_makes_the_backup_full(site: LiveSite) -> None:
    site.back_up()
    faults = Faults(site.host, 1, CheckpointError("missing or broken bitmap"), only=["begin_backup"])
    site.hypervisor = faults
    report = site.back_up().disks[0]
    assert faults.calls == 2
    assert report.read == len(CONTENT) - BLOCK
    assert report.reason == "the bitmap cannot be used (missing or broken bitmap)"
    assert site.restored() == site.content()
    site.check_nothing_left()


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (ActiveJob("backup", "/run/other"), "another backup of it is under way"),
        (ActiveJob("migration"), r"busy \(migration\)"),
    ],
)
def test_a_job_of_somebody_else_is_left_alone(site: LiveSite, job: ActiveJob, said: str) -> None:
    site.host.foreign_jobs[WEB] = job
    with pytest.raises(RefusedError, match=said) as refused:
        site.back_up()
    assert refused.value.hint
    assert site.host.active_job(WEB) == job
    assert (site.ledger.debts(), site.host.agent(WEB).said, site.count_points()) == ([], [], 0)


def test_a_guest_without_agent_is_taken_as_after_a_crash_and_a_note_says_so(site: LiveSite) -> None:
    site.host.agent(WEB).present = False
    report = site.back_up()
    assert report.restore_point.consistency == "crash"
    assert "not frozen: " in report.notes[0]
    assert site.restored() == CONTENT
    with pytest.raises(HostError, match=r"with filesystem consistency: not frozen: .*agent") as failed:
        site.back_up(least=Consistency.FILESYSTEM)
    assert failed.value.hint
    site.check_nothing_left()
    assert site.checkpoints() == {site.point().checkpoint}
    assert site.back_up(quiesce=Quiesce.CRASH).notes == ()


def test_a_paused_guest_is_backed_up_and_stays_paused(site: LiveSite) -> None:
    site.host.suspend(WEB)
    report = site.back_up()
    assert report.restore_point.consistency == "crash"
    assert site.host.power(WEB) is Power.PAUSED
    site.host.resume(WEB)
    site.host.write(WEB, "vda", 0, b"new")
    assert site.back_up().disks[0].read == BLOCK
    assert site.restored() == site.content()


def test_nothing_is_read_while_the_guest_is_frozen(site: LiveSite) -> None:
    seen: dict[str, bool] = {}

    def look(point: str) -> None:
        seen.setdefault(point, site.host.agent(WEB).frozen)
        if point == "live.frozen":
            assert site.host.active_job(WEB) is None
            assert set(site.watchdog.armed_for) == {WEB}

    with listening(look):
        site.back_up()
    assert (seen["live.frozen"], seen["live.begun"], seen["live.read"]) == (True, True, False)
    assert not any(site.host.agent(WEB).frozen for point in seen if point.startswith("writer"))


@pytest.mark.parametrize("end", ["kill", "power_off"])
def test_a_guest_that_ends_meanwhile_is_known_by_its_error(site: LiveSite, end: str) -> None:
    site.back_up()
    site.host.write(WEB, "vda", 0, b"new")
    base = site.point().checkpoint
    with pytest.raises(GuestEndedError, match="web01: it was turned off meanwhile"):
        site.back_up(progress=AtOnce(lambda: getattr(site.host, end)(WEB)))
    site.check_nothing_left()
    site.host.start(WEB)
    assert site.back_up().disks[0].kept == (len(CONTENT) - BLOCK if end == "power_off" else 0)
    assert site.restored() == site.content()
    assert base not in site.checkpoints()


@pytest.mark.parametrize("point", ["live.owed", "live.frozen", "live.begun"])
def test_a_guest_that_ends_while_its_backup_begins_can_be_backed_up_offline_at_once(site: LiveSite, point: str) -> None:
    live, offline = site.method(), Offline(site.host, site.ledger, site.repository.config.id, OfflineOptions())
    taken: list[object] = []

    def end(reached: str) -> None:
        if reached == point:
            site.host.power_off(WEB)

    def take(_: Vm, method: Method) -> None:
        taken.append(method if method is live else getattr(method, "method", None))
        site.back_up_by(method)

    ways = Ways(site.host, live, offline)
    with listening(end):
        ways.back_up(WEB, take)
    assert taken == [live, offline]
    site.check_nothing_left()


def test_where_the_scratch_disk_is_filling_up_the_backup_is_given_up_and_says_so(site: LiveSite) -> None:
    def give_up() -> None:
        (watched,) = site.watchdog.scratch.values()
        site.host.end_backup(WEB, watched[1], 1)
        site.watchdog.alarms[-1].fired = True

    with pytest.raises(HostError, match=f"the space in {site.scratch} ran out.* the guest goes on") as failed:
        site.back_up(progress=AtOnce(give_up))
    assert "--scratch" in (failed.value.hint or "")
    assert site.host.power(WEB) is Power.RUNNING
    site.check_nothing_left()


def test_without_enough_space_for_scratch_nothing_is_begun(site: LiveSite) -> None:
    with pytest.raises(HostError, match="MiB are free"):
        site.back_up(least_free=1 << 60)
    assert (site.host.agent(WEB).said, site.host.active_job(WEB)) == ([], None)
    site.check_nothing_left()


def test_where_no_watchdog_can_be_had_nothing_is_frozen_and_nothing_left(site: LiveSite) -> None:
    site.watchdog.asleep = True
    with pytest.raises(HostError, match="cannot arm the watchdog"):
        site.back_up()
    assert "freeze" not in site.host.agent(WEB).said
    site.check_nothing_left()


def test_disks_that_are_changed_meanwhile_are_not_mixed_up(site: LiveSite) -> None:
    def swap(point: str) -> None:
        if point == "live.begun":
            plug(site, qcow2(site.folder, "vdb", b"b" * MIB), b"b" * MIB)

    with listening(swap), pytest.raises(HostError, match="its disks were changed meanwhile"):
        site.back_up()
    site.check_nothing_left()
    assert site.count_points() == 0


def test_a_disk_that_is_resized_between_look_and_job_is_not_taken_for_another(site: LiveSite) -> None:
    def resize(point: str) -> None:
        if point == "live.owed":
            site.host.disk(WEB, "vda").resize(3 * MIB)

    with listening(resize), pytest.raises(HostError, match="vda was resized meanwhile"):
        site.back_up()
    site.check_nothing_left()


@pytest.mark.parametrize(
    "name",
    ["two words", 'it\'s "quoted"', "R&D <prod>", "Bücher 東京", "a\nb", "-rf", "100%", "a,b=c:d"],
)
def test_names_are_only_names(tmp_path: Path, scratch: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    site = new_site(folder, scratch, CONTENT)
    site.host.change(replace(site.host.find_vm(WEB), name=name))
    site.back_up()
    site.host.write(WEB, "vda", 0, b"new")
    assert site.back_up().disks[0].read == BLOCK
    assert site.restored() == site.content()
    assert site.manifest().vm_name == name
    assert site.point().source == str(folder / "vda.qcow2")
    site.host.power_off(WEB)
    site.ledger.settle()
    site.check_nothing_left()


def test_the_image_may_be_gone_when_a_checkpoint_is_undone(site: LiveSite) -> None:
    def lose(point: str) -> None:
        if point == "live.begun":
            site.host.power_off(WEB)
            (site.folder / "vda.qcow2").unlink()

    with listening(lose), pytest.raises(HostError):
        site.back_up()
    site.check_nothing_left()


def test_bitmaps_of_a_guest_that_is_off_are_removed_from_its_image(site: LiveSite) -> None:
    image = site.folder / "vda.qcow2"

    def end(point: str) -> None:
        if point == "live.begun":
            (begun,) = site.bitmaps()
            site.host.power_off(WEB)
            subprocess.run(["qemu-img", "bitmap", "--add", image, begun], check=True)

    with listening(end), pytest.raises(HostError):
        site.back_up()
    assert "donjon-" not in qemu("qemu-img", "info", image)
    site.check_nothing_left()
