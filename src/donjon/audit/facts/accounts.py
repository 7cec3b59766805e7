# SPDX-License-Identifier: Apache-2.0
"""Users, groups, classes of password hashes, sudo rules, polkit rules.

Sources: passwd(5), shadow(5), crypt(5), lastlog(8), nsswitch.conf(5).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, derived, need
from donjon.audit.facts.polkit import Grant, read_grants
from donjon.audit.facts.sudoers import SudoRule, read_sudo_rules

NO_LOGIN = frozenset({"nologin", "false", "sync", "shutdown", "halt", "true", "git-shell"})
USABLE = frozenset({"empty", "hash", "des", "md5", "bcrypt", "sha256", "sha512", "scrypt", "yescrypt", "other"})
"""Classes of hashes of a password that somebody can log in with."""


class Account(Struct, frozen=True):
    """A local account. `password`: locked, empty, des, md5, sha512, ... or hash (in passwd itself), other."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    password: str
    changed: date | None = None
    """When the password was set, if shadow says."""

    @property
    def logs_in(self) -> bool:
        """It has a shell one can work in; an empty field is /bin/sh."""
        return self.shell.rpartition("/")[2] not in NO_LOGIN


class Group(Struct, frozen=True):
    """A group, and all who are in it: those it lists, and local accounts whose first group it is."""

    name: str
    gid: int
    members: tuple[str, ...]


class Accounts(Struct, frozen=True):
    """`last_logins`: account -> day, None for never; `services`: database of nsswitch.conf -> where it looks."""

    users: Fact[tuple[Account, ...]]
    groups: Fact[dict[str, Group]]
    last_logins: Fact[dict[str, date | None]]
    services: Fact[dict[str, tuple[str, ...]]]
    sudo: Fact[tuple[SudoRule, ...]]
    polkit: Fact[tuple[Grant, ...]]


def read_accounts(bundle: Bundle) -> Accounts:
    """From passwd, group and shadow as the target reduced them, sudoers, polkit's rules."""
    users = _users(bundle)
    return Accounts(
        users=users,
        groups=_groups(bundle, users),
        last_logins=derived(bundle.output("last-logins"), parse_last_logins),
        services=derived(bundle.text("/etc/nsswitch.conf"), _services),
        sudo=read_sudo_rules(bundle),
        polkit=read_grants(bundle),
    )


def _users(bundle: Bundle) -> Fact[tuple[Account, ...]]:
    shadow = derived(bundle.output("shadow-classes"), _parse_shadow)
    if not isinstance(shadow, Known):
        return shadow
    return derived(bundle.output("passwd"), lambda text: _parse_passwd(text, shadow.value))


def _parse_shadow(text: str) -> dict[str, tuple[str, date | None]]:
    found = {}
    for line in text.splitlines():
        name, password, changed = line.split(":")
        found[name] = (password, _day(int(changed)) if changed.isdigit() else None)
    return found


def _day(days: int) -> date:
    try:
        return date(1970, 1, 1) + timedelta(days)
    except OverflowError as error:
        raise ValueError(f"{days} days since 1970") from error


def _parse_passwd(text: str, shadow: dict[str, tuple[str, date | None]]) -> tuple[Account, ...]:
    found = []
    for line in text.splitlines():
        name, field, uid, gid, _, home, shell = line.split(":")
        password, changed = shadow.get(name, ("locked", None)) if field == "x" else (field or "empty", None)
        found.append(Account(name, int(uid), int(gid), home, shell, password, changed))
    if not any(account.uid == 0 for account in found):
        raise ValueError("root is missing")
    return tuple(found)


def _groups(bundle: Bundle, users: Fact[tuple[Account, ...]]) -> Fact[dict[str, Group]]:
    if not isinstance(users, Known):
        return users
    return derived(bundle.output("group"), lambda text: _parse_groups(text, users.value))


def _parse_groups(text: str, users: tuple[Account, ...]) -> dict[str, Group]:
    """The same group may come twice: from /etc/group, and from the directory service."""
    found: dict[str, Group] = {}
    for line in text.splitlines():
        name, gid, members = line.split(":")
        listed = {member for member in members.split(",") if member}
        first = {user.name for user in users if user.gid == int(gid)}
        before = found[name].members if name in found else ()
        found[name] = Group(name, int(gid), tuple(sorted({*listed, *first, *before})))
    if not found:
        raise ValueError("no group at all")
    return found


def parse_last_logins(text: str) -> dict[str, date | None]:
    """Account -> day (UTC) of the last login, of the output of lastlog."""
    found: dict[str, date | None] = {}
    for line in text.splitlines()[1:]:
        name = line.split()[0]
        match = re.search(r"(\w{3}) +(\d{1,2}) (\d\d:\d\d:\d\d) ([+-]\d{4}) (\d{4})$", line.rstrip())
        if match is None and "never logged in" not in line.lower():
            raise ValueError(f"no date of {name}")
        if match:
            when = datetime.strptime(" ".join(match.groups()), "%b %d %H:%M:%S %z %Y")
            found[name] = when.astimezone(UTC).date()
        else:
            found[name] = None
    return found


def _services(text: str) -> dict[str, tuple[str, ...]]:
    pairs = (line.partition("#")[0].partition(":") for line in text.splitlines())
    return {name.strip(): tuple(where.split()) for name, colon, where in pairs if colon}


def remote_service(accounts: Accounts, database: str) -> str:
    """The directory service that a database of nsswitch.conf asks besides local files; "" if there is none.

    Raises:
        Unseen: nsswitch.conf could not be seen.
    """
    services = need(accounts.services, absent={})
    return next((one for one in services.get(database, ()) if one in {"ldap", "sss", "winbind", "nis"}), "")
