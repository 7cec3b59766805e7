# SPDX-License-Identifier: Apache-2.0
"""Where on a guest's volumes a path leads: `/VOLUME/etc/hosts`, or `/etc/hosts` if only one volume has it."""

from __future__ import annotations

from dataclasses import dataclass

from donjon.errors import ConfigError, HostError
from donjon.guest_files.guest import GuestFiles
from donjon.guest_files.messages import Entry, Volume


@dataclass(frozen=True, slots=True)
class Place:
    """A path within a volume."""

    volume: str
    path: tuple[str, ...]


def split_place(spec: str) -> tuple[str, str]:
    """VM[@WHEN]:/PATH as restore point and path; VM[@WHEN] and VM[@WHEN]: mean the top."""
    point, colon, path = spec.partition(":/")
    if colon:
        return point, f"/{path}"
    return spec.removesuffix(":"), "/"


def find_place(guest: GuestFiles, path: str) -> Place | None:
    """Where a path leads; None if it is the top, above all volumes. A slash at its end follows a link there.

    Raises:
        ConfigError: nowhere, or to several volumes.
        HostError: to a volume that cannot be read.
    """
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if not parts:
        return None
    inside = (".",) if path.endswith("/") else ()
    for volume in guest.volumes:
        name = tuple(volume.name.split("/"))
        if parts[: len(name)] == name:
            _check_readable(volume)
            return Place(volume.name, (*parts[len(name) :], *inside))
    places = [Place(v.name, (*parts, *inside)) for v in guest.volumes if v.readable and _exists(guest, v.name, parts)]
    if len(places) == 1:
        return places[0]
    if places:
        several = ", ".join(f"/{place.volume}/{'/'.join(parts)}" for place in places)
        raise ConfigError(f"cannot tell which {path} is meant: several volumes have it", hint=f"say: {several}")
    known = ", ".join(f"/{volume.name} ({volume.content})" for volume in guest.volumes) or "none"
    raise ConfigError(f"cannot find {path}: no volume that can be read has it", hint=f"the volumes are: {known}")


def _exists(guest: GuestFiles, volume: str, parts: tuple[str, ...]) -> bool:
    try:
        return any(isinstance(found, Entry) for found in list(guest.walk(volume, parts, depth=0)))
    except FileNotFoundError:
        return False


def _check_readable(volume: Volume) -> None:
    if volume.readable:
        return
    reason = volume.unreadable or f"it is {volume.content}"
    hint = "say --luks-passphrase-file FILE, or --luks to be asked for it" if volume.content == "LUKS" else None
    raise HostError(f"cannot read the files of {volume.name}: {reason}", hint=hint)
