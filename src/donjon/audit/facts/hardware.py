# SPDX-License-Identifier: Apache-2.0
"""What a host can lend its VMs: PCI devices, functions of network cards, CPU features, kernels.

Source: Linux, Documentation/ABI/testing/sysfs-bus-pci; ip-link(8).
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived

_PLACE = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])/(class|driver|iommu_group)[: ](\S+)")
_FUNCTION = re.compile(r"^(\S+)\s+vf (\d+)\b(.*)$")
_OPTION = re.compile(r"(spoof checking|trust|vlan) (\w+)")


class PciDevice(Struct, frozen=True):
    """A PCI device: its class (0x030000: VGA), the driver that has it, the IOMMU group it is in; "" if none."""

    address: str
    kind: str = ""
    driver: str = ""
    group: str = ""

    @property
    def is_bridge(self) -> bool:
        """Bridges stay with the host whatever their group."""
        return self.kind.startswith("0x0604")


class VirtualFunction(Struct, frozen=True):
    """A function of a network card that can be given to a guest."""

    device: str
    number: int
    vlan: int = 0
    spoof_check: bool = True
    trust: bool = False


class KernelFile(Struct, frozen=True):
    """A kernel, initial ramdisk or device tree that a VM is started with; `package` "" if it is of none."""

    path: str
    sha256: str
    package: str


class Hardware(Struct, frozen=True):
    """`pci` by address; `cpu_flags` of the first CPU; `kernels` by path."""

    pci: Fact[dict[str, PciDevice]]
    functions: Fact[tuple[VirtualFunction, ...]]
    cpu_flags: Fact[tuple[str, ...]]
    kernels: Fact[dict[str, KernelFile]]


def read_hardware(bundle: Bundle) -> Hardware:
    """From the probes of gst.sh."""
    return Hardware(
        derived(bundle.output("pci-devices"), _pci),
        derived(bundle.output("virtual-functions"), _functions),
        derived(bundle.output("cpu-flags"), lambda text: tuple(sorted(text.partition(":")[2].split()))),
        derived(bundle.output("guest-kernels"), _kernels),
    )


def _pci(text: str) -> dict[str, PciDevice]:
    found: dict[str, dict[str, str]] = {}
    for address, what, value in _PLACE.findall(text):
        found.setdefault(address, {})[what] = value
    return {
        address: PciDevice(address, said.get("class", ""), said.get("driver", ""), said.get("iommu_group", ""))
        for address, said in found.items()
    }


def _functions(text: str) -> tuple[VirtualFunction, ...]:
    found = []
    for line in text.splitlines():
        match = _FUNCTION.match(line)
        if match is None:
            raise ValueError("not from ip link")
        device, number, rest = match.groups()
        options = dict(_OPTION.findall(rest))
        vlan = int(options.get("vlan", "0"))
        trusted = options.get("trust") == "on"
        found.append(VirtualFunction(device, int(number), vlan, options.get("spoof checking") != "off", trusted))
    return tuple(found)


def _kernels(text: str) -> dict[str, KernelFile]:
    lines = text.splitlines()
    if lines[-1:] != ["@end"]:
        raise ValueError("it is cut off")
    rows = [line.split("\t", 2) for line in lines[:-1]]
    return {path: KernelFile(path, sha256, package) for path, sha256, package in rows}
