# SPDX-License-Identifier: Apache-2.0
"""Memory of the host: KSM, swap, and how much there is.

Source: Documentation/admin-guide/mm/ksm.rst of Linux; proc_meminfo(5); xl(1), "info".
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, derived


class Ksm(Struct, frozen=True):
    """Kernel samepage merging: `run` is 0 (off), 1 (on) or 2 (off, and all merged pages were taken apart)."""

    run: int
    sharing: int
    across_nodes: bool = True


class Memory(Struct, frozen=True):
    """Sizes in KiB. `total`: of the machine; under Xen what dom0 sees is less than `xen_total`."""

    ksm: Fact[Ksm]
    total: Fact[int]
    swap_used: Fact[int]
    guests_in_swap: Fact[int]
    """How much of device models, guests' memory with them, is in the host's swap."""
    xen_total: Fact[int]
    autoballoon: Fact[str]
    """Of xl.conf: "auto", "on", "off", "1", "0"."""


def read_memory(bundle: Bundle) -> Memory:
    """From the probes "ksm", "meminfo", "guest-swap" and "xen-info"."""
    meminfo = bundle.output("meminfo")
    return Memory(
        ksm=derived(bundle.output("ksm"), _ksm),
        total=derived(meminfo, lambda text: _kib(text)["MemTotal"]),
        swap_used=derived(meminfo, lambda text: _kib(text)["SwapTotal"] - _kib(text)["SwapFree"]),
        guests_in_swap=derived(bundle.output("guest-swap"), _guests_in_swap),
        xen_total=derived(bundle.output("xen-info"), _xen_total),
        autoballoon=_autoballoon(bundle.text("/etc/xen/xl.conf")),
    )


def _autoballoon(text: Fact[str]) -> Fact[str]:
    if not isinstance(text, Known):
        return text
    found = re.findall(r"^\s*autoballoon\s*=\s*[\"']?(\w+)", text.value, re.MULTILINE)
    return Known(found[-1], text.source) if found else Absent(text.source)


def _ksm(text: str) -> Ksm:
    values = dict(line.split(":", 1) for line in text.splitlines())
    return Ksm(int(values["run"]), int(values["pages_sharing"]), values.get("merge_across_nodes", "1").strip() != "0")


def _kib(text: str) -> dict[str, int]:
    return {key: int(number) for key, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def _guests_in_swap(text: str) -> int:
    """Lines "PID KIB", and "processes NUMBER" at the end."""
    *rows, last = text.splitlines() or [""]
    if not last.startswith("processes "):
        raise ValueError("the list has no end")
    return sum(int(row.split()[1]) for row in rows)


def _xen_total(text: str) -> int:
    found = re.search(r"^total_memory\s*:\s*(\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError("total_memory is not in it")
    return int(found[1]) * 1024
