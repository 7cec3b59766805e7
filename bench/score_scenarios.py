# SPDX-License-Identifier: Apache-2.0
"""The accidents: each happens to a backup of a running guest, whichever tool makes it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from live_guest import NAME
from live_tools import Moment, copy_without_times
from score_stage import Stage

from lab.programs import run

Scenario = Callable[[Stage], None]
AREA_MIB = 8
MANY_MIB = 48
SCRATCH_MIB = 16
FULL_WITHIN_S = 15.0
BIGGER_MIB = 320
FOREIGN = "<domaincheckpoint><name>of-another-tool</name></domaincheckpoint>"


def zeroed(stage: Stage) -> None:
    """An area is overwritten with zeros, another is deleted and trimmed"""
    stage.guest.do(f"write:a:{AREA_MIB}:vda", f"write:b:{AREA_MIB}:vda")
    stage.backup("full")
    stage.guest.do(f"zero:a:{AREA_MIB}:vda", "remove:b:vda")
    stage.exact_backup()
    stage.judge()


def killed_when_recorded(stage: Stage) -> None:
    """Killed (SIGKILL) when it had noted its run, or had read a little; then the next backup"""
    _killed(stage, stage.tool.has_recorded)


def killed_when_begun(stage: Stage) -> None:
    """Killed when the hypervisor had begun to serve the backup; then the next backup"""
    _killed(stage, stage.tool.has_begun)


def _killed(stage: Stage, moment: Moment) -> None:
    stage.backup("full")
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.backup("second", when=moment, signals={signal.SIGKILL: moment})
    stage.look_at_guest("after the kill")
    stage.guest.do(f"write:b:{AREA_MIB}:vda")
    stage.exact_backup()
    stage.judge()


def copied_without_times(stage: Stage) -> None:
    """The backup is copied to another place, the newest file first, by a program that keeps no times"""
    stage.backup("full")
    for _ in range(2):
        stage.guest.do(f"write:a:{AREA_MIB}:vda")
        stage.backup()
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.exact_backup()
    original = stage.tool.kept.rename(stage.tool.home / "original")
    copy_without_times(original, stage.tool.kept)
    for folder in original.rglob("*/"):
        (stage.tool.kept / folder.relative_to(original)).mkdir(parents=True, exist_ok=True)
    stage.judge()


def middle_deleted(stage: Stage) -> None:
    """A file that the second of three backups made is deleted (increment; pack)"""
    stage.backup("full")
    before = stage.tool.pieces()
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.backup("second")
    middle = _largest(stage.tool.pieces() - before)
    stage.guest.do(f"write:b:{AREA_MIB}:vda")
    stage.exact_backup()
    middle.unlink()
    stage.judge()


def flipped(stage: Stage) -> None:
    """One byte of a file of the last backup is flipped"""
    stage.backup("full")
    before = stage.tool.pieces()
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.exact_backup()
    victim = _largest(stage.tool.pieces() - before)
    victim.chmod(0o600)
    with victim.open("r+b") as file:
        file.seek(victim.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    stage.judge()


def _largest(files: set[Path]) -> Path:
    return max(files, key=lambda path: path.stat().st_size)


def killed_while_frozen(stage: Stage) -> None:
    """Killed when the guest was being frozen"""
    stage.backup("full")
    moment = stage.has_hooked()
    stage.backup("second", when=moment, signals={signal.SIGKILL: moment})
    stage.look_at_guest("seconds after the kill")
    stage.exact_backup()
    stage.judge()


def terminated(stage: Stage) -> None:
    """Stopped by SIGTERM while it reads"""
    moment = stage.tool.is_reading
    stage.backup("full")
    stage.guest.do(f"write:a:{MANY_MIB}:vda")
    stage.backup("second", when=moment, signals={signal.SIGTERM: moment})
    stage.look_at_guest("after the signal")
    stage.look_at_host("after the signal")
    stage.exact_backup()
    stage.judge()


def qemu_killed(stage: Stage) -> None:
    """QEMU is killed (as by a power cut): bitmaps are lost; the guest boots again"""
    stage.backup("full")
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.guest.kill()
    stage.guest.boot()
    stage.guest.do(f"write:b:{AREA_MIB}:vda")
    stage.exact_backup()
    stage.judge()


def checkpoint_unknown(stage: Stage) -> None:
    """libvirt has forgotten the checkpoint (migration, definition made anew); QEMU has its bitmap"""
    stage.backup("full")
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.guest.forget_checkpoints(bitmaps=False)
    stage.exact_backup()
    stage.judge()


def foreign_checkpoint(stage: Stage) -> None:
    """Another tool keeps a checkpoint, too"""
    stage.backup("full")
    xml = stage.guest.folder / "checkpoint.xml"
    xml.write_text(FOREIGN)
    stage.guest.virsh("checkpoint-create", NAME, str(xml))
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.exact_backup()
    stage.judge()


def new_disk(stage: Stage) -> None:
    """The guest is given a second disk"""
    stage.backup("full")
    image = stage.guest.folder / "vdb.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", stage.guest.kit.initramfs, image)
    words = ["--targetbus", "virtio", "--driver", "qemu", "--subdriver", "qcow2", "--live", "--config"]
    stage.guest.virsh("attach-disk", NAME, str(image), "vdb", *words)
    stage.exact_backup()
    stage.judge()


def resized(stage: Stage) -> None:
    """The disk grows, and what is new is written to"""
    stage.backup("full")
    stage.guest.virsh("blockresize", NAME, "vda", f"{BIGGER_MIB}M")
    stage.guest.do("grow:vda", f"write:a:{2 * MANY_MIB}:vda")
    stage.exact_backup()
    stage.judge()


def scratch_full(stage: Stage) -> None:
    """The tool is held up while the guest overwrites more than scratch has room for"""
    stage.guest.do(f"write:a:{MANY_MIB}:vda")
    with stage.small_scratch(SCRATCH_MIB):
        overwritten = _overwriting(stage)
        moment = stage.tool.is_reading
        stage.backup("full", when=moment, signals={signal.SIGSTOP: overwritten, signal.SIGCONT: overwritten})
        stage.look_at_guest("when scratch was full")
    stage.exact_backup()
    stage.judge()


def _overwriting(stage: Stage) -> Moment:
    """First asked, let the guest overwrite files; true when it is paused by that, or has had the time it needs."""
    begun: list[float] = []

    def over() -> bool:
        if not begun:
            stage.guest.do_later(f"write:a:{MANY_MIB}:vda")
            begun.append(time.monotonic())
        time.sleep(0.5)
        return stage.guest.state == "paused" or time.monotonic() > begun[0] + FULL_WITHIN_S

    return over


def offline_between(stage: Stage) -> None:
    """The guest is shut down and backed up; it is started again, and backed up"""
    stage.backup("full")
    stage.guest.do(f"write:a:{AREA_MIB}:vda")
    stage.guest.shut_down()
    stage.backup("while it is off: backup")
    stage.guest.boot()
    stage.guest.do(f"write:b:{AREA_MIB}:vda")
    stage.exact_backup()
    stage.judge()


SCENARIOS: tuple[Scenario, ...] = (
    zeroed,
    killed_when_recorded,
    killed_when_begun,
    copied_without_times,
    middle_deleted,
    flipped,
    killed_while_frozen,
    terminated,
    qemu_killed,
    checkpoint_unknown,
    foreign_checkpoint,
    new_disk,
    resized,
    scratch_full,
    offline_between,
)
