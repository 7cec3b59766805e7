# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area PAT: see the catalogue. None of them installs anything.

Source: virtlogd(8) and virtlockd(8): SIGUSR1, which is their reload, starts the program anew without closing what
guests use; sshd(8): SIGHUP does so, too; sources.list(5), apt.conf(5), dnf.conf(5).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.facts.sources import WeakSource
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, Edit, fix
from donjon.harden.editors import Rewrite, in_section
from donjon.harden.services import SSHD_RELOADED, libvirt_restarted, reloaded, restarted

_KEEP_GUESTS_FILES = ("virtlogd", "virtlockd")
_LIBVIRT = ("libvirtd", "virt*d")
# What cannot be fetched now does not undo the rest of a plan: the next audit tells.
_REFRESH = {
    "deb": "apt-get -q update -o Acquire::Retries=0 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 || :",
    "rpm": "if command -v dnf >/dev/null 2>&1; then dnf -q makecache || :; else yum -q makecache || :; fi",
}
_OPPOSITE = {
    **dict.fromkeys(("yes", "true", "1", "on", "enable", "with"), "false"),
    **dict.fromkeys(("no", "false", "0", "off", "disable", "without"), "true"),
}


@fix("PAT-03")
def metadata_is_fresh(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The package manager asks its sources what is new; None for advisories, which donjon imports elsewhere."""
    kind = need(host.packages.kind)
    if result.subject != "package manager" or kind not in _REFRESH:
        return None
    fetch = Command("fetch what package sources offer", _REFRESH[kind], ":")
    return Change("the package manager knows what its sources offer", (fetch,), note="nothing is installed")


@fix("PAT-09")
def daemons_are_the_newest(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A management daemon runs the program that is installed; guests that run must be the same afterwards.

    None for daemons that guests or their networks would notice: Xen's, Open vSwitch's, swtpm, and libvirt's dnsmasq.
    """
    again = _again(result.subject, host)
    if not again:
        return None
    return Change(
        f"{result.subject} runs what is installed",
        (Command(f"start {result.subject} anew", again, ":"),),
        note="guests keep running",
    )


def _again(daemon: str, host: Host) -> str:
    if daemon == "sshd":
        return SSHD_RELOADED
    if daemon in _KEEP_GUESTS_FILES:
        return f"with_guests {reloaded(daemon)}"
    if any(fnmatchcase(daemon, pattern) for pattern in _LIBVIRT):
        usual = daemon in {"libvirtd", "virtqemud", "virtproxyd"}
        return libvirt_restarted() if usual else f"with_guests {restarted(daemon)}"
    if daemon == "dnsmasq" and not _serves_guests(host):
        return restarted("dnsmasq")
    return ""


def _serves_guests(host: Host) -> bool:
    return any("/libvirt" in " ".join(one.arguments) for one in need(host.processes.all) if one.name == "dnsmasq")


@fix("PAT-11")
def package_signatures_are_enforced(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A source must prove who made its packages; one that cannot gives none any more."""
    weak = next((one for one in need(host.updates.weak_sources) if f"{one.path}: {one.what}" == result.subject), None)
    if weak is None:
        return None
    return Change(
        f"{weak.path} does without {weak.what}",
        (Edit(weak.path, _strict(weak)),),
        note="a source that does not pass this check gives no packages any more",
    )


def _strict(weak: WeakSource) -> Rewrite:
    if "/apt.conf" in weak.path:
        return _apt_setting(weak.what)
    if weak.path.startswith("/etc/apt/"):
        return lambda text: _apt_source(text, weak.what)
    section, _, setting = weak.what.rpartition("] ")
    return in_section(section.removeprefix("[") or "main", {re.split(r"\W", setting)[0]: "1"})


def _apt_setting(what: str) -> Rewrite:
    name, value = what.split()
    setting = re.compile(rf'(?m)^(?!\s*(?://|#))(.*\b{re.escape(name)}\s+)("?){re.escape(value)}\b', re.IGNORECASE)
    return lambda text: setting.sub(rf"\1\2{_OPPOSITE[value.lower()]}", text)


def _apt_source(text: str, what: str) -> str:
    """Of a line, the word within brackets, and brackets that are empty then; of a paragraph, the field."""
    if ":" in what:
        return re.sub(rf"(?m)^{re.escape(what)}[ \t]*\n?", "", text)

    def options(found: re.Match[str]) -> str:
        kept = [word for word in found[2].split() if word != what]
        return f"{found[1]}[{' '.join(kept)}] " if kept else found[1]

    return re.sub(r"(?m)^(\s*deb(?:-src)?\s+)\[([^\]\n]*)\][ \t]*", options, text)
