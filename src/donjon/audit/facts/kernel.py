# SPDX-License-Identifier: Apache-2.0
"""The kernel and the CPU: vulnerabilities, microcode, modules, IOMMU, mandatory access control, device models.

Source: linux/Documentation/ABI/testing/sysfs-devices-system-cpu; proc_pid_status(5).
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, derived

# Makers and models by which virtual machines introduce themselves in the tables of their firmware.
_VIRTUAL = re.compile(r"QEMU|VMware|VirtualBox|Bochs|KVM|Virtual Machine|HVM domU|Google Compute|Amazon EC2|Xen", re.I)


class Cpu(Struct, frozen=True):
    """The first CPU. `microcode` is its revision, "" if it does not say; `virtual`: it says a hypervisor runs it."""

    vendor: str
    model: str
    microcode: str
    virtual: bool


class MandatoryAccess(Struct, frozen=True):
    """SELinux is "enforcing", "permissive" or ""; so is `configured`. `profiles` of AppArmor are those enforced."""

    selinux: str = ""
    apparmor: bool = False
    profiles: int | None = None
    configured: str = ""


class DeviceModel(Struct, frozen=True):
    """A QEMU process: effective user, effective capabilities, and mode of seccomp (2: a filter; -1: unknown)."""

    pid: int
    uid: int
    capabilities: int
    seccomp: int


class Kernel(Struct, frozen=True):
    """Facts of kernel and CPU.

    `vulnerabilities`: file -> text; `virtual_machine`: the firmware says this is one; `parameters`: "MODULE.NAME" ->
    text; `iommus`: their names; `iommu_messages`: what the kernel said of them, and of its start if it still knows.
    """

    vulnerabilities: Fact[dict[str, str]]
    cpu: Fact[Cpu]
    virtual_machine: Fact[bool]
    parameters: Fact[dict[str, str]]
    mandatory_access: Fact[MandatoryAccess]
    iommus: Fact[tuple[str, ...]]
    iommu_messages: Fact[tuple[str, ...]]
    device_models: Fact[tuple[DeviceModel, ...]]


def read_kernel(bundle: Bundle) -> Kernel:
    """From the probes of hyp.sh."""
    return Kernel(
        vulnerabilities=derived(bundle.output("cpu-vulnerabilities"), lambda text: _table(text, ":")),
        cpu=derived(bundle.output("cpu"), _cpu),
        virtual_machine=derived(bundle.output("dmi"), lambda text: bool(_VIRTUAL.search(_not_empty(text)))),
        parameters=derived(bundle.output("module-parameters"), lambda text: _table(text, "=")),
        mandatory_access=derived(bundle.output("mandatory-access"), _mandatory_access),
        iommus=derived(bundle.output("iommu"), lambda text: tuple(text.split())),
        iommu_messages=derived(bundle.output("iommu-messages"), lambda text: tuple(text.splitlines())),
        device_models=derived(bundle.output("device-models"), _device_models),
    )


def has(messages: Fact[tuple[str, ...]], pattern: str) -> bool:
    """Whether the kernel is known to have said something like it."""
    return isinstance(messages, Known) and any(re.search(pattern, line) for line in messages.value)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("it says nothing")
    return text


def _table(text: str, between: str) -> dict[str, str]:
    rows = [line.split(between, 1) for line in text.splitlines()]
    return {name.strip(): value.strip() for name, value in rows}


def _cpu(text: str) -> Cpu:
    words = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    model = "-".join(words[name] for name in ("cpu family", "model", "stepping"))
    return Cpu(words["vendor_id"], model, words.get("microcode", ""), "hypervisor" in words["flags"].split())


def _mandatory_access(text: str) -> MandatoryAccess:
    rows = [line.split(None, 1) for line in text.splitlines()]
    words = {row[0]: row[1] for row in rows}
    if "selinux" in words and words["selinux"] not in {"0", "1"}:
        raise ValueError(f"selinux {words['selinux']!r}")
    return MandatoryAccess(
        {"1": "enforcing", "0": "permissive", "": ""}[words.get("selinux", "")],
        words.get("apparmor") == "Y",
        int(words["profiles"]) if "profiles" in words else None,
        words.get("configured", "").strip().lower(),
    )


def _device_models(text: str) -> tuple[DeviceModel, ...]:
    lines = text.splitlines()
    if not lines or not lines[-1].startswith("processes ") or int(lines[-1].split()[1]) < 1:
        raise ValueError("the list has no end")
    rows = [dict(word.split("=", 1) for word in line.split()) for line in lines[:-1]]
    return tuple(
        DeviceModel(
            pid=int(row["pid"]),
            uid=int(row["uid"]),
            capabilities=int(row["capabilities"], 16),
            seccomp=int(row.get("seccomp", "-1")),
        )
        for row in rows
    )
