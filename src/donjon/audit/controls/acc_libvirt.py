# SPDX-License-Identifier: Apache-2.0
"""Rules ACC-10 and ACC-11: who may tell libvirt what to do; see the catalogue.

Source: libvirtd.conf: auth_unix_rw is "polkit" and unix_sock_rw_perms "0777" unless set, "none" and "0700" where
libvirt was built without polkit; where systemd opens the sockets, its SocketMode decides instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from donjon.audit.bundle import PathInfo
from donjon.audit.control import Context, control
from donjon.audit.fact import Known, Unknown, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.polkit import Grant
from donjon.audit.profile import Profile, matches
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

FOLDERS = ("/run/libvirt", "/var/run/libvirt")
_WRITABLE_SOCKET = re.compile(r"/libvirt-sock$|/virt[a-z]+d-sock$")
_NO_COMMANDS = ("virtlogd-sock", "virtlockd-sock")
"""These let in their own user only, and do not run VMs."""


@control("ACC-10")
def control_sockets_ask_who_it_is(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who can write to libvirt's socket is root on this host."""
    sockets = _control_sockets(host)
    if sockets:
        yield from each(sockets, lambda one: _judge_socket(one, host), subject=lambda one: one.path, none="")
        return
    open_to_all = [
        name
        for name, settings in sorted(need(host.libvirt.daemons, absent={}).items())
        if settings.get("auth_unix_rw") == "none" and str(settings.get("unix_sock_rw_perms", "0"))[-1] in "2367"
    ]
    for name in open_to_all:
        yield failed(f"{name} will let in anybody, when it is started", f"{name}.conf")
    if not open_to_all:
        yield not_applicable("no control socket of libvirt is there now")


def _control_sockets(host: Host) -> list[PathInfo]:
    """Those in /run/libvirt; seen twice where /var/run is a link to it."""
    found: dict[str, PathInfo] = {}
    unseen = ""
    for folder in FOLDERS:
        below = host.paths.below(folder)
        if isinstance(below, Known):
            sockets = [one for one in below.value if one.kind == "s" and _WRITABLE_SOCKET.search(one.path)]
            found = {one.path.rpartition("/")[2]: one for one in sockets} | found
        elif isinstance(below, Unknown):
            unseen = unseen or below.reason
    if unseen and not found:
        need(Unknown(unseen))
    return [one for name, one in sorted(found.items()) if name not in _NO_COMMANDS]


def _judge_socket(socket: PathInfo, host: Host) -> Verdict:
    name = socket.path.rpartition("/")[2].removesuffix("-sock")
    daemons = need(host.libvirt.daemons, absent={})
    asked = ("libvirtd", "virtproxyd") if name == "libvirt" else (name,)
    methods = {str(daemons.get(one, {}).get("auth_unix_rw", "")) for one in asked}
    evidence: dict[str, Any] = {"mode": socket.shown, "auth_unix_rw": sorted(methods - {""}) or "not set (polkit)"}
    if not socket.others & 2:
        return passed(f"only {socket.user} and group {socket.group} can write to it", **evidence)
    if "none" in methods:
        return failed(f"anybody on the host can control VMs through {socket.path}", **evidence)
    if methods - {"", "polkit"}:
        return passed("it asks for a password", **evidence)
    if any(one.name.startswith("polkitd") for one in need(host.processes.all)):
        return passed("it asks polkit", polkitd="running", **evidence)
    unit = need(host.units.all, absent={}).get("polkit.service")
    if unit is not None and unit.enabled != "masked":
        return passed("it asks polkit", polkitd="started when it is asked", **evidence)
    text = f"{socket.path} asks polkit, which does not run: nobody but root gets in"
    return failed(text, lower=1, polkitd="not running", **evidence)


@control("ACC-11")
def polkit_grants_to_admins_only(host: Host, context: Context) -> Iterable[Verdict]:
    """A rule that answers yes gives the host away without a password."""
    grants = need(host.accounts.polkit)
    folders = [host.paths.at(path) for path in ("/etc/polkit-1", "/usr/share/polkit-1/rules.d")]
    if not grants and not any(isinstance(one, Known) for one in folders):
        yield not_applicable("polkit is not here")
        return
    if not grants:
        yield passed("polkit lets nobody manage libvirt without a password")
        return
    yield from each(
        grants, lambda grant: _judge_grant(grant, host, context.profile), subject=lambda grant: grant.where, none=""
    )


def _judge_grant(grant: Grant, host: Host, profile: Profile) -> Verdict:
    evidence: dict[str, Any] = {"users": grant.users, "groups": grant.groups}
    if not grant.users and not grant.groups:
        return failed("polkit lets anybody manage libvirt without a password", **evidence)
    groups = need(host.accounts.groups)
    members = {member for name in grant.groups if name in groups for member in groups[name].members}
    strangers = sorted(one for one in {*grant.users, *members} if not matches(one, profile.allow.admins))
    if strangers:
        return failed(f"polkit lets {', '.join(strangers)} manage libvirt without a password", **evidence)
    if not grant.clear:
        return unknown("whom this rule lets in cannot be told without running it")
    return passed("polkit lets only admins manage libvirt without a password", **evidence)
