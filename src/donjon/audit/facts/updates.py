# SPDX-License-Identifier: Apache-2.0
"""Pending updates, how old the knowledge of them is, package sources, live patches, and Xen as installed.

Source: apt's lists; dnf(8) and yum(8), "updateinfo list"; xl(1), "info" and xen-livepatch(8).
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.packages import Package, Packages, read_packages
from donjon.audit.facts.sources import WeakSource, read_sources
from donjon.audit.package_versions import compare_deb, compare_rpm

_NEVRA = re.compile(r"(?P<name>.+)-(?P<evr>[^-]+-[^-]+)\.(?P<arch>[^.-]+)")
_ADVISORY = re.compile(r"[A-Z][A-Z0-9-]*-\d{4}[:-][\w.-]+")
_XEN_KEY = re.compile(r"^(\w+)\s*:\s?(.*)$", re.MULTILINE)


class Update(Struct, frozen=True):
    """A security update that waits. `severity` as the distribution says it: "Important"; "" if it says nothing."""

    name: str
    installed: str
    offered: str
    advisory: str = ""
    severity: str = ""


class XenBuild(Struct, frozen=True):
    """The hypervisor that runs: release "4.17.7", what follows it ("" or "OVM"), build id in hex, "" before Xen 4.9."""

    release: str
    extra: str
    build_id: str
    command_line: tuple[str, ...] = ()


class XenImage(Struct, frozen=True):
    """A hypervisor in /boot; `build_id` is "" if it has none."""

    path: str
    build_id: str


class Updates(Struct, frozen=True):
    """Facts of updates. `refreshed`: when the package manager last heard of any, in seconds since 1970."""

    pending: Fact[tuple[Update, ...]]
    refreshed: Fact[int]
    weak_sources: Fact[tuple[WeakSource, ...]]
    live_patches: Fact[tuple[str, ...]]
    running_build: Fact[str]
    """Debian tells in uname which build runs: "6.1.119-1"; its release, "6.1.0-28-amd64", stays the same."""
    effective_kernel: Fact[str]
    """By Ksplice: the release that the running kernel amounts to with its live patches."""
    xen: Fact[XenBuild]
    xen_images: Fact[tuple[XenImage, ...]]
    xen_live_patches: Fact[tuple[str, ...]]
    xen_fixed: Fact[tuple[str, ...]]
    """Xen advisories that the changelog of the hypervisor's package names."""


def read_updates(bundle: Bundle) -> Updates:
    """From the package manager's own lists, the kernel, and xl info."""
    packages = read_packages(bundle)
    return Updates(
        pending=_pending(bundle, packages),
        refreshed=_refreshed(bundle),
        weak_sources=read_sources(bundle),
        live_patches=derived(bundle.output("live-patches"), _enabled),
        running_build=_running_build(bundle),
        effective_kernel=derived(bundle.output("uptrack"), lambda text: text.split()[0]),
        xen=derived(bundle.output("xen-info"), _xen),
        xen_images=derived(bundle.output("xen-images"), _images),
        xen_live_patches=derived(bundle.output("xen-livepatch"), _applied),
        xen_fixed=derived(bundle.output("xen-changelog"), lambda text: tuple(sorted(set(text.split())))),
    )


def _running_build(bundle: Bundle) -> Fact[str]:
    uname = bundle.output("uname")
    if not isinstance(uname, Known):
        return uname
    match = re.search(r" Debian (\d\S*) \(", uname.value)
    return Known(match[1], uname.source) if match else Absent(uname.source)


def _refreshed(bundle: Bundle) -> Fact[int]:
    said = bundle.output("update-metadata")
    if isinstance(said, Known) and not said.value.strip():
        return Absent(said.source)
    return derived(said, lambda text: max(int(line.split(" ", 1)[0]) for line in text.splitlines()))


