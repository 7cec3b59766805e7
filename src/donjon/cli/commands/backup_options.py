# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a backup: on the command line, in a policy of the configuration, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from cyclopts import Parameter

from donjon.backup.methods.live import LiveOptions
from donjon.backup.methods.offline import OfflineOptions, WhenRunning
from donjon.backup.sample import Sampling
from donjon.cli.options import Connect
from donjon.config import PolicySettings, RepositorySettings
from donjon.errors import ConfigError
from donjon.model.restore_point import Consistency
from donjon.quiesce.freeze import Quiesce
from donjon.repository.ordered import worker_count
from donjon.repository.writer import WriteOptions

PARALLEL = 2
_MIB = 1 << 20

Level = Literal["crash", "filesystem", "application"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which VMs."""

    all: bool = False
    """Every VM of the host."""

    label: Annotated[tuple[str, ...], Parameter(metavar="KEY[=VALUE]")] = ()
    """VMs with this label; may be repeated."""

    policy: Annotated[str | None, Parameter(metavar="NAME")] = None
    """What the configuration says under [policy.NAME]."""

    connect: Connect = None

    disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET=PATH[,format=F]")] = ()
    """Without libvirt: a disk of the VM; may be repeated."""

    definition: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Without libvirt: the VM's definition (libvirt's XML); --disk overrides its paths."""

    parallel: Annotated[int | None, Parameter(metavar="N")] = None
    """How many VMs are backed up at a time (else 2)."""

    together: bool = False
    """All of them at one moment: guests that run, frozen together, as a consistency group."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a guest is held still, or not."""

    method: Annotated[Literal["live", "offline"] | None, Parameter(metavar="live|offline")] = None
    """live: only guests that run; offline: only such as do not (else what suits the guest)."""

    shutdown: bool = False
    """Shut a running guest down for the time it takes, and start it again."""

    suspend: bool = False
    """Suspend a running guest meanwhile; its disks are as after a power cut."""

    shutdown_timeout: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """How long a guest may take to shut down (else 300); after that it is left running."""

    quiesce: Annotated[Level | None, Parameter(metavar="LEVEL")] = None
    """What its agent freezes: crash (nothing), filesystem (the default), or application (its freeze hooks run)."""

    least: Annotated[Level | None, Parameter(metavar="LEVEL")] = None
    """Fail where less than this consistency is reached: crash, filesystem or application."""

    freeze_deadline: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """After that a guest is thawed whatever happens (else 10)."""

    scratch: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Local disk for what a guest overwrites while it is read (else /var/tmp)."""

    least_free_scratch: Annotated[int | None, Parameter(metavar="MIB")] = None
    """With less left there, the backup is given up, so that the guest goes on (else 512)."""

    witness: Annotated[tuple[str, ...], Parameter(metavar="PATH")] = ()
    """File in a running guest whose hash is kept, for `donjon drill` to compare; may be repeated."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is read, and how it is stored."""

    include_isos: bool = False
    """Back up CDs and floppies, too."""

    skip_disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET")] = ()
    """Leave this disk out; may be repeated."""

    change_tracking: Annotated[bool, Parameter(negative="--no-change-tracking")] = True
    """Keep a bitmap in qcow2 images, so that the next backup reads changes only."""

    compare_within: Annotated[int | None, Parameter(metavar="DAYS")] = None
    """Read and compare each block that is said to be unchanged once in so many days (else 30); 0: never."""

    compression: Annotated[int | None, Parameter(metavar="1..19")] = None
    """zstd level: 1 is fast, 19 small (else the configuration's, or 1)."""

    pack_size: Annotated[int | None, Parameter(metavar="MIB")] = None
    """Size of the repository's data files, 16 to 128 (else the configuration's, or 16)."""

    verify_writes: bool = False
    """Open every block again before it is stored: finds bad memory."""


class Wishes(NamedTuple):
    """What is to be done, from all places where it can be said.

    `live` is None where guests that run are not to be backed up live, `offline` where those that are off are not to be
    backed up; `warn_below` is the consistency below which there is a warning.
    """

    live: LiveOptions | None
    offline: OfflineOptions | None
    least: Consistency
    warn_below: Consistency
    write: WriteOptions
    sampling: Sampling
    parallel: int
    together: bool


def wishes(
    choice: Choice, manner: Manner, content: Content, policy: PolicySettings, settings: RepositorySettings
) -> Wishes:
    """What follows from the command line, the policy and the configuration of the repository, in this order.

    Raises:
        ConfigError: it makes no sense.
    """
    check_numbers(choice, manner, content)
    if relative := [path for path in (*manner.witness, *policy.witness) if not path.startswith("/")]:
        raise ConfigError(f"cannot keep the hash of {relative[0]!r}: it is no path from the root of the guest")
    when_running = _when_running(manner, policy)
    together = choice.together or policy.together
    if together and when_running != "live":
        raise ConfigError("cannot back up VMs together: only live backups can begin at one moment")
    level = manner.least or policy.least
    asked = Consistency[level.upper()] if level else Consistency.CRASH
    must = manner.least is not None or policy.below_least == "fail"
    parallel = 1 if together else choice.parallel or policy.parallel or PARALLEL
    days = content.compare_within if content.compare_within is not None else policy.compare_within
    return Wishes(
        live=_live_options(manner, content, policy, asked if level and must else None)
        if when_running == "live"
        else None,
        offline=None if manner.method == "live" else _offline_options(when_running, manner, content, policy),
        least=asked if must else Consistency.CRASH,
        warn_below=asked,
        write=_write_options(content, settings, parallel),
        sampling=Sampling() if days is None else Sampling(days),
        parallel=parallel,
        together=together,
    )


def check_numbers(choice: Choice, manner: Manner, content: Content) -> None:
    """Do nothing if what was said on the command line can be meant. Raises ConfigError."""
    if manner.shutdown and manner.suspend:
        raise ConfigError("cannot both shut guests down and suspend them")
    if manner.method == "live" and (manner.shutdown or manner.suspend):
        raise ConfigError("cannot back up live what is shut down or suspended", hint="say one of them")
    _check("compress at level {}", content.compression, 1, 19)
    _check("make packs of {} MiB", content.pack_size, 16, 128)
    _check("back up {} VMs at a time", choice.parallel, 1)
    _check("compare within {} days", content.compare_within, 0)
    _check("leave {} MiB free", manner.least_free_scratch, 0)
    _check("thaw a guest after {} s", manner.freeze_deadline, 0.1)
    _check("wait {} s for a guest to shut down", manner.shutdown_timeout, 0)


def _check(what: str, number: float | None, least: float, most: float = inf) -> None:
    if number is not None and not least <= number <= most:
        bounds = f"{least:g} or more" if most == inf else f"{least:g} to {most:g}"
        raise ConfigError(f"cannot {what.format(f'{number:g}')}: it is {bounds}")


def _when_running(manner: Manner, policy: PolicySettings) -> str:
    """What is done with a guest that runs, as a policy says it."""
    if manner.shutdown:
        return WhenRunning.SHUT_DOWN.value
    if manner.suspend:
        return WhenRunning.SUSPEND.value
    if manner.method == "live":
        return "live"
    if manner.method == "offline" and policy.when_running == "live":
        return WhenRunning.REFUSE.value
    return policy.when_running


def _live_options(manner: Manner, content: Content, policy: PolicySettings, least: Consistency | None) -> LiveOptions:
    usual = LiveOptions()
    scratch = manner.scratch or policy.scratch
    least_free = manner.least_free_scratch if manner.least_free_scratch is not None else policy.least_free_scratch
    quiesce = Quiesce[(manner.quiesce or policy.quiesce).upper()]
    if least is not None and least > quiesce.consistency:
        raise ConfigError(
            f"cannot reach {least.name.lower()} consistency: guests are only quiesced to {quiesce.value}",
            hint=f"say --quiesce {least.name.lower()}, too",
        )
    return LiveOptions(
        include_isos=content.include_isos or policy.include_isos,
        skip_disks=frozenset((*content.skip_disk, *policy.skip_disks)),
        track_changes=content.change_tracking and policy.change_tracking,
        quiesce=quiesce,
        least=least,
        scratch_directory=Path(scratch).absolute() if scratch else usual.scratch_directory,
        least_free=usual.least_free if least_free is None else least_free * _MIB,
        freeze_deadline_s=manner.freeze_deadline or policy.freeze_deadline or usual.freeze_deadline_s,
        witness=(*manner.witness, *policy.witness),
    )


def _offline_options(when_running: str, manner: Manner, content: Content, policy: PolicySettings) -> OfflineOptions:
    timeout_s = manner.shutdown_timeout or policy.shutdown_timeout or OfflineOptions().shutdown_timeout_s
    return OfflineOptions(
        when_running=WhenRunning.REFUSE if when_running == "live" else WhenRunning(when_running),
        shutdown_timeout_s=timeout_s,
        include_isos=content.include_isos or policy.include_isos,
        skip_disks=frozenset((*content.skip_disk, *policy.skip_disks)),
        track_changes=content.change_tracking and policy.change_tracking,
    )


def _write_options(content: Content, settings: RepositorySettings, parallel: int) -> WriteOptions:
    usual = WriteOptions()
    pack_size = content.pack_size or settings.pack_size
    return WriteOptions(
        level=content.compression or settings.compression or usual.level,
        pack_size=pack_size * _MIB if pack_size else usual.pack_size,
        verify=content.verify_writes,
        workers=max(1, worker_count() // parallel),
    )
