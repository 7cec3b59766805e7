# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area ACC: see the catalogue."""

from __future__ import annotations

from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, fix
from donjon.harden.editors import assignments, directives
from donjon.harden.services import SSHD_RELOADED, libvirt_restarted

SSHD_DROP_IN = "/etc/ssh/sshd_config.d/00-donjon.conf"
"""Debian's, Ubuntu's and RHEL 9's sshd_config include the folder in their first line, and the first value holds."""


def sshd_set(title: str, **values: str) -> Change:
    """These settings are in force in sshd, or all is undone; what else changes in `sshd -T` is shown when planning."""
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    return Change(
        title,
        (Edit(SSHD_DROP_IN, directives(values), mode=0o600),),
        activate=(SSHD_RELOADED,),
        tests=(_IN_FORCE.format(settings=text),),
        preview=_PREVIEW.format(settings=text),
        note="open sessions stay",
    )


_PREVIEW = """\
grep -qi '^[[:space:]]*include.*sshd_config.d' "$ROOT/etc/ssh/sshd_config" || {{
    echo 'sshd_config does not include the folder sshd_config.d'
    exit 1
}}
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
def no_root_password_over_ssh(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Root logs in over ssh with a key, if at all."""
    return sshd_set("root cannot log in over ssh with a password", permitrootlogin="prohibit-password")


@fix("ACC-10")
def libvirt_sockets_ask(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Whoever is not in the group libvirt is asked by polkit."""
    values = {"unix_sock_group": '"libvirt"', "unix_sock_rw_perms": '"0770"', "auth_unix_rw": '"polkit"'}
    daemon = result.subject if result.subject in ("libvirtd", "virtqemud", "virtproxyd") else "libvirtd"
    return Change(
        f"the sockets of {daemon} need authorisation",
        (Edit(f"/etc/libvirt/{daemon}.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
    )
