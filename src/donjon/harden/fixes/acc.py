# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area ACC: see the catalogue.

Source: sshd_config(5); OpenSSH 8.2 brought Include, 8.7 renamed ChallengeResponseAuthentication.
"""

from __future__ import annotations

import re

from donjon.audit.controls.acc_ssh import WEAK
from donjon.audit.fact import Known, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Allow, Profile, matches
from donjon.harden.change import Change, Edit, Permissions, Want, fix
from donjon.harden.editors import assignments, directives, in_section
from donjon.harden.services import SSHD_RELOADED, libvirt_restarted

SSHD_CONFIG = "/etc/ssh/sshd_config"
SSHD_DROP_IN = "/etc/ssh/sshd_config.d/00-donjon.conf"
"""Debian's, Ubuntu's and RHEL 9's sshd_config include the folder in their first line, and the first value holds."""

INCLUDE_SINCE = (8, 2)
KEYBOARD_SINCE = (8, 7)
_SURFACE = {
    "x11forwarding": "no",
    "permittunnel": "no",
    "allowtcpforwarding": "no",
    "maxauthtries": "4",
    "logingracetime": "60",
}
_DAEMON_RELOAD = 'if [ -d "$ROOT/run/systemd/system" ]; then systemctl daemon-reload; fi'


def sshd_set(title: str, file: str = SSHD_DROP_IN, /, *, note: str = "", **values: str) -> Change:
    """These settings are in force in sshd, or all is undone; what else changes in `sshd -T` is shown when planning."""
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    included = _INCLUDED if file == SSHD_DROP_IN else ""
    return Change(
        title,
        (Edit(file, directives(values), mode=0o600),),
        activate=(SSHD_RELOADED,),
        tests=(_IN_FORCE.format(settings=text),),
        preview=included + _PREVIEW.format(settings=text),
        note="; ".join(filter(None, ("open sessions stay", note))),
    )


_INCLUDED = """\
grep -qi '^[[:space:]]*include.*sshd_config.d' "$ROOT/etc/ssh/sshd_config" || {
    echo 'sshd_config does not include the folder sshd_config.d'
    exit 1
}
"""
_PREVIEW = """\
{{ sshd -T | sed 's/^/-/'; {{ cat <<'SETTINGS'
{settings}SETTINGS
cat "$ROOT/etc/ssh/sshd_config"; }} | sshd -T -f /dev/stdin | sed 's/^/+/'; }} |
    sort -k1.2 | uniq -u -s 1"""
_IN_FORCE = """\
wanted=$({{ cat <<'SETTINGS'
{settings}SETTINGS
cat "$ROOT/etc/ssh/sshd_config"; }} | sshd -T -f /dev/stdin)
[ "$(sshd -T)" = "$wanted" ]"""


@fix("ACC-05")
def no_password_over_ssh(result: Result, host: Host, profile: Profile) -> Change | None:
    """Root logs in over ssh with a key, if at all; nobody with a password, if an admin has a key to come in by.

    None for Match blocks: what they are for, only their author knows.
    """
    if result.subject != "sshd":
        return None
    options = need(host.sshd.options)
    values: dict[str, str] = {}
    if options.get("permitrootlogin", ("",))[0].lower() in {"", "yes"}:
        values["permitrootlogin"] = "prohibit-password" if _version(host) >= (7, 0) else "without-password"
    if options.get("permitemptypasswords", ("no",))[0].lower() == "yes":
        values["permitemptypasswords"] = "no"
    if not _admin_has_key(host, profile):
        title = "root cannot log in over ssh with a password"
        return sshd_set(title, _file(host), **values) if values else None
    keyboard = "kbdinteractiveauthentication" if _version(host) >= KEYBOARD_SINCE else "challengeresponseauthentication"
    values |= {"passwordauthentication": "no", keyboard: "no"}
    return sshd_set("nobody logs in over ssh with a password", _file(host), note="who has no key is out", **values)


def _admin_has_key(host: Host, profile: Profile) -> bool:
    """Root's count only where root may come in."""
    root_may = need(host.sshd.options).get("permitrootlogin", ("yes",))[0].lower() not in {"no", "forced-commands-only"}
    users = {key.user for key in need(host.sshd.authorized_keys)}
    return any(matches(user, profile.allow.admins) and (user != "root" or root_may) for user in users)


@fix("ACC-06")
def ssh_cryptography_is_current(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """What sshd offers, without what is weak; None if nothing would be left, and for the host's own keys."""
    if result.subject not in WEAK:
        return None
    offered = need(host.sshd.options).get(result.subject, ("",))[0].split(",")
    kept = [name for name in offered if re.fullmatch(r"[\w@.-]+", name) and not WEAK[result.subject].search(name)]
    if not kept:
        return None
    title = f"sshd offers no weak {result.subject}"
    note = "old clients that know nothing better cannot log in"
    return sshd_set(title, _file(host), note=note, **{result.subject: ",".join(kept)})


@fix("ACC-07")
def ssh_surface_is_small(result: Result, host: Host, profile: Profile) -> Change | None:
    """Admins get a shell from sshd, and little else.

    None for the addresses it listens on, and for accounts unless the profile lists those of admins by name.
    """
    if result.subject == "allowusers":
        admins = profile.allow.admins
        if admins == Allow().admins or not all(re.fullmatch(r"[\w.*?-]+", name) for name in admins):
            return None
        return sshd_set("only admins log in over ssh", _file(host), allowusers=" ".join(admins))
    if result.subject not in _SURFACE:
        return None
    value = _SURFACE[result.subject]
    tunnels = "tunnels through this host end; virt-viewer over qemu+ssh does without"
    note = tunnels if result.subject == "allowtcpforwarding" else ""
    return sshd_set(f"sshd has {result.subject} {value}", _file(host), note=note, **{result.subject: value})


def _file(host: Host) -> str:
    """Where settings go: before OpenSSH 8.2 there is nothing to include."""
    return SSHD_DROP_IN if _version(host) >= INCLUDE_SINCE else SSHD_CONFIG


def _version(host: Host) -> tuple[int, int]:
    """Of OpenSSH; one that could not be seen is taken for new: the self-test tells if it is not."""
    return host.sshd.version.value if isinstance(host.sshd.version, Known) else (9, 0)


@fix("ACC-10")
def libvirt_sockets_ask(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Whoever is not in the group of the socket is asked by polkit; if that does not run, nobody else gets in."""
    daemons = need(host.libvirt.daemons, absent={})
    name = re.sub(r"-sock$|\.conf$", "", result.subject.rpartition("/")[2])
    daemon = next((one for one in ("libvirtd", "virtproxyd") if one in daemons), "") if name == "libvirt" else name
    if daemon not in daemons:
        return None
    if any(one.name.startswith("polkitd") for one in need(host.processes.all)):
        wants: list[Want] = [Edit(f"/etc/libvirt/{daemon}.conf", assignments({"auth_unix_rw": '"polkit"'}))]
    else:
        wants = [Edit(f"/etc/libvirt/{daemon}.conf", assignments({"unix_sock_rw_perms": '"0770"'}))]
        if need(host.units.init) == "systemd":
            drop_in = f"/etc/systemd/system/{daemon}.socket.d/donjon.conf"
            wants.append(Edit(drop_in, in_section("Socket", {"SocketMode": "0660"}), mode=0o644))
        if result.subject.startswith("/"):
            wants.append(Permissions(result.subject, at_most=0o770))
    return Change(
        f"the socket of {daemon} needs authorisation",
        tuple(wants),
        activate=(_DAEMON_RELOAD, libvirt_restarted()),
    )
