# SPDX-License-Identifier: Apache-2.0
"""Which restore point an operator means by NAME[@WHEN]."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from difflib import get_close_matches

from donjon.errors import ConfigError
from donjon.model.restore_point import RestorePoint

_FORMS = (
    "say latest, the first 4 or more digits of an id, or a time: 2026-11-23, 2026-11-23T08, 2026-11-23T08:30 or "
    "2026-11-23T08:30:59, with Z or +01:00 behind it if it is not local"
)


def find_restore_point(points: Iterable[RestorePoint], name: str, when: str = "latest") -> RestorePoint:
    """The restore point that an operator means.

    Args:
        points: oldest first.
        name: the VM's, or its UUID.
        when: "latest", the first digits of an id, or a time (local unless it names a zone): the last restore point
            taken before the end of the day, hour, minute or second it names.

    Raises:
        ConfigError: there is none, or several VMs of that name.
    """
    points = list(points)
    of_vm = [point for point in points if name in (point.vm_uuid, point.vm_name)]
    if not of_vm:
        known = sorted({point.vm_name for point in points})
        if close := get_close_matches(name, known):
            raise ConfigError(f"cannot find a restore point of {name!r}", hint=f"did you mean {close[0]!r}?")
        listed = ", ".join(known) or "none at all"
        raise ConfigError(f"cannot find a restore point of {name!r}", hint=f"there are restore points of: {listed}")
    if found := _by_id(of_vm, when):
        return found
    if len(vms := {point.vm_uuid for point in of_vm}) > 1:
        uuids = ", ".join(
            sorted(
                f"{point.vm_uuid} (on {point.host}, last {point.taken_at:%Y-%m-%d %H:%M} UTC)"
                for point in {p.vm_uuid: p for p in of_vm}.values()
            )
        )
        raise ConfigError(f"cannot tell which {name!r} is meant: there are {len(vms)}", hint=f"say the UUID: {uuids}")
    if when == "latest":
        return of_vm[-1]
    if found := _by_time(of_vm, when):
        return found
    first = of_vm[0].taken_at.astimezone()
    raise ConfigError(
        f"cannot find a restore point of {name!r} at {when!r}: the first was taken at {first:%Y-%m-%d %H:%M:%S %Z}",
        hint=f"`donjon list` shows all; {_FORMS}",
    )


def split_spec(spec: str, points: Iterable[RestorePoint]) -> tuple[str, str]:
    """NAME[@WHEN] as name and when; a VM whose name has an @ is found all the same."""
    if any(spec in (point.vm_name, point.vm_uuid) for point in points):
        return spec, "latest"
    name, at, when = spec.rpartition("@")
    return (name, when or "latest") if at else (spec, "latest")


def _by_id(points: list[RestorePoint], prefix: str) -> RestorePoint | None:
    """Its id of now goes before the one it was taken under, which others may share."""
    if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
        return None
    found = [point for point in points if point.id.startswith(prefix)]
    found = found or [point for point in points if point.origin.startswith(prefix)]
    if len(found) > 1:
        raise ConfigError(f"cannot tell which restore point {prefix} means: {len(found)} begin like that")
    return found[0] if found else None


def _by_time(points: list[RestorePoint], text: str) -> RestorePoint | None:
    try:
        end = _end_of(text)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"cannot tell when {text!r} is: no restore point has an id that begins like that, and it is no time",
            hint=_FORMS,
        ) from error
    return next((point for point in reversed(points) if point.taken_at < end), None)


def _end_of(text: str) -> datetime:
    """The end of the day, hour, minute or second that a text names. Raises ValueError, OverflowError."""
    moment = datetime.fromisoformat(text)
    spans = (
        (r"[^T ]+", timedelta(days=1)),
        (r"[^T ]+[T ]\d\d", timedelta(hours=1)),
        (r"[^T ]+[T ]\d\d:?\d\d", timedelta(minutes=1)),
        (r"[^T ]+[T ]\d\d:?\d\d:?\d\d", timedelta(seconds=1)),
    )
    time_alone = re.sub(r"(?<=[T ])([\d:.,]+)([Zz]|[+-].*)$", r"\1", text)
    span = next((span for pattern, span in spans if re.fullmatch(pattern, time_alone)), timedelta(microseconds=1))
    return (moment + span).astimezone()