def _pending(bundle: Bundle, packages: Packages) -> Fact[tuple[Update, ...]]:
    if not isinstance(packages.kind, Known) or not isinstance(packages.all, Known):
        return packages.all if isinstance(packages.all, Unknown) else Unknown("it is not known what is installed")
    installed = packages.all.value
    if packages.kind.value == "deb":
        lists = bundle.output("security-lists")
        if isinstance(lists, Known) and lists.value.split() == ["end"]:
            return Unknown("apt never fetched the list of a security archive: is one among its sources?")
        offers = derived(lists, lambda text: _of_apt(text, installed))
        return Unknown("this apt cannot show its lists") if isinstance(offers, Absent) else offers
    listed = derived(bundle.output("rpm-security"), lambda text: _of_rpm(text, installed))
    return Unknown("there is neither dnf nor yum") if isinstance(listed, Absent) else listed


def _of_apt(text: str, installed: dict[str, Package]) -> tuple[Update, ...]:
    """Lines "list PATH", "offer NAME VERSION ARCH", and "end"."""
    lines = text.splitlines()
    if lines[-1:] != ["end"]:
        raise ValueError("the list has no end")
    newest: dict[tuple[str, str], str] = {}
    for line in lines:
        kind, *words = line.split()
        if kind == "offer":
            name, version, arch = words
            known = newest.get((name, arch))
            newest[name, arch] = version if known is None or compare_deb(version, known) > 0 else known
    found = (
        Update(one.name, one.version, offered)
        for one in installed.values()
        if (offered := newest.get((one.name, one.arch))) and compare_deb(offered, one.version) > 0
    )
    return tuple(sorted(found, key=lambda update: update.name))


def _of_rpm(text: str, installed: dict[str, Package]) -> tuple[Update, ...]:
    """ADVISORY SEVERITY/Sec. NEVRA; of dnf 5: NAME TYPE SEVERITY PACKAGE ISSUED. The newest of each package counts."""
    newest: dict[str, Update] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or not _ADVISORY.fullmatch(words[0]):
            continue
        severity, nevra = (words[2], words[3]) if len(words) > 3 else (words[1].split("/")[0], words[2])
        match = _NEVRA.fullmatch(nevra)
        if match is None:
            raise ValueError(f"{nevra[:60]!r} is no package")
        name, offered = match["name"], match["evr"]
        if name not in newest or compare_rpm(offered, newest[name].offered) > 0:
            here = installed.get(name)
            newest[name] = Update(name, here.version if here else "", offered, words[0], severity)
    return tuple(newest[name] for name in sorted(newest))


def _enabled(text: str) -> tuple[str, ...]:
    """Lines "/sys/kernel/livepatch/NAME/enabled 1"."""
    rows = (line.split() for line in text.splitlines() if line.strip())
    return tuple(path.split("/")[-2] for path, state in rows if state == "1")


def _xen(text: str) -> XenBuild:
    info = dict(_XEN_KEY.findall(text))
    point = re.match(r"\.(\d+)", info["xen_extra"].strip())
    release = f"{int(info['xen_major'])}.{int(info['xen_minor'])}.{int(point[1]) if point else 0}"
    build_id = info.get("build_id", "").strip()
    return XenBuild(
        release=release,
        extra=info["xen_extra"].strip()[point.end() if point else 0 :],
        build_id=build_id if re.fullmatch("[0-9a-f]{8,}", build_id) else "",
        command_line=tuple(info.get("xen_commandline", "").split()),
    )


def _images(text: str) -> tuple[XenImage, ...]:
    rows = (line.split(" ", 1) for line in text.splitlines() if line.strip())
    return tuple(XenImage(path, "" if build_id == "-" else build_id) for build_id, path in rows)


def _applied(text: str) -> tuple[str, ...]:
    """ID | STATUS of xen-livepatch list."""
    rows = (line.split("|") for line in text.splitlines() if "|" in line)
    return tuple(row[0].strip() for row in rows if row[1].strip().startswith("APPLIED"))
