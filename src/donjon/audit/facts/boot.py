# SPDX-License-Identifier: Apache-2.0
"""How the host boots: firmware, TPM, boot loader, consoles.

Source: UEFI 2.10, 3.3 "Globally Defined Variables"; GNU GRUB manual, "Security"; systemd's loader.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, derived

_PLACE = re.compile(r"(/[^:]+):(\d+):(.*)")
_OPTION = re.compile(r"Boot([0-9A-Fa-f]{4})(\*| ) ?([^\t]*)(?:\t(.*))?")


class Firmware(Struct, frozen=True):
    """`kind` is "uefi" or "bios"; the others are bytes of EFI variables, None where there is no such variable."""

    kind: str
    secure_boot: int | None = None
    setup_mode: int | None = None


class Tpm(Struct, frozen=True):
    """`version` 0: it does not say; `log` in bytes, None: not seen; `pcrs` of the SHA-256 bank, by number."""

    version: int
    log: int | None
    pcrs: dict[str, str]


class Line(Struct, frozen=True):
    """A line of a file; `place` is "PATH:LINE"."""

    place: str
    text: str

    @property
    def path(self) -> str:
        """The file."""
        return self.place.rpartition(":")[0]


class BootLoader(Struct, frozen=True):
    """Its `files`; `entries`: lines that load something, with their options; `protection`: passwords (kinds only)."""

    files: tuple[str, ...]
    entries: tuple[Line, ...]
    protection: tuple[Line, ...]


class BootOption(Struct, frozen=True):
    """An entry of the firmware's boot menu; `device` is its device path as efibootmgr writes it."""

    number: str
    label: str
    device: str
    active: bool


class BootMenu(Struct, frozen=True):
    """The firmware's boot menu, in its order; `current` is the number of what was booted, "" if it does not say."""

    current: str
    order: tuple[BootOption, ...]


class Boot(Struct, frozen=True):
    """How the host boots. `tpm` is Absent if there is none; `consoles`: what units of gettys and rescue shells run."""

    firmware: Fact[Firmware]
    tpm: Fact[Tpm]
    loader: Fact[BootLoader]
    menu: Fact[BootMenu]
    consoles: Fact[tuple[Line, ...]]
    inittab: Fact[str]
    sysv_init: Fact[str]


def read_boot(bundle: Bundle) -> Boot:
    """From the probes firmware, tpm, boot-loader, efibootmgr and console-units, and /etc/inittab."""
    tpm = bundle.output("tpm")
    if isinstance(tpm, Known) and tpm.value.split() == ["none"]:
        tpm = Absent(tpm.source)
    return Boot(
        firmware=derived(bundle.output("firmware"), _firmware),
        tpm=derived(tpm, _tpm),
        loader=derived(bundle.output("boot-loader"), _loader),
        menu=derived(bundle.output("efibootmgr"), _menu),
        consoles=derived(bundle.output("console-units"), lambda text: tuple(_lines(text.splitlines()))),
        inittab=bundle.text("/etc/inittab"),
        sysv_init=bundle.text("/etc/sysconfig/init"),
    )


def _firmware(text: str) -> Firmware:
    words = _pairs(text)
    kind = words.pop("firmware")
    if kind not in {"uefi", "bios"}:
        raise ValueError(f"firmware {kind!r}")
    byte = {name: int(value) for name, value in words.items()}
    return Firmware(kind, byte.get("SecureBoot"), byte.get("SetupMode"))


def _tpm(text: str) -> Tpm:
    words = _pairs("\n".join(line for line in text.splitlines() if not line.startswith("pcr ")))
    pcrs = dict(line.split()[1:3] for line in text.splitlines() if line.startswith("pcr "))
    return Tpm(int(words.get("version", "0")), int(words["log"]) if "log" in words else None, pcrs)


def _pairs(text: str) -> dict[str, str]:
    """Lines of a name and one value; without a value they cannot be understood."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: row[1] for row in rows}


def _loader(text: str) -> BootLoader:
    names = [line.removeprefix("file ") for line in text.splitlines() if line.startswith("file ")]
    lines = list(_lines(line for line in text.splitlines() if not line.startswith("file ")))
    protection = [line for line in lines if line.text.split()[:1] in (["superusers"], ["password"], ["editor"])]
    return BootLoader(tuple(names), tuple(line for line in lines if line not in protection), tuple(protection))


def _lines(lines: Iterator[str] | list[str]) -> Iterator[Line]:
    for line in lines:
        found = _PLACE.fullmatch(line)
        if found is None:
            raise ValueError(f"{line[:40]!r} names no place")
        yield Line(f"{found[1]}:{found[2]}", found[3])


def _menu(text: str) -> BootMenu:
    """As efibootmgr -v prints it: a tab is between label and device path, if there is one."""
    options = {found[1].upper(): found for line in text.splitlines() if (found := _OPTION.fullmatch(line))}
    words = dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"Boot(Order|Current): ", line))
    order = [number.strip().upper() for number in words["BootOrder"].split(",")]
    return BootMenu(
        words.get("BootCurrent", "").strip().upper(),
        tuple(
            BootOption(number, found[3].strip(), found[4] or "", found[2] == "*")
            for number, found in ((number, options[number]) for number in order if number in options)
        ),
    )
