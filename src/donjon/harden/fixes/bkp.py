# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area BKP: passwords of repositories, rights of donjon's services, and guests that were left frozen.

Sources: systemd.exec(5); virsh(1), domfsthaw.
"""

from __future__ import annotations

import re

from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, Edit, Permissions, fix, words
from donjon.harden.editors import in_section

_DEBT = "guest.thaw"
_SERVICE = re.compile(r"/(?:[\w.-]+/)+([\w@.-]+\.service)")
_RELOADED = '[ ! -d "$ROOT/run/systemd/system" ] || systemctl daemon-reload'


@fix("BKP-03")
def passwords_private(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Root alone reads a file with a repository's password."""
    if not result.subject.startswith("/"):
        return None
    users = {
        found[1]
        for text in need(host.recovery.units, absent={}).values()
        for found in re.finditer(r"(?m)^User=(\S+)", text)
    }
    if users - {"root"}:
        raise Unseen(f"donjon runs as {', '.join(sorted(users))}: give it the password by LoadCredential= first")
    wanted = Permissions(result.subject, at_most=0o600, owner="root:root")
    return Change(f"root alone reads {result.subject}", (wanted,))


@fix("BKP-05")
def traffic_encrypted(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Raises Unseen: what serves disks or a repository in the clear must be told so itself, and its clients, too."""
    raise Unseen("server and clients must change together: TLS on the server first, then the repository's location")


@fix("BKP-07")
def services_shut_in(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A service of donjon gains no rights, and cannot write to the system's programs and configuration."""
    service = _SERVICE.fullmatch(result.subject)
    if not service:
        return None
    values = {"NoNewPrivileges": "yes", "ProtectSystem": "full"}
    path = f"/etc/systemd/system/{service[1]}.d/50-least-rights.conf"
    return Change(
        f"{service[1]} has the least rights it can do with",
        (Edit(path, in_section("Service", values), mode=0o644),),
        activate=(_RELOADED,),
        note="in force when it is started the next time",
    )


@fix("BKP-08")
def guests_thawed(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Guests that a backup froze go on; what else was left behind may be wanted, and is gone for good once removed."""
    if result.subject != "frozen" or not isinstance(host.backup.owed, Known):
        raise Unseen("whether it is still needed, only a person can tell")
    frozen = sorted(one.subject for one in host.backup.owed.value if one.kind == _DEBT)
    return Change(
        "guests that were left frozen go on",
        tuple(Command(f"thaw {vm}", words("virsh", "domfsthaw", "--domain", vm), ":") for vm in frozen),
        guests=tuple(frozen),
    )
